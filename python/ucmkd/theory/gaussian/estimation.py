r"""The Gaussian model's quantities from representations, without bias.

On N reference samples with student features X (d columns and an intercept), targets Y and the
teacher's answers T, both ``(N, q)``, and D = T - Y: least squares of Y, T and D on X leaves
residuals with N - d - 1 degrees of freedom, whose cross-products estimate

.. math::
    \hat\sigma^2 = \frac{\mathrm{tr}\,\hat\varepsilon^\top\hat\varepsilon}{N-d-1},\quad
    \hat\sigma_t^2 = \frac{\mathrm{tr}\,\hat\eta^\top\hat\eta}{N-d-1},\quad
    \hat c = \frac{\mathrm{tr}\,\hat\varepsilon^\top\hat\eta}{N-d-1}.

The fitted part of D holds noise as well: with D̄ its mean, F its fitted part about the mean, and
:math:`\hat s^2 = \hat\sigma^2 - 2\hat c + \hat\sigma_t^2`,

.. math::
    \hat B = \frac{\lVert F\rVert^2 - d\,\hat s^2}{N-1} + \lVert\bar D\rVert^2 -
    \frac{\lVert D - \bar D\rVert^2}{N(N-1)},

the second pair of terms for the teacher's wrong intercept. ‖w*‖² and ‖v*‖² likewise, about the
mean. Unbiased where the residuals' variance does not depend on x; may be negative. For classes Y
is one-hot and everything is summed over the classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Quantities(NamedTuple):
    """Estimates, summed over the outputs; the last three may be slightly negative.

    Attributes:
        noise: σ².
        teacher_noise: σ_t².
        noise_covariance: c.
        mismatch: B.
        signal: ‖w*‖²_Σ.
        teacher_signal: ‖v*‖²_Σ.
    """

    noise: float
    teacher_noise: float
    noise_covariance: float
    mismatch: float
    signal: float
    teacher_signal: float


def estimate_quantities(features: Array, target: Array, answer: Array) -> Quantities:
    """The quantities of this module from ``(N, d)`` features, ``(N, q)`` targets and answers.

    Raises:
        ValueError: Counts or widths that do not fit, or N ≤ d + 1.
    """
    n, d = features.shape
    if len(target) != n or target.shape != answer.shape:
        raise ValueError(
            f"features, target and answer must fit, got {features.shape}, {target.shape}, "
            f"{answer.shape}"
        )
    if n <= d + 1:
        raise ValueError(f"features must have more than d + 1 = {d + 1} rows, got {n}")
    x = features - features.mean(axis=0)
    y, t = target - target.mean(axis=0), answer - answer.mean(axis=0)
    # Singular vectors: features that depend on each other cost only their rank.
    left, size, _ = np.linalg.svd(x, full_matrices=False)
    left = left[:, size > 1e-10 * max(float(size[0]), 1e-300)] if d else left
    rank = left.shape[1]
    fit_y, fit_t = left.T @ y, left.T @ t
    freedom = n - rank - 1
    yy, tt, yt = float(np.sum(y * y)), float(np.sum(t * t)), float(np.sum(y * t))
    fyy, ftt = float(np.sum(fit_y**2)), float(np.sum(fit_t**2))
    fyt = float(np.sum(fit_y * fit_t))
    noise = max(0.0, yy - fyy) / freedom
    teacher_noise = max(0.0, tt - ftt) / freedom
    cross = (yt - fyt) / freedom
    spread = noise - 2.0 * cross + teacher_noise
    gap = float(np.sum((answer.mean(axis=0) - target.mean(axis=0)) ** 2))
    gap -= (tt - 2.0 * yt + yy) / (n * (n - 1))
    return Quantities(
        noise,
        teacher_noise,
        cross,
        (fyy - 2.0 * fyt + ftt - rank * spread) / (n - 1) + gap,
        (fyy - rank * noise) / (n - 1),
        (ftt - rank * teacher_noise) / (n - 1),
    )
