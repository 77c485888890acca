"""DisCoM-KD: both modalities trained at once, and what they share told from what they do not."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ucmkd.diagnostics import collecting, report
from ucmkd.losses._common import unit_rows, wide
from ucmkd.methods import checks
from ucmkd.methods.base import Batch, Method
from ucmkd.methods.disentangled import Disentangled, Parts
from ucmkd.methods.reversal import reverse_gradient
from ucmkd.models import Student


def modality_loss(logits: Tensor, other_logits: Tensor) -> Tensor:
    """``-mean log p(0|z) - mean log p(1|z')``: class 0 the student's modality, 1 the other.

    Args:
        logits: Of the student's samples, ``(n, 2)``.
        other_logits: Of the other modality's, ``(m, 2)``.

    Returns:
        A 0-d tensor; 2 log 2 when nothing is known.
    """
    own, other = (wide(z).log_softmax(-1) for z in (logits, other_logits))
    return -own[:, 0].mean() - other[:, 1].mean()


def modality_accuracy(logits: Tensor, other_logits: Tensor) -> Tensor:
    """Balanced accuracy of telling the modalities, so that chance is ½ whatever n and m are.

    Args:
        logits: Of the student's samples, ``(n, 2)``.
        other_logits: Of the other modality's, ``(m, 2)``.
    """
    right = (logits[:, 0] > logits[:, 1]).double().mean()
    return (right + (other_logits[:, 1] >= other_logits[:, 0]).double().mean()) / 2


def orthogonality_loss(parts: Parts) -> Tensor:
    """``mean cos(z_inf, z_irr) + mean cos(z_inf, z_inv)`` over the samples of one modality.

    Least where they are orthogonal if no feature is negative, as behind a ReLU.
    """
    invariant, informative, irrelevant = (unit_rows(z) for z in parts)
    return (informative * (irrelevant + invariant)).sum(-1).mean()


class DisCoMKD(Method):
    r"""``discom_kd``: two modalities without pairs, trained at once and disentangled.

    Ienco and Dantas, BMVC 2024 (arXiv 2408.07080; code ``tanodino/CMKD_Disentangle``). There is no
    teacher: in the other modality a model (the recipe's section ``teacher``) is trained along and
    left behind. Each modality m has the features of
    :class:`ucmkd.methods.disentangled.Disentangled`, and for both

    .. math::
        \sum_m CE(h_m[z_{inv}, z_{inf}]) + CE(c(z_{inv})) + CE(c(z_{inf}))
        + CE(d(R z_{inv}), m) + CE(e(z_{inf}), m) + CE(e'(z_{irr}), m)
        + \cos(z_{inf}, z_{irr}) + \cos(z_{inf}, z_{inv})

    is descended, h the head of a modality, c, d, e, e' linear and common to both, R the gradient's
    reversal. The five sums are the terms ``ce`` and ``peer_ce``, ``auxiliary``, ``adversarial``,
    ``modality`` and ``orthogonality``, all of weight 1, λ of R 1, as in the paper.

    Departures. The modality is a class index: the released code's float targets, (1, 1) for one and
    (0, 0) for the other, cannot teach d, e and e' to tell them. Terms are sums over the modalities,
    where theirs are means over the samples of both: twice as much at equal batch sizes, four times
    for ``modality``, whose two parts they average too. The second encoder of a modality starts as a
    copy of the first. They train with Adam at 1e-4, batches of 128, for 300 epochs, and select by
    weighted F1; here the recipe says.

    A diagnosis reports ``modality/invariant``, ``modality/informative`` and
    ``modality/irrelevant``, the balanced accuracy of d, e and e' on the batch.

    The discriminator is linear, as theirs, and trained along; that it is at chance does not mean
    that nothing tells the modality (``study/discom_kd``).

    With a placebo the other modality's classes are permuted, and so are its class frequencies.

    Terms: ``ce``, ``peer_ce``, ``auxiliary``, ``adversarial``, ``modality``, ``orthogonality``.

    Args:
        student: The model to train; its width is even.
        auxiliary: Weight ≥ 0 of c.
        adversarial: Weight ≥ 0 of d.
        modality: Weight ≥ 0 of e and e'.
        orthogonality: Weight ≥ 0 of the cosines.
        reversal: λ ≥ 0, how much more the encoders ascend the adversarial term than d descends it.
        peer: The model of the other modality, of the student's width.
        **options: The options of :class:`ucmkd.methods.Method`.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: An option out of range, no ``peer``, or an odd or different width.
    """

    name: ClassVar[str] = "discom_kd"
    needs_peer = True
    requires = ("teacher_input", "teacher_label")

    def __init__(
        self,
        student: Student,
        *,
        auxiliary: float = 1.0,
        adversarial: float = 1.0,
        modality: float = 1.0,
        orthogonality: float = 1.0,
        reversal: float = 1.0,
        peer: Student | None = None,
        **options: Any,
    ) -> None:
        super().__init__(student, peer=peer, **options)
        assert peer is not None  # the base class has seen to it
        self._weights = {
            "ce": 1.0,
            "peer_ce": 1.0,
            "auxiliary": auxiliary,
            "adversarial": adversarial,
            "modality": modality,
            "orthogonality": orthogonality,
        }
        for name in ("auxiliary", "adversarial", "modality", "orthogonality"):
            checks.number(name, self._weights[name])
        checks.number("reversal", reversal)
        self.reversal = float(reversal)
        if peer.width != student.width:
            raise ValueError(
                "peer must have as many features as the student, since both are told apart by one "
                f"discriminator: got {peer.width} and {student.width} (teacher.width and "
                "student.width of a recipe)"
            )
        self.own, self.other = Disentangled(student), Disentangled(peer)
        half = student.width // 2
        self.classifier = nn.Linear(half, self.num_classes)
        self.discriminator = nn.Linear(half, 2)
        self.tell_informative = nn.Linear(half, 2)
        self.tell_irrelevant = nn.Linear(half, 2)

    def weights(self, step: int) -> dict[str, float]:
        """1 for ``ce`` and ``peer_ce``, the options for the others."""
        return dict(self._weights)

    def terms(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The six terms; reports how well the modalities are told apart.

        Raises:
            ValueError: In training, a single sample of a modality.
        """
        assert batch.teacher_input is not None and batch.teacher_label is not None
        if self.training and min(len(batch.student), len(batch.teacher_input)) < 2:
            raise ValueError(
                "discom_kd needs at least 2 samples of each modality in a training step, for its "
                f"batch normalisation; got {len(batch.student)} of the student and "
                f"{len(batch.teacher_input)} of the other (batch_size, teacher_batch_size)"
            )
        both = self.own.parts(batch.student), self.other.parts(batch.teacher_input)
        label = batch.student_label, batch.teacher_label
        told = {
            "invariant": [
                self.discriminator(reverse_gradient(z.invariant, self.reversal)) for z in both
            ],
            "informative": [self.tell_informative(z.informative) for z in both],
            "irrelevant": [self.tell_irrelevant(z.irrelevant) for z in both],
        }
        if collecting():
            for name, logits in told.items():
                report(f"modality/{name}", modality_accuracy(*logits))
        auxiliary = [
            self.cross_entropy(self.classifier(z), y)
            for parts, y in zip(both, label, strict=True)
            for z in (parts.invariant, parts.informative)
        ]
        return {
            "ce": self.cross_entropy(self.own.head(both[0].useful), label[0]),
            "peer_ce": self.cross_entropy(self.other.head(both[1].useful), label[1]),
            "auxiliary": torch.stack(auxiliary).sum(),
            "adversarial": modality_loss(*told["invariant"]),
            "modality": modality_loss(*told["informative"]) + modality_loss(*told["irrelevant"]),
            "orthogonality": orthogonality_loss(both[0]) + orthogonality_loss(both[1]),
        }

    def predict(self, inputs: Tensor) -> Tensor:
        """Logits ``(n, C)`` of the student's two useful features."""
        return self.own(inputs)

    def deployed(self) -> Student:
        """The student with its second encoder; predicts alone what :meth:`predict` does."""
        return copy.deepcopy(self.own)
