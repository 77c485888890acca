"""Distillation through pairs: the student imitates the teacher on samples that both saw."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ucmkd.losses import kd_loss
from ucmkd.losses._common import wide
from ucmkd.methods import checks
from ucmkd.methods.base import Batch, Method
from ucmkd.models import Student


def pair_kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 2.0,
    class_prior: Tensor | None = None,
) -> Tensor:
    """``T² KL(p_T || p_S)`` on pairs, on demand without the teacher's class frequencies.

    Args:
        student_logits: ``(p, C)``.
        teacher_logits: ``(p, C)`` of the same samples; detached.
        temperature: T > 0.
        class_prior: With frequencies ``(C,)``, ``log class_prior`` (floored at 1e-6) is taken
            off the teacher's logits: its posterior under balanced classes.
    """
    if class_prior is not None:
        teacher_logits = wide(teacher_logits) - wide(class_prior).clamp_min(1e-6).log()
    return kd_loss(student_logits, teacher_logits, temperature=temperature)


class VanillaKD(Method):
    """``vanilla_kd``: ``CE + λ T² KL(p_T || p_S)``, the second term on pairs.

    Hinton, Vinyals and Dean (arXiv 1503.02531), across modalities. The pairs need no labels.
    Labelled pairs add their cross-entropy.

    With ``alpha`` the loss is ``(1 - α) CE + α T² KL`` instead, on labelled samples and pairs
    likewise, the form of arXiv 2606.10504 (T = 4, α = .9, there on labelled pairs only, whose
    cross-entropy has the weight 1 - α here too). Both are one family, λ = α / (1 - α), up to a
    factor of the whole loss, which an adaptive optimiser hardly sees.

    Terms: ``ce``, ``kd``; with labelled pairs ``pair_ce`` (weight 1).

    Args:
        student: The model to train.
        weight: λ ≥ 0.
        alpha: α in [0, 1]: the form with ``1 - α``; ``weight`` must then be left at 1. None: the
            form with λ.
        temperature: T > 0.
        prior_correction: Take ``log class_prior`` off the teacher's logits, which gives rare
            classes their due (accuracy on frequent ones may fall). A placebo's permuted teacher
            is corrected with the permuted frequencies: they are what its logits contain.
        **options: The options of :class:`ucmkd.methods.Method`; ``class_prior`` is needed with
            ``prior_correction``.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: A negative weight, α outside [0, 1] or beside a weight, a temperature that is
            not positive, or ``prior_correction`` without ``class_prior``.
    """

    name: ClassVar[str] = "vanilla_kd"
    paired = True
    uses_pairs = True
    needs_teacher = True
    requires = ("paired", "paired_teacher_logits")

    correction: Tensor | None

    def __init__(
        self,
        student: Student,
        *,
        weight: float = 1.0,
        alpha: float | None = None,
        temperature: float = 2.0,
        prior_correction: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(student, **options)
        checks.number("weight", weight)
        if alpha is not None:
            checks.number("alpha", alpha)
            if alpha > 1:
                raise ValueError(f"alpha must be a number in [0, 1] or None, got {alpha!r}")
            if weight != 1.0:
                raise ValueError(f"alpha and weight exclude each other, got {alpha!r}, {weight!r}")
        checks.number("temperature", temperature, strict=True)
        checks.flag("prior_correction", prior_correction)
        correction = None
        if prior_correction:
            if self.class_prior is None:
                raise ValueError("prior_correction needs class_prior, the teacher's frequencies")
            correction = self.class_prior.clone()
            if self.permutation is not None:
                correction = correction[torch.argsort(self.permutation)]
        self.weight = weight
        self.alpha = alpha
        self.temperature = temperature
        self.register_buffer("correction", correction)

    def weights(self, step: int) -> dict[str, float]:
        """``{"ce": 1, "kd": weight, "pair_ce": 1}``, with ``alpha`` 1 - α, α and 1 - α."""
        if self.alpha is not None:
            return {"ce": 1.0 - self.alpha, "kd": self.alpha, "pair_ce": 1.0 - self.alpha}
        return {"ce": 1.0, "kd": self.weight, "pair_ce": 1.0}

    def terms(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """``{"ce", "kd"}`` and, with labelled pairs, ``"pair_ce"``."""
        assert batch.paired is not None and batch.paired_teacher_logits is not None
        n = len(batch.student)
        logits = self.student(torch.cat((batch.student, batch.paired)))
        terms = {
            "ce": self.cross_entropy(logits[:n], batch.student_label),
            "kd": pair_kd(
                logits[n:],
                batch.paired_teacher_logits,
                temperature=self.temperature,
                class_prior=self.correction,
            ),
        }
        if batch.paired_label is not None:
            terms["pair_ce"] = self.cross_entropy(logits[n:], batch.paired_label)
        return terms
