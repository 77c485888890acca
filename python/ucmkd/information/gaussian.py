"""Mutual information of jointly Gaussian variables from their canonical correlations."""

from __future__ import annotations

import math

import numpy as np

from ucmkd.information.variables import Array

#: Below so many samples per dimension the sample covariance is shrunk.
SHRINK_BELOW = 3.0
#: Singular value, of the largest, below which a column is explained by others.
RANK = 1e-10
#: A correlation whose square is this close to 1 is not told from 1.
ROUNDING = 1e-14
#: Shuffles that measure the bias of the shrunk estimate under independence.
SHUFFLES = 8


def canonical_correlations(x: Array, y: Array) -> Array:
    """Sample canonical correlations, ``(min(d_x, d_y),)``, largest first.

    The singular values of ``Q_xᵀ Q_y`` with Q an orthonormal basis of the centred columns.

    Args:
        x: ``(n, d_x)``.
        y: ``(n, d_y)``.

    Source: Björck and Golub 1973 (Mathematics of Computation 27), algorithm 1.
    """
    return _between(_basis(x), _basis(y))


def _between(a: Array, b: Array) -> Array:
    return np.asarray(np.clip(np.linalg.svd(a.T @ b, compute_uv=False), 0.0, 1.0))


def shrinks(x: Array, y: Array, shrinkage: float | str) -> bool:
    """Whether :func:`gaussian` shrinks the correlations of these samples.

    With ``"auto"`` below ``SHRINK_BELOW`` samples per dimension; columns that others of their side
    explain are no dimension.
    """
    if shrinkage != "auto":
        return shrinkage != 0.0
    least, enough = SHRINK_BELOW * (x.shape[1] + y.shape[1]), len(x) - 1
    return enough < least and enough < SHRINK_BELOW * (dimensions(x) + dimensions(y))


def dimensions(values: Array) -> int:
    """Columns less those that others explain; all, where the samples are too few to tell."""
    n, width = values.shape
    size = np.linalg.svd(_standardised(values), compute_uv=False)
    rank = int((size > RANK * size[0]).sum())
    return rank if rank < n - 1 else width


def gaussian_information(correlations: Array) -> float:
    """``I = -½ Σ log(1 - ρ_i²)`` in nats; infinite where a correlation is 1, up to rounding."""
    square = np.square(correlations)
    if (square > 1.0 - ROUNDING).any():
        return math.inf
    return float(-0.5 * np.log1p(-square).sum())


def gaussian_bias(x_width: int, y_width: int, samples: int) -> float:
    r"""Expected plug-in estimate minus the truth, exact for Gaussian samples.

    With ν = n - 1,

    .. math::
        b = \tfrac12 \sum_{i=1}^{d_x} \psi\!\left(\tfrac{\nu+1-i}2\right)
            - \psi\!\left(\tfrac{\nu+1-d_y-i}2\right) \approx \frac{d_x d_y}{2n},

    from the mean log-determinant of a Wishart matrix, whatever the covariance.

    Source: the log-determinant in Muirhead 1982, "Aspects of Multivariate Statistical Theory",
    theorem 3.2.15.

    Raises:
        ValueError: Not more samples than ``x_width + y_width + 1``.
    """
    nu = samples - 1
    if nu < x_width + y_width:
        raise ValueError(f"samples must exceed {x_width + y_width}, got {samples}")
    upper = [_digamma(0.5 * (nu + 1 - i)) for i in range(1, x_width + 1)]
    lower = [_digamma(0.5 * (nu + 1 - y_width - i)) for i in range(1, x_width + 1)]
    return 0.5 * (sum(upper) - sum(lower))


