"""AMID: information shared with a teacher that an auxiliary modality keeps from becoming weak."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ucmkd.losses._common import full_precision, wide
from ucmkd.methods import checks
from ucmkd.methods.adversary import Adversary
from ucmkd.methods.base import Batch
from ucmkd.methods.modalities import checked
from ucmkd.methods.pairs import PairMethod
from ucmkd.models import MLP, Student


def information_bound(scores: Tensor) -> Tensor:
    r"""A lower bound of the mutual information, in nats, by noise-contrastive estimation.

    .. math:: \log N + \frac1p\sum_i \log h_{ii} + \frac1p\sum_{i \ne j} \log(1 - h_{ij}),
        \qquad h_{ij} = \sigma(u_{ij} - \log N),\; N = p - 1

    Its mean is largest where u is the logarithm of the density ratio r, and lies then below the
    mutual information by ``E log(1 + r/N)`` and by the last sum, about one nat; it cannot show more
    than ``log N`` (Tian et al., "Contrastive representation distillation", ICLR 2020).

    Args:
        scores: u ``(p, p)``, row i and column i of the same sample, all others of two.

    Returns:
        A 0-d tensor; 0 for one sample, which has none to be told from.
    """
    p = len(scores)
    if p < 2:
        return wide(scores).sum() * 0
    shifted = wide(scores) - math.log(p - 1)
    told = F.logsigmoid(shifted).diagonal().sum()
    others = F.logsigmoid(-shifted)
    return math.log(p - 1) + (told + others.sum() - others.diagonal().sum()) / p


class Critic(nn.Module):
    """``u_ij = cos(A x_i, B y_j) / τ + c``, with A, B and c learned.

    Args:
        width: Of x.
        other_width: Of y.
        embedding: Rows of A and B.
        temperature: τ > 0.
    """

    def __init__(self, width: int, other_width: int, embedding: int, temperature: float) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, embedding), nn.Linear(other_width, embedding)
        self.offset = nn.Parameter(torch.zeros(()))
        self.temperature = temperature

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores ``(p, p)`` of features ``(p, width)`` and ``(p, other_width)``."""
        rows = [F.normalize(wide(v), dim=-1) for v in (self.first(x), self.second(y))]
        with full_precision(rows[0]):
            return rows[0] @ rows[1].T / self.temperature + self.offset


