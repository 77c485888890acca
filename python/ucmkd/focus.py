r"""A teacher that says only what its student can follow: the mask of modality focusing.

Xue, Gao, Ren and Zhao, "The Modality Focusing Hypothesis: Towards Understanding Crossmodal
Knowledge Distillation", ICLR 2023, algorithm 1, put in front of any method: heads of teacher and
student are trained together by ``CE(f_t, y) + CE(f_s, y) + MSE(f_t, f_s)``; the teacher's feature
channels of lowest saliency (:mod:`ucmkd.saliency`) are set to zero; its head is fitted again.

Departures. The labels need not be on the pairs: each cross-entropy is on its side's own labelled
samples, the MSE on the pairs, so that unlabelled pairs do. The teacher's encoder stays frozen and
its head is linear, so that channels keep their identity and the saliency is exact over all
permutations; the paper trains the whole teacher twice.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .batches import TrainingData
from .config import ConfigError, Recipe
from .models import Student
from .preparation import Prepared
from .saliency import general_channels, linear_saliency
from .teacher import build_model, cache_outputs, freeze


class FocusedTeacher(Student):
    """A frozen teacher with some channels at zero and a linear head for the others.

    Args:
        teacher: Frozen; its encoder is shared, not copied.
        mask: 1 for the channels that are kept, 0 for the others, ``(width,)``.
        head: ``(n, width)`` to ``(n, C)``.

    Attributes:
        mask: As given.
    """

    mask: Tensor

    def __init__(self, teacher: Student, mask: Tensor, head: nn.Linear) -> None:
        super().__init__()
        if mask.shape != (teacher.width,):
            raise ValueError(f"mask must have shape ({teacher.width},), got {tuple(mask.shape)}")
        self.teacher, self.width, self.head = teacher, teacher.width, head
        self.register_buffer("mask", mask)

    def encoder(self, inputs: Tensor) -> Tensor:
        """Features ``(n, width)``, zero where the mask is."""
        return self.teacher.encoder(inputs) * self.mask


def check_focus(recipe: Recipe, prepared: Prepared | None = None) -> None:
    """Refuse a focused teacher without pairs.

    Raises:
        ConfigError: ``teacher.focus`` above 0 and no pairs.
    """
    if not recipe.teacher.focus:
        return
    if recipe.data.pairs == 0 or (prepared is not None and prepared.paired_teacher is None):
        raise ConfigError(
            f"teacher.focus = {recipe.teacher.focus:g} needs pairs, on which teacher and student "
            "are compared: data.pairs must be a count, or -1 for all, and the data must have some "
            f"(data.pairs = {recipe.data.pairs}); without pairs every method runs with focus 0"
        )


def focused(
    recipe: Recipe, prepared: Prepared, teacher: Student, device: torch.device | str = "cpu"
) -> Student:
    """The teacher with ``teacher.focus`` of its channels at zero; itself where that is 0.

    The trainings are as long as the teacher's own (``teacher.steps``, ``batch_size``, ``lr``,
    ``weight_decay``), with AdamW and the global random generator seeded by ``recipe.seed``.

    Args:
        recipe: Of the run.
        prepared: Both sides, with pairs.
        teacher: Frozen, in evaluation mode, on ``device``.
        device: Where to train.

    Raises:
        ConfigError: No pairs.
    """
    check_focus(recipe, prepared)
    config = recipe.teacher
    if not config.focus:
        return teacher
    assert prepared.paired_teacher is not None
    torch.manual_seed(recipe.seed)
    own = prepared.teacher.to(device)
    features = cache_outputs(teacher, own.student)[0]
    paired = cache_outputs(teacher, prepared.paired_teacher.to(device))[0]
    student_data = prepared.student.to(device)
    if config.focus_channels == "chance":
        order = torch.rand(teacher.width, device=features.device)
    else:
        order = _saliency(recipe, own, features, paired, student_data)
    mask = general_channels(order, config.focus).to(features)
    head = nn.Linear(teacher.width, own.num_classes).to(features)
    train = torch.optim.AdamW(head.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    for _ in range(config.steps):
        rows = _rows(len(features), config.batch_size, features.device)
        loss = F.cross_entropy(head(features[rows] * mask), own.student_label[rows])
        train.zero_grad()
        loss.backward()
        train.step()
    found = FocusedTeacher(teacher, mask, head)
    freeze(found)
    return found


def _saliency(
    recipe: Recipe, own: TrainingData, features: Tensor, paired: Tensor, student: TrainingData
) -> Tensor:
    """Of every channel ``(width,)``, after training a head and a student together."""
    config = recipe.teacher
    assert student.paired is not None
    head = nn.Linear(features.shape[1], own.num_classes).to(features)
    other = build_model(recipe.student, student.student, student.num_classes).to(features.device)
    other.train()
    parameters = [*head.parameters(), *other.parameters()]
    train = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    for _ in range(config.steps):
        a, b, c = (
            _rows(len(pool), config.batch_size, features.device)
            for pool in (features, student.student, paired)
        )
        loss = (
            F.cross_entropy(head(features[a]), own.student_label[a])
            + F.cross_entropy(other(student.student[b]), student.student_label[b])
            + F.mse_loss(head(paired[c]), other(student.paired[c]))
        )
        train.zero_grad()
        loss.backward()
        train.step()
    freeze(other)
    logits = cache_outputs(other, student.paired)[1]
    with torch.no_grad():
        return linear_saliency(logits - head.bias, paired, head.weight)


def _rows(count: int, batch_size: int, device: torch.device) -> Tensor:
    return torch.randperm(count)[:batch_size].to(device)
