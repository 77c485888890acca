"""Students that use nothing of the teacher but, at most, its class frequencies."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ucmkd.losses._common import wide
from ucmkd.methods.base import Batch, Method
from ucmkd.methods.deployed import fold
from ucmkd.models import Student


def logit_adjustment(logits: Tensor, target_prior: Tensor, train_prior: Tensor) -> Tensor:
    """Logits moved from one set of class frequencies to another.

    ``logits + log target_prior - log train_prior``, the posterior under the new frequencies when
    the class-conditional densities stay (Saerens, Latinne and Decaestecker 2002; Menon et al.,
    arXiv 2007.07314).

    Args:
        logits: ``(..., C)``.
        target_prior: Frequencies ``(C,)`` to predict under. Zeros are floored at 1e-6.
        train_prior: Frequencies ``(C,)`` that the logits were trained under, floored likewise.
    """
    target, train = wide(target_prior), wide(train_prior)
    shift = target.clamp_min(1e-6).log() - train.clamp_min(1e-6).log()
    return logits + shift.to(logits.dtype)


class CrossEntropy(Method):
    """``ce``: the student on its labels alone. Every other method is measured against it.

    Takes the options of :class:`ucmkd.methods.Method`. Terms: ``ce``.
    """

    name: ClassVar[str] = "ce"

    def terms(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """``{"ce"}``."""
        return {"ce": self.cross_entropy(self.student(batch.student), batch.student_label)}


class PriorOnly(CrossEntropy):
    """``prior_only``: trained as ``ce``; at prediction the class frequencies are exchanged.

    Predicts ``logits + log class_prior - log f`` with f the class frequencies of the labelled
    batches seen in training (counted as they come, so that a balanced sampler counts as
    balanced). What this gains, the teacher's class frequencies gain, not its knowledge. The
    placebo is the same method, since it keeps the frequencies.

    Takes the options of :class:`ucmkd.methods.Method`; ``class_prior`` is needed. Terms: ``ce``.
    """

    name: ClassVar[str] = "prior_only"
    needs_prior = True

    label_count: Tensor

    def __init__(self, student: Student, **options: Any) -> None:
        super().__init__(student, **options)
        self.register_buffer("label_count", torch.zeros(self.num_classes, dtype=torch.long))

    def terms(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """``{"ce"}``; counts the labels while training."""
        if self.training:
            self.label_count += torch.bincount(batch.student_label, minlength=self.num_classes)
        return super().terms(batch, step)

    def predict(self, inputs: Tensor) -> Tensor:
        """Adjusted logits ``(n, C)``."""
        return self._adjust(self.student(inputs))

    def deployed(self) -> Student:
        """The student with the adjustment in the bias of its head."""
        zero = torch.zeros_like(self.label_count, dtype=torch.get_default_dtype())
        return fold(self.student, self.num_classes, shift=self._adjust(zero))

    def _adjust(self, logits: Tensor) -> Tensor:
        assert self.class_prior is not None
        # A class without labels is taken for as rare as the rarest, not for infinitely rare.
        rarest = torch.where(self.label_count > 0, self.label_count, self.label_count.max()).min()
        seen = wide(self.label_count.clamp_min(rarest.clamp_min(1)), logits)
        return logit_adjustment(logits, self.class_prior, seen / seen.sum())
