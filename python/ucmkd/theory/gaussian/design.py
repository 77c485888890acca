r"""Expectations over random inputs: n labelled ones and m more that only the teacher has answered.

With whitened Gaussian inputs X ``(n, d)`` and Z ``(m, d)``, weight ω of the unlabelled rows,
:math:`A = X^\top X`, :math:`C = Z^\top Z`, :math:`G = A + \omega C`, least squares needs

.. math::
    k_1 = \tfrac1d E\,\mathrm{tr}\, G^{-1}A,\quad k_2 = \tfrac1d E\,\lVert G^{-1}A\rVert_F^2,\quad
    a = E\,\mathrm{tr}\, G^{-1}AG^{-1},\quad e = \omega^2 E\,\mathrm{tr}\, G^{-1}CG^{-1}.

Write :math:`A + C = T^\top T` and :math:`A = T^\top U T`: U is matrix-beta(n/2, m/2), independent
of T, which is Wishart with N = n + m degrees of freedom, so T can be integrated out. With
:math:`u_i` the eigenvalues of U, :math:`f = u/(u + \omega(1-u))` and K = 1/(N - d - 1),

.. math::
    d k_1 = E\sum f,\quad d k_2 = (1 + dK)\,E\sum f^2 - K\,E\bigl(\textstyle\sum f\bigr)^2,\quad
    a = K E\sum \frac{u}{(u+\omega(1-u))^2},\quad
    e = K E\sum \frac{\omega^2(1-u)}{(u+\omega(1-u))^2}.

What is left is a mean over the eigenvalues alone. It is taken over seeded draws, corrected by the
moments of u that are known in closed form, and so exact at ω = 0, 1 and ∞. Derived here.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Least draws of the eigenvalues, each a d by d problem; with few eigenvalues there are more.
DRAWS = 512
#: Least eigenvalues over all draws: relative errors are then below 1e-3.
EIGENVALUES = 2**15


class DesignFactors(NamedTuple):
    """The four expectations of the module's docstring: k₁, k₂, a, e."""

    share: float
    share_squared: float
    label_noise: float
    pair_noise: float


def ordinary_factor(samples: int, dimension: int) -> float:
    """``E tr (XᵀX)⁻¹ = d / (n - d - 1)`` for n whitened Gaussian inputs; inf where n ≤ d + 1."""
    return dimension / (samples - dimension - 1) if samples > dimension + 1 else math.inf


def inverse_square_factor(samples: int, dimension: int) -> float:
    """``E tr (XᵀX)⁻² = d (n - 1) / ((n - d)(n - d - 1)(n - d - 3))``; inf where n ≤ d + 3."""
    n, d = samples, dimension
    return d * (n - 1) / ((n - d) * (n - d - 1) * (n - d - 3)) if n > d + 3 else math.inf


@lru_cache(maxsize=4096)
def design_factors(samples: int, pairs: int, dimension: int, weight: float) -> DesignFactors:
    """k₁, k₂, a, e for n labelled inputs, m unlabelled ones of weight ω in [0, inf]."""
    n, m, d = samples, pairs, dimension
    if m == 0 or weight == 0.0:
        return DesignFactors(1.0, 1.0, ordinary_factor(n, d), 0.0)
    if math.isinf(weight):
        return DesignFactors(0.0, 0.0, 0.0, ordinary_factor(m, d))
    if n + m <= d + 1:
        return DesignFactors(math.nan, math.nan, math.inf, math.inf)
    u = _eigenvalues(n, m, d)
    inverse = ordinary_factor(n + m, d) / d
    mixed = u + weight * (1.0 - u)
    f = u / mixed
    total = f.sum(axis=1)
    statistics = np.stack(
        [
            total / d,
            ((1.0 + d * inverse) * (f * f).sum(axis=1) - inverse * total * total) / d,
            inverse * (u / mixed**2).sum(axis=1),
            inverse * (weight**2 * (1.0 - u) / mixed**2).sum(axis=1),
        ],
        axis=1,
    )
    controls = _controls(n, m, d)
    slope = np.linalg.lstsq(
        controls - controls.mean(axis=0), statistics - statistics.mean(axis=0), rcond=None
    )[0]
    found = statistics.mean(axis=0) - controls.mean(axis=0) @ slope
    return DesignFactors(*(float(value) for value in found))


@lru_cache(maxsize=16)
def _eigenvalues(n: int, m: int, d: int) -> Array:
    """Eigenvalues ``(draws, d)`` of the share of the labelled rows in the Gram matrix."""
    rng = np.random.default_rng([n, m, d])
    draws = max(DRAWS, EIGENVALUES // d)
    found = np.empty((draws, d))
    step = max(1, 2**21 // (d * max(d, min(n, m, d))))
    for start in range(0, draws, step):
        count = min(step, draws - start)
        labelled, rest = _wishart(rng, count, n, d), _wishart(rng, count, m, d)
        root = np.linalg.cholesky(labelled + rest)
        half = np.linalg.solve(root, labelled)
        share = np.linalg.solve(root, half.transpose(0, 2, 1))
        found[start : start + count] = np.linalg.eigvalsh(0.5 * (share + share.transpose(0, 2, 1)))
    return np.clip(found, 0.0, 1.0)


def _wishart(rng: np.random.Generator, count: int, dof: int, d: int) -> Array:
    """Wishart matrices ``(count, d, d)`` of the identity, by Bartlett where they have full rank."""
    if dof < d:
        x = rng.standard_normal((count, dof, d))
        return x.transpose(0, 2, 1) @ x
    root = np.tril(rng.standard_normal((count, d, d)), -1)
    index = np.arange(d)
    root[:, index, index] = np.sqrt(rng.chisquare(dof - index, size=(count, d)))
    return root @ root.transpose(0, 2, 1)


@lru_cache(maxsize=16)
def _controls(n: int, m: int, d: int) -> Array:
    """Statistics of the eigenvalues with mean zero: their known means are taken off."""
    u, total = _eigenvalues(n, m, d), n + m
    one, two = share_moments(n, m, d)
    columns = [
        u.sum(axis=1) - d * n / total,
        (u * u).sum(axis=1) - one,
        u.sum(axis=1) ** 2 - two,
    ]
    # The mean exists from d + 2, the variance from d + 4 samples on.
    for dof, part in ((n, u), (m, 1.0 - u)):
        if dof > d + 3:
            known = (total - d - 1) * ordinary_factor(dof, d)
            columns.append((1.0 / part).sum(axis=1) - known)
    return np.stack(columns, axis=1)


def share_moments(samples: int, pairs: int, dimension: int) -> tuple[float, float]:
    """``E tr U²`` and ``E (tr U)²`` of U matrix-beta(n/2, m/2) in d dimensions.

    From the fourth moments of a random orthogonal matrix of size N = n + m, whose first n rows
    and d columns Q give ``U = QᵀQ``: ``E U₁₁² = n(n + 2) / (N(N + 2))``,
    ``E U₁₁U₂₂ = n / (N(N + 2)) + n(n - 1)(N + 1) / ((N - 1)N(N + 2))``,
    ``E U₁₂² = (E U₁₁² - E U₁₁U₂₂) / 2``.
    """
    n, d, total = samples, dimension, samples + pairs
    square = n * (n + 2) / (total * (total + 2))
    product = n / (total * (total + 2))
    product += n * (n - 1) * (total + 1) / ((total - 1) * total * (total + 2))
    off = 0.5 * (square - product)
    return d * square + d * (d - 1) * off, d * square + d * (d - 1) * product