class AMID(PairMethod):
    r"""``amid``: three cross-entropies ``- α I(S;T) - β I(T;A) + γ H(T|S)``.

    Chen et al., "Enhanced multimodal representation learning with cross-modal KD", CVPR 2023.
    A teacher that is trained for ``I(S;T)`` can reach the largest by knowing no more than the
    student. The auxiliary network A, of the teacher's last modality alone, is to prevent that.

    A *reconstruction*, as no code is published: the informations are
    :func:`information_bound`, ``H(T|S)`` is made small by a game
    (:class:`ucmkd.methods.adversary.Adversary`), in which the teacher takes no part. The teacher
    sees all modalities of its side, A the last of them; in the paper's setting the others are the
    student's. The teacher starts as it was trained alone and goes on with its own labelled samples;
    it meets the student on the pairs, and A on these and its own samples. A learns from labels
    alone, or it could become weak as well. α = 0 leaves plain supervised training, β = 0 the
    shortcut open.

    Only features are compared, so that a placebo's permuted class names reach the student nowhere.

    Terms: ``ce``, ``teacher_ce``, ``auxiliary_ce``, ``student_teacher`` and ``teacher_auxiliary``
    (negative bounds), ``adversary``, ``judge``; with labelled pairs ``pair_ce`` (weight 1).

    Args:
        student: The model to train.
        modalities: Those of the student's inputs; not used.
        teacher_modalities: Columns of each modality in the teacher's inputs; the last is auxiliary.
        weight: α ≥ 0.
        auxiliary_weight: β ≥ 0.
        adversarial_weight: γ ≥ 0.
        temperature: τ > 0 of the critics.
        embedding: Their width, ≥ 1.
        hidden: Units of the auxiliary network and of the game's two, ≥ 1.
        dropout: Of the auxiliary network.
        **options: The options of :class:`ucmkd.methods.Method`; ``teacher_head`` is the whole
            teacher, a :class:`ucmkd.models.Student` of inputs ``(n, d_T)``.

    Raises:
        TypeError: An option of the wrong type, or a teacher without features.
        ValueError: An option out of range, or a teacher of one modality.
    """

    name: ClassVar[str] = "amid"
    needs_head = True
    teacher_inputs = True
    requires = ("paired", "paired_teacher_feature", "teacher_feature", "teacher_label")

    def __init__(
        self,
        student: Student,
        *,
        modalities: Mapping[str, int] | None = None,
        teacher_modalities: Mapping[str, int] | None = None,
        weight: float = 1.0,
        auxiliary_weight: float = 1.0,
        adversarial_weight: float = 0.1,
        temperature: float = 0.1,
        embedding: int = 64,
        hidden: int = 128,
        dropout: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(student, **options)
        named = {"weight": weight, "auxiliary_weight": auxiliary_weight}
        for name, value in {**named, "adversarial_weight": adversarial_weight}.items():
            checks.number(name, value)
        checks.number("temperature", temperature, strict=True)
        checks.number("dropout", dropout, below=1.0)
        checks.integer("embedding", embedding, minimum=1)
        checks.integer("hidden", hidden, minimum=1)
        if not isinstance(self.teacher_head, Student):
            raise TypeError(
                "amid needs teacher_head, all of the teacher, as a ucmkd.models.Student, got "
                f"{type(self.teacher_head).__name__}"
            )
        parts = checked(self.name, "teacher_modalities", teacher_modalities, self.teacher_width)
        self.auxiliary_columns = list(parts.values())[-1]
        self.weight, self.auxiliary_weight = weight, auxiliary_weight
        self.adversarial_weight = adversarial_weight
        # It is trained: what the frozen copy was, and the caller's own stays as it is.
        self.teacher = copy.deepcopy(self.teacher_head).requires_grad_(True)
        self.teacher_head = None
        self.auxiliary = MLP(
            self.auxiliary_columns, num_classes=self.num_classes, hidden=hidden, dropout=dropout
        )
        widths = student.width, self.teacher.width, self.auxiliary.width
        self.student_teacher = Critic(*widths[:2], embedding, temperature)
        self.teacher_auxiliary = Critic(*widths[1:], embedding, temperature)
        self.game = Adversary(*widths[:2], hidden)

    def weights(self, step: int) -> dict[str, float]:
        """α and β for the two informations, γ for the guess; 1 for all others."""
        names = ("ce", "teacher_ce", "auxiliary_ce", "judge", "pair_ce")
        informed = {"student_teacher": self.weight, "teacher_auxiliary": self.auxiliary_weight}
        return {**dict.fromkeys(names, 1.0), **informed, "adversary": self.adversarial_weight}

    def pair_terms(self, features: Tensor, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """All but ``ce``; see the class."""
        inputs, label = batch.teacher_feature, batch.teacher_label
        assert inputs is not None and label is not None and batch.paired_teacher_feature is not None
        m, rows = len(inputs), torch.cat((inputs, batch.paired_teacher_feature))
        t, t_logits = self.teacher.outputs(rows)
        a, a_logits = self.auxiliary.outputs(rows[:, -self.auxiliary_columns :])
        adversary, judge = self.game.losses(features, t[m:])
        return {
            "teacher_ce": self.cross_entropy(t_logits[:m], label),
            "auxiliary_ce": self.cross_entropy(a_logits[:m], label),
            "student_teacher": -information_bound(self.student_teacher(features, t[m:])),
            "teacher_auxiliary": -information_bound(self.teacher_auxiliary(t, a.detach())),
            "adversary": adversary,
            "judge": judge,
        }

    def joint_teacher(self) -> Student:
        """The teacher that was trained along."""
        return self.teacher
