"""DKD: the teacher's target class and its other classes are distilled apart."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from ucmkd.losses import dkd_loss
from ucmkd.methods import checks
from ucmkd.methods.base import Batch
from ucmkd.methods.pairs import PairMethod
from ucmkd.methods.parts import ramp
from ucmkd.models import Student


class DKD(PairMethod):
    """``dkd``: ``CE + λ(t)`` :func:`ucmkd.losses.dkd_loss`, the second term on pairs.

    Zhao et al. 2022 (arXiv 2203.08679). The loss needs the class of each sample. Where the pairs
    have no labels, the teacher's largest logit takes its place (a departure: the paper's samples
    are all labelled), so that "target" then means what the teacher believes.

    Terms: ``ce``, ``dkd``; with labelled pairs ``pair_ce`` (weight 1).

    Args:
        student: The model to train.
        weight: λ ≥ 0 after the ramp.
        alpha: α ≥ 0 of the target class.
        beta: β ≥ 0 of the other classes; the paper chooses it between 1 and 8 by the teacher.
        temperature: T > 0.
        ramp_steps: λ(t) grows linearly from 0 over this many steps (20 epochs in their code).
        **options: The options of :class:`ucmkd.methods.Method`.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: A negative weight, or a temperature that is not positive.
    """

    name: ClassVar[str] = "dkd"
    requires = ("paired", "paired_teacher_logits")

    def __init__(
        self,
        student: Student,
        *,
        weight: float = 1.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        ramp_steps: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(student, **options)
        checks.number("weight", weight)
        checks.number("alpha", alpha)
        checks.number("beta", beta)
        checks.number("temperature", temperature, strict=True)
        checks.integer("ramp_steps", ramp_steps)
        self.weight = weight
        self.ramp_steps = ramp_steps
        self.loss: dict[str, Any] = {
            "alpha": float(alpha),
            "beta": float(beta),
            "temperature": float(temperature),
        }

    def weights(self, step: int) -> dict[str, float]:
        """``dkd`` is ramped."""
        return {"ce": 1.0, "dkd": self.weight * ramp(step, self.ramp_steps), "pair_ce": 1.0}

    def pair_terms(self, features: Tensor, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """``{"dkd"}``."""
        assert batch.paired_teacher_logits is not None
        target = self.pair_target(batch)
        return {"dkd": dkd_loss(logits, batch.paired_teacher_logits, target, **self.loss)}
