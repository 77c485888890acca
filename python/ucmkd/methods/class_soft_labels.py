"""Soft labels of a class: what the teacher says on average about that class, without pairs."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ucmkd.losses._common import wide
from ucmkd.methods import checks
from ucmkd.methods.base import Batch, Method
from ucmkd.methods.class_means import RunningClassMeans
from ucmkd.models import Student


def class_soft_label_loss(
    logits: Tensor,
    target: Tensor,
    soft_label: Tensor,
    *,
    temperature: float = 2.0,
    known: Tensor | None = None,
) -> Tensor:
    r"""``T² KL(q_y || p_S)``, the teacher's mean softened prediction q of the sample's class.

    .. math:: \frac{T^2}{n'}\sum_{i: y_i\ \mathrm{known}} \sum_c q_{y_i c}\,
        \bigl(\log q_{y_i c} - \log p_{S,c}(x_i; T)\bigr)

    Args:
        logits: Student logits ``(n, C)``.
        target: Classes ``(n,)``, int64.
        soft_label: q ``(C, C)``: row k is the mean of ``softmax(teacher_logits / T)`` over the
            teacher's samples of class k. Detached.
        temperature: T > 0.
        known: Classes ``(C,)`` whose row is known; the samples of the others are left out. None:
            all.

    Returns:
        A 0-d tensor; 0 if no sample is left.
    """
    logits = wide(logits)
    q = soft_label.detach().to(logits.dtype)[target]
    divergence = F.kl_div(F.log_softmax(logits / temperature, dim=-1), q, reduction="none").sum(-1)
    kept = torch.ones_like(divergence) if known is None else known[target].to(divergence.dtype)
    return temperature**2 * (kept * divergence).sum() / kept.sum().clamp_min(1)


class ClassSoftLabels(Method):
    """``class_soft_labels``: ``CE + λ T² KL(q_y || p_S)``, q the teacher's mean for the class.

    The unpaired form of distillation through logits: the sample's own teacher prediction, which
    would need a pair, is replaced by the teacher's mean over its own samples of the same class.
    It tells the student which classes resemble each other, and nothing about the sample. It is
    the soft-label memory of Federated Distillation (Jeong et al. 2018, arXiv 1811.11479) between
    two modalities instead of devices. The mean is over all teacher samples seen so far; a class
    of which none was seen is left out.

    With ``placebo=True`` class k has the soft label of another one, with its columns renamed
    likewise: its largest entry is still k, only the resemblances are wrong.

    Terms: ``ce``, ``soft``.

    Args:
        student: The model to train.
        weight: λ ≥ 0.
        temperature: T > 0.
        **options: The options of :class:`ucmkd.methods.Method`.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: A negative weight, or a temperature that is not positive.
    """

    name: ClassVar[str] = "class_soft_labels"
    needs_teacher = True
    requires = ("teacher_logits", "teacher_label")

    def __init__(
        self, student: Student, *, weight: float = 1.0, temperature: float = 2.0, **options: Any
    ) -> None:
        super().__init__(student, **options)
        checks.number("weight", weight)
        checks.number("temperature", temperature, strict=True)
        self.weight = weight
        self.temperature = temperature
        self.soft_label = RunningClassMeans(self.num_classes, self.num_classes)

    def weights(self, step: int) -> dict[str, float]:
        """``{"ce": 1, "soft": weight}``."""
        return {"ce": 1.0, "soft": self.weight}

    def terms(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """``{"ce", "soft"}``."""
        assert batch.teacher_logits is not None and batch.teacher_label is not None
        if self.training:
            softened = (wide(batch.teacher_logits) / self.temperature).softmax(dim=-1)
            self.soft_label.update(softened, batch.teacher_label)
        logits = self.student(batch.student)
        return {
            "ce": self.cross_entropy(logits, batch.student_label),
            "soft": class_soft_label_loss(
                logits,
                batch.student_label,
                self.soft_label.means(),
                temperature=self.temperature,
                known=self.soft_label.seen(),
            ),
        }
