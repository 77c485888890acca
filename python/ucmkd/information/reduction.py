"""Reduction of dimension and of the marginals before an estimator sees the data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

from ucmkd.information.variables import Array, Variable

#: How far from ±1 the correlation of normal scores may be of columns of one order.
COPY = 1e-3
#: Differences that do not count for the order, in standard deviations: those of single precision.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Reduction:
    """A map to few whitened dimensions, ``z = (x - mean) @ directions``; see :func:`fit_pca`.

    Attributes:
        mean: ``(d,)``.
        directions: ``(d, r)``, principal directions over their standard deviations.
        explained: Share of the variance that the r directions hold, in (0, 1].
    """

    mean: Array
    directions: Array
    explained: float

    def __call__(self, variable: Variable) -> Variable:
        """The reduced side; discrete ones come back as they are."""
        if variable.discrete:
            return variable
        return Variable((variable.values - self.mean) @ self.directions, False)


def fit_pca(values: Array, width: int) -> Reduction:
    """Principal components, whitened, at most ``width`` and as many as vary.

    A coordinate-wise or linear invertible map leaves mutual information as it is; leaving
    components out can only lower it.

    Args:
        values: ``(n, d)``.
        width: r, at least 1.

    Raises:
        ValueError: ``width`` below 1, or no column varies.
    """
    if width < 1:
        raise ValueError(f"reduce must be at least 1 dimension, got {width}")
    mean = values.mean(axis=0)
    centred = values - mean
    _, size, right = np.linalg.svd(centred, full_matrices=False)
    varies = size > 1e-10 * max(float(size[0]), 1e-300)
    if not varies.any():
        raise ValueError("the features to reduce must vary, got equal rows")
    keep = min(width, int(varies.sum()))
    scale = size[:keep] / np.sqrt(len(values))
    explained = float(np.square(size[:keep]).sum() / np.square(size).sum())
    return Reduction(mean, np.asarray(right[:keep].T / scale), explained)


def drop_copies(side: Variable, name: str) -> tuple[Variable, tuple[str, ...]]:
    """Leave out columns that order the samples as an earlier one does, or in reverse; say so.

    Such a column is a monotone function of the earlier one and adds no information: ``1 - p``
    beside ``p``, another unit, a logarithm. Their normal scores are equal or opposite, so that the
    correlation matrix of a copula would be singular. Ties and what single precision rounds do not
    count, where the scores correlate all the same (``1 - p`` beside ``p``, again). More columns
    than samples are left as they are: no copula is fitted to them.

    Args:
        side: ``(n, d)``, no column constant.
        name: For the note.
    """
    n, width = side.values.shape
    if side.discrete or not 1 < width <= n:
        return side, ()
    scores = standard_scores(normal_scores(side.values))
    alike = scores.T @ scores / n
    keep = np.ones(width, dtype=bool)
    for late, early in np.argwhere(np.tril(np.abs(alike), -1) > 1.0 - COPY):
        if keep[late] and keep[early]:
            sign = float(np.sign(alike[late, early]))
            keep[late] = not _monotone(side.values[:, early], sign * side.values[:, late])
    missing = int((~keep).sum())
    if not missing:
        return side, ()
    note = (
        f"{name}: {missing} of {width} columns order the samples as another one does, or in "
        "reverse, and were left out"
    )
    return Variable(side.values[:, keep], False), (note,)


def _monotone(first: Array, second: Array) -> bool:
    """Whether no pair of samples is ordered by one column against the other, beyond rounding."""
    second = second[np.lexsort((second, first))]
    fall = np.maximum.accumulate(second) - second
    return bool(fall.max() <= ROUNDING * second.std())


def standard_scores(values: Array) -> Array:
    """Columns of mean 0 and variance 1, ``(n, d)``."""
    centred = values - values.mean(axis=0)
    return np.asarray(centred / np.maximum(centred.std(axis=0), 1e-300))


def normal_scores(values: Array) -> Array:
    """Columns by rank to normal quantiles, ``Φ⁻¹((rank - ½)/n)``; ties share their mean rank.

    Increasing maps of single coordinates leave mutual information as it is, and heavy tails or
    bends are gone.
    """
    ranks = np.apply_along_axis(rankdata, 0, values)
    return np.asarray(ndtri((ranks - 0.5) / len(values)))