def shrinkage_intensity(z: Array) -> float:
    r"""Weight of the identity that makes a shrunk correlation matrix closest to the truth.

    .. math:: \lambda = \sum_{i\ne j} \widehat{\mathrm{Var}}(r_{ij}) \big/ \sum_{i\ne j} r_{ij}^2,

    limited to [0, 1], for standardised columns z ``(n, d)``.

    Source: Schäfer and Strimmer 2005 (Statistical Applications in Genetics 4:32), equation 10.
    """
    n = len(z)
    # Both sums without a (d, d) array: over all i and j, less i = j, where the mean is 1.
    square = np.square(z)
    products = float(np.square(square.sum(axis=1)).sum() - np.square(square).sum())
    total = _gram_square(z) / n**2 - z.shape[1]
    variance = n / (n - 1.0) ** 3 * (products - n * total)
    return 1.0 if total <= 0.0 else float(np.clip(variance / total, 0.0, 1.0))


def _gram_square(z: Array) -> float:
    """Sum of the squared entries of ``zᵀz``, by the smaller of ``zᵀz`` and ``zzᵀ``."""
    gram = z.T @ z if z.shape[1] <= len(z) else z @ z.T
    return float(np.square(gram).sum())


def gaussian(x: Array, y: Array, *, shrinkage: float | str = "auto", seed: int = 0) -> float:
    """Gaussian mutual information without its bias, in nats.

    Unshrunk: the plug-in of the canonical correlations less :func:`gaussian_bias` of as many
    columns as are linearly independent, unbiased for Gaussian data. Shrunk: the correlation matrix
    is drawn towards the identity, and the mean over shuffled pairs, the value under independence,
    is subtracted; it stays cautious.

    For a discrete y give its indicator columns: the result is then ½ log of total over within
    scatter, which is exceeded by no I(X; Y) of Gaussian classes with one covariance.

    Args:
        x: ``(n, d_x)``.
        y: ``(n, d_y)``.
        shrinkage: ``"auto"`` (shrink where :func:`shrinks` says so, with the intensity of
            :func:`shrinkage_intensity`), or the intensity in [0, 1].
        seed: Of the shuffles.

    Returns:
        The estimate, possibly negative.
    """
    if not shrinks(x, y, shrinkage):
        a, b = _basis(x), _basis(y)
        value = gaussian_information(_between(a, b))
        return value - gaussian_bias(a.shape[1], b.shape[1], len(x))
    a, b = _standardised(x), _standardised(y)
    weight = None if shrinkage == "auto" else float(shrinkage)
    draw = np.random.default_rng(seed)
    base = [_shrunk(a, b[draw.permutation(len(b))], weight) for _ in range(SHUFFLES)]
    return _shrunk(a, b, weight) - float(np.mean(base))


def _shrunk(a: Array, b: Array, weight: float | None) -> float:
    z = np.concatenate([a, b], axis=1)
    # A little of the identity always stays, or more columns than samples would be singular.
    shrunk = max(1e-6, shrinkage_intensity(z) if weight is None else weight)
    return 0.5 * (_log_det(a, shrunk) + _log_det(b, shrunk) - _log_det(z, shrunk))


def _log_det(z: Array, shrunk: float) -> float:
    """``log |λI + (1-λ) zᵀz/n|``, by the smaller of ``zᵀz`` and ``zzᵀ``."""
    n, d = z.shape
    gram = z.T @ z if d <= n else z @ z.T
    gram *= (1.0 - shrunk) / (shrunk * n)
    gram[np.diag_indices_from(gram)] += 1.0
    return d * math.log(shrunk) + float(np.linalg.slogdet(gram)[1])


def _standardised(values: Array) -> Array:
    centred = values - values.mean(axis=0)
    return np.asarray(centred / np.maximum(centred.std(axis=0), 1e-300))


def _basis(values: Array) -> Array:
    """Orthonormal basis of the column space; columns that others explain are left out."""
    left, size, _ = np.linalg.svd(_standardised(values), full_matrices=False)
    return np.asarray(left[:, size > RANK * size[0]])


def _digamma(value: float) -> float:
    """ψ by its recurrence up to 8 and the asymptotic series there (error below 1e-14)."""
    shift = 0.0
    while value < 8.0:
        shift -= 1.0 / value
        value += 1.0
    square = 1.0 / (value * value)
    series = 1 / 12 - square * (1 / 120 - square * (1 / 252 - square * (1 / 240 - square / 132)))
    return shift + math.log(value) - 0.5 / value - square * series
