"""Baselines without a teacher for labels whose classes are unequally frequent."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ucmkd.losses._common import wide
from ucmkd.methods import checks
from ucmkd.methods.base import Batch, Method
from ucmkd.models import Student

WEIGHTINGS = ("inverse", "effective")


def class_balance_weights(
    counts: Tensor, *, weighting: str = "inverse", beta: float = 0.999
) -> Tensor:
    r"""Weights ``(C,)`` of the classes, by how many samples each has.

    ``"inverse"``: :math:`w_c \propto 1/n_c`. ``"effective"``: the inverse of the effective number
    of samples, :math:`w_c \propto (1-\beta)/(1-\beta^{n_c})`, which goes from no weighting
    (β = 0) to the inverse frequency (β → 1). Both are normalised to mean 1 over the classes that
    have a sample; a class without one gets 0, which no sample meets.

    Args:
        counts: Samples per class ``(C,)``, integer.
        weighting: ``"inverse"`` or ``"effective"``.
        beta: β in [0, 1), of ``"effective"``.

    Returns:
        ``(C,)`` float64.

    Raises:
        ValueError: Another weighting, or β outside [0, 1).

    Source: Cui et al. 2019 (arXiv 1901.05555), section 4.
    """
    checks.choice("weighting", weighting, WEIGHTINGS)
    checks.number("beta", beta, below=1.0)
    n = counts.double()
    present = n > 0
    if weighting == "inverse":
        weight = 1 / n.clamp_min(1)
    else:
        # 1 - β^n without cancellation for β near 1
        weight = (beta - 1) / torch.expm1(n.clamp_min(1) * torch.full_like(n, beta).log())
    weight = torch.where(present, weight, torch.zeros_like(weight))
    return weight * present.sum() / weight.sum()


def weighted_cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    r"""The mean :math:`\frac1n\sum_i w_{y_i}\,\mathrm{CE}(x_i, y_i)`.

    The mean is over the samples, as in Cui et al.; PyTorch's ``weight`` divides by the weights of
    the batch instead, so that a batch of one rare class counts no more than another.

    Args:
        logits: ``(n, C)``.
        target: Classes ``(n,)``, int64.
        weight: ``(C,)``.
        label_smoothing: In [0, 1); the smoothed cross-entropy of a sample is weighted as a whole.
    """
    each = F.cross_entropy(wide(logits), target, reduction="none", label_smoothing=label_smoothing)
    return (weight.to(each.dtype)[target] * each).mean()


def logit_adjusted_cross_entropy(
    logits: Tensor, target: Tensor, prior: Tensor, *, tau: float = 1.0, label_smoothing: float = 0.0
) -> Tensor:
    r"""Cross-entropy of ``logits + τ log prior``.

    .. math:: -\frac1n\sum_i \log\frac{\pi_{y_i}^\tau e^{f_{y_i}(x_i)}}
        {\sum_c \pi_c^\tau e^{f_c(x_i)}}

    Trained so, ``f`` itself (without the prior) is the score to predict with: for τ = 1 it is
    the classifier of least balanced error.

    Args:
        logits: ``(n, C)``.
        target: Classes ``(n,)``, int64.
        prior: π ``(C,)``, positive.
        tau: τ ≥ 0; 0 is plain cross-entropy.
        label_smoothing: In [0, 1).

    Source: Menon et al. 2021 (arXiv 2007.07314), equation 10.
    """
    logits = wide(logits)
    shift = tau * wide(prior).log().to(logits.dtype)
    return F.cross_entropy(logits + shift, target, label_smoothing=label_smoothing)


class WeightedCE(Method):
    """``weighted_ce``: cross-entropy whose classes weigh by their rarity, no teacher.

    :func:`weighted_cross_entropy` with :func:`class_balance_weights` of the labelled samples.

    Terms: ``ce`` (weighted).

    Args:
        student: The model to train.
        weighting: ``"inverse"`` (frequency) or ``"effective"`` (number of samples).
        beta: β in [0, 1) of ``"effective"``; Cui et al. choose among .9, .99, .999, .9999.
        **options: The options of :class:`ucmkd.methods.Method`; ``label_counts`` is needed.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: An option out of range, or no ``label_counts``.
    """

    name: ClassVar[str] = "weighted_ce"
    needs_counts = True

    class_weight: Tensor

    def __init__(
        self, student: Student, *, weighting: str = "inverse", beta: float = 0.999, **options: Any
    ) -> None:
        super().__init__(student, **options)
        assert self.label_counts is not None
        weight = class_balance_weights(self.label_counts, weighting=weighting, beta=beta)
        self.register_buffer("class_weight", weight.to(torch.get_default_dtype()))

    def terms(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """``{"ce"}``."""
        logits = self.student(batch.student)
        checks.logits("the student's logits", logits, self.num_classes)
        ce = weighted_cross_entropy(
            logits, batch.student_label, self.class_weight, label_smoothing=self.label_smoothing
        )
        return {"ce": ce}


class LogitAdjustment(Method):
    """``logit_adjustment``: cross-entropy of prior-adjusted logits, no teacher.

    :func:`logit_adjusted_cross_entropy` with the class frequencies of the labelled samples;
    predicts with the unadjusted logits, that is for balanced classes. The post-hoc form of the
    same paper, which shifts the logits of a plainly trained student, is ``prior_correction`` with
    ``prior="uniform"``. A class without a labelled sample counts as having one, since its
    adjustment would be infinite.

    Terms: ``ce`` (adjusted).

    Args:
        student: The model to train.
        tau: τ ≥ 0.
        **options: The options of :class:`ucmkd.methods.Method`; ``label_counts`` is needed.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: A negative τ, or no ``label_counts``.
    """

    name: ClassVar[str] = "logit_adjustment"
    needs_counts = True

    label_prior: Tensor

    def __init__(self, student: Student, *, tau: float = 1.0, **options: Any) -> None:
        super().__init__(student, **options)
        checks.number("tau", tau)
        assert self.label_counts is not None
        self.tau = tau
        counts = self.label_counts.clamp_min(1).to(torch.get_default_dtype())
        self.register_buffer("label_prior", counts / counts.sum())

    def terms(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """``{"ce"}``."""
        logits = self.student(batch.student)
        checks.logits("the student's logits", logits, self.num_classes)
        ce = logit_adjusted_cross_entropy(
            logits,
            batch.student_label,
            self.label_prior,
            tau=self.tau,
            label_smoothing=self.label_smoothing,
        )
        return {"ce": ce}
