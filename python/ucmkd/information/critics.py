"""Variational bounds of mutual information as functions of a critic's score matrix.

``scores[i, j] = T(x_i, y_j)``: the diagonal holds pairs from P(x, y), the rest pairs from
P(x)P(y).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus


def _split(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Paired scores ``(n,)`` and all others ``(n² - n,)``."""
    n = len(scores)
    off = ~torch.eye(n, dtype=torch.bool, device=scores.device)
    return scores.diagonal(), scores[off]


def _log_mean_exp(values: Tensor) -> Tensor:
    return values.logsumexp(dim=0) - math.log(len(values))


def donsker_varadhan(scores: Tensor) -> Tensor:
    """``E_P[T] - log E_Q[e^T]``, at most I(X; Y) in expectation for many pairs.

    Source: Belghazi et al. 2018 (arXiv 1801.04062), equation 10.
    """
    paired, others = _split(scores)
    return paired.mean() - _log_mean_exp(others)


def nwj(scores: Tensor) -> Tensor:
    """``E_P[T] - e⁻¹ E_Q[e^T]``, an unbiased lower bound.

    Source: Nguyen, Wainwright and Jordan 2010 (arXiv 0809.0853), equation 12.
    """
    paired, others = _split(scores)
    return paired.mean() - (_log_mean_exp(others) - 1.0).exp()


def infonce(scores: Tensor) -> Tensor:
    """``mean_i log(e^{T_ii} / mean_j e^{T_ij})``, at most log n.

    Source: van den Oord, Li and Vinyals 2018 (arXiv 1807.03748), equation 4.
    """
    n = len(scores)
    return (scores.diagonal() - scores.logsumexp(dim=1)).mean() + math.log(n)


def smile(scores: Tensor, *, clip: float) -> Tensor:
    """``E_P[T] - log E_Q[e^{clip(T, -τ, τ)}]``: less variance, no longer a bound.

    Source: Song and Ermon 2020 (arXiv 1910.06222), equation 15.
    """
    paired, others = _split(scores)
    return paired.mean() - _log_mean_exp(others.clamp(-clip, clip))


def jensen_shannon(scores: Tensor) -> Tensor:
    """``-E_P[softplus(-T)] - E_Q[softplus(T)]``, largest at ``T = log p(x,y)/p(x)p(y)``.

    Source: Nowozin, Cseke and Tomioka 2016 (arXiv 1606.00709), table 2; Song and Ermon train
    the critic of SMILE by it.
    """
    paired, others = _split(scores)
    return -softplus(-paired).mean() - softplus(others).mean()


class MovingDenominator:
    """``E_P[T] - log E_Q[e^T]`` whose gradient divides by a moving average of ``E_Q[e^T]``.

    The batch's own mean in the denominator would bias the gradient.

    Source: Belghazi et al. 2018 (arXiv 1801.04062), section 3.2, equation 12.
    """

    def __init__(self, rate: float = 0.05) -> None:
        self.rate = rate
        self.log_mean: Tensor | None = None

    def __call__(self, scores: Tensor) -> Tensor:
        """The surrogate whose gradient is the corrected one; its value is not the bound."""
        paired, others = _split(scores)
        now = _log_mean_exp(others)
        own = now.detach()
        if self.log_mean is None:
            self.log_mean = own
        else:
            kept = self.log_mean + math.log1p(-self.rate)
            self.log_mean = torch.logaddexp(kept, own + math.log(self.rate))
        return paired.mean() - (now - self.log_mean).exp()
