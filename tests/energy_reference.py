"""Energy distance as its definition says, in float64 numpy loops over pairs; random clouds."""

import math

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor


def energy_distance(
    x: ArrayLike, y: ArrayLike, a: ArrayLike | None = None, b: ArrayLike | None = None
) -> float:
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)
    a = np.ones(len(x)) if a is None else np.asarray(a, dtype=np.float64)
    b = np.ones(len(y)) if b is None else np.asarray(b, dtype=np.float64)
    a, b = a / math.fsum(a), b / math.fsum(b)

    def mean_distance(p, q, u, v):  # type: ignore[no-untyped-def]
        return math.fsum(
            u[i] * v[j] * math.dist(p[i], q[j]) for i in range(len(p)) for j in range(len(q))
        )

    return 2 * mean_distance(x, y, a, b) - mean_distance(x, x, a, a) - mean_distance(y, y, b, b)


def clouds(n: int = 9, m: int = 6, d: int = 4, **options) -> tuple[Tensor, ...]:  # type: ignore[no-untyped-def]
    """Two clouds and their masses, float64 unless the options say otherwise."""
    options = {"dtype": torch.float64, **options}
    return (
        torch.randn(n, d, **options), torch.randn(m, d, **options) + 0.5,
        torch.rand(n, **options) + 0.1, torch.rand(m, **options) + 0.1,
    )  # fmt: skip
