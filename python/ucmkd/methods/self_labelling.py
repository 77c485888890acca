"""Self-labelling under a class prior: the control for joint alignment that has no teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ucmkd.losses._common import wide
from ucmkd.methods import checks
from ucmkd.methods.base import Batch, Method
from ucmkd.methods.parts import ramp, target_prior
from ucmkd.methods.planned import planned_cost
from ucmkd.methods.pool_prior import estimated, is_estimated, pool_prior
from ucmkd.models import Student


def self_label_loss(
    logits: Tensor,
    prior: Tensor,
    *,
    epsilon: float = 0.1,
    tol: float = 1e-3,
    max_iter: int = 100,
) -> Tensor:
    r"""Mean cross-entropy of samples with their own soft assignment to classes.

    .. math::
        \frac1u \sum_i \sum_c (u P_{ic})\,(-\log p_S(c|x_i))

    P the detached entropic plan of ``-log p_S`` between u equal samples and classes of mass
    ``prior``, of total mass one: row i of ``u P`` is the label that sample i gives itself, and
    the classes are used as often as the prior says. (Asano, Rupprecht and Vedaldi,
    arXiv 1911.05371, with a prior in the place of equal classes.)

    Args:
        logits: Student logits ``(u, C)``.
        prior: Class frequencies ``(C,)``, summing to one.
        epsilon: Regularisation in units of the mean shifted cost.
        tol: Stop the plan at this marginal residual.
        max_iter: Most iterations of the plan.
    """
    cost = -F.log_softmax(wide(logits), dim=-1)
    return planned_cost(cost, epsilon=epsilon, column_weight=prior, tol=tol, max_iter=max_iter)


class SelfLabelling(Method):
    """``self_labelling``: ``CE + λ(t) · self_label_loss`` on unlabelled student samples.

    Uses of the teacher its class frequencies at most. Where joint alignment gains no more than
    this, the class prior did it, not the teacher.

    Terms: ``ce``, ``self``.

    Args:
        student: The model to train.
        weight: λ ≥ 0 after the ramp.
        ramp_steps: λ(t) grows linearly from 0 over this many steps.
        epsilon: Regularisation in units of the mean shifted cost.
        prior: ``"teacher"`` (``class_prior``), ``"uniform"``, ``"estimated"`` (from the student's
            own logits: :class:`ucmkd.methods.pool_prior.PoolPrior`) or C class frequencies.
        estimate_steps: Steps of cross-entropy alone, before the ramp, after which
            ``prior="estimated"`` is estimated once.
        label_smoothing: Smoothing of the cross-entropy on labelled samples.
        tol: Stop the plan at this marginal residual.
        max_iter: Most iterations of the plan.
        **options: The options of :class:`ucmkd.methods.Method`.

    Raises:
        ValueError: A negative weight, ``prior="teacher"`` without ``class_prior``, or a wrong
            option of the base class.
    """

    name: ClassVar[str] = "self_labelling"
    needs_unlabelled = True
    requires = ("unlabelled",)

    mass: Tensor

    def __init__(
        self,
        student: Student,
        *,
        weight: float = 1.0,
        ramp_steps: int = 150,
        epsilon: float = 0.1,
        prior: str | Sequence[float] | Tensor = "teacher",
        estimate_steps: int = 150,
        label_smoothing: float = 0.1,
        tol: float = 1e-3,
        max_iter: int = 100,
        **options: Any,
    ) -> None:
        self.needs_counts = is_estimated(prior)
        super().__init__(student, label_smoothing=label_smoothing, **options)
        checks.number("weight", weight)
        checks.integer("ramp_steps", ramp_steps)
        self.weight = weight
        self.ramp_steps = ramp_steps
        self.solver = checks.solver(epsilon=epsilon, tol=tol, max_iter=max_iter)
        self.pool_prior, self.estimate_steps, prior = pool_prior(self, prior, estimate_steps)
        self.register_buffer("mass", target_prior(prior, self.class_prior, self.num_classes))

    def weights(self, step: int) -> dict[str, float]:
        """``self`` is ramped."""
        return {"ce": 1.0, "self": self.weight * ramp(step - self.estimate_steps, self.ramp_steps)}

    def see_pool(self, logits: Tensor, step: int) -> None:
        """Let the logits of unlabelled samples count for ``prior="estimated"``."""
        if self.pool_prior is not None and self.training:
            self.mass = estimated(self.pool_prior, logits, self.mass, step, self.estimate_steps)

    def terms(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """``{"ce", "self"}``."""
        assert batch.unlabelled is not None
        n = len(batch.student)
        logits = self.student(torch.cat((batch.student, batch.unlabelled)))
        self.see_pool(logits[n:], step)
        return {
            "ce": self.cross_entropy(logits[:n], batch.student_label),
            "self": self_label_loss(logits[n:], self.mass, **self.solver),
        }
