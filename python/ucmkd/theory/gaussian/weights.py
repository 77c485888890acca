"""The weight of distillation: from a penalty, and the best one on a grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import checks

#: α at which a risk without a closed form is compared before the minimum is refined.
GRID = np.linspace(0.0, 1.0, 101)


def weight_from_penalty(penalty: float, *, labelled: int, pairs: int) -> float:
    """The α of a loss ``mean over labelled + λ · mean over pairs``: ``λn / (P + λn)``.

    Args:
        penalty: λ ≥ 0.
        labelled: n, the samples of the first mean.
        pairs: P, those of the second, labelled ones included where they are pairs.

    Raises:
        ValueError: A negative λ or a count below one.
    """
    checks.not_negative("penalty", penalty)
    checks.count("labelled", labelled, 1)
    checks.count("pairs", pairs, 1)
    return penalty * labelled / (pairs + penalty * labelled)


def refine(grid: NDArray[np.float64], risk: NDArray[np.float64]) -> float:
    """Where the risk is least: a grid point, moved to the vertex of the parabola through three."""
    best = int(np.nanargmin(risk))
    if best in (0, len(grid) - 1) or not np.isfinite(risk[best - 1 : best + 2]).all():
        return float(grid[best])
    left, middle, right = risk[best - 1 : best + 2]
    curvature = left - 2.0 * middle + right
    step = 0.5 * (left - right) / curvature if curvature > 0.0 else 0.0
    return float(grid[best] + step * (grid[1] - grid[0]))
