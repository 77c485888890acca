"""Deep CORAL and the central moment discrepancy in float64 numpy loops."""

import math

import numpy as np
from numpy.typing import ArrayLike


def _probabilities(weight: ArrayLike | None, n: int) -> list[float]:
    values = [1.0] * n if weight is None else [float(w) for w in np.asarray(weight)]
    total = math.fsum(values)
    return [value / total for value in values]


def _moment(column: list[float], mass: list[float], order: int) -> float:
    mean = math.fsum(w * v for w, v in zip(mass, column, strict=True))
    if order == 1:
        return mean
    return math.fsum(w * (v - mean) ** order for w, v in zip(mass, column, strict=True))


def coral(
    x: ArrayLike, y: ArrayLike, a: ArrayLike | None = None, b: ArrayLike | None = None
) -> float:
    def covariance(points: np.ndarray, mass: list[float]) -> np.ndarray:
        d = points.shape[1]
        if len(points) == 1:
            return np.zeros((d, d))
        means = [_moment(points[:, j].tolist(), mass, 1) for j in range(d)]
        result = np.empty((d, d))
        for j in range(d):
            for k in range(d):
                result[j, k] = math.fsum(
                    w * (row[j] - means[j]) * (row[k] - means[k])
                    for w, row in zip(mass, points, strict=True)
                )
        return result / (1 - math.fsum(w * w for w in mass))

    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    gap = covariance(x, _probabilities(a, len(x))) - covariance(y, _probabilities(b, len(y)))
    return float((gap**2).sum()) / (4 * x.shape[1] ** 2)


def central_moment_discrepancy(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    moments: int = 5,
    width: float = 1.0,
) -> float:
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    a, b = _probabilities(a, len(x)), _probabilities(b, len(y))
    total = 0.0
    for order in range(1, moments + 1):
        gap = [
            _moment(x[:, j].tolist(), a, order) - _moment(y[:, j].tolist(), b, order)
            for j in range(x.shape[1])
        ]
        total += math.hypot(*gap) / width**order
    return total
