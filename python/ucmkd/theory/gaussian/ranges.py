"""Estimates with intervals from half samples, and what they decide."""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Range(NamedTuple):
    """An estimate with its interval.

    Attributes:
        value: The estimate.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float


def intervals(
    whole: NDArray[np.float64], spread: NDArray[np.float64], confidence: float
) -> list[Range]:
    """``θ̂ ± z s``, s the root mean square distance of the half samples' values from θ̂."""
    reach = NormalDist().inv_cdf(0.5 * (1.0 + confidence))
    error = reach * np.sqrt(np.mean((spread - whole) ** 2, axis=0))
    return [
        Range(float(value), float(value - e), float(value + e))
        for value, e in zip(whole, error, strict=True)
    ]


def squared(root: Range) -> Range:
    """From a root to its square; what is below zero counts as zero."""
    return Range(*(max(0.0, end) ** 2 for end in root))


def verdict(found: Range) -> bool | None:
    """Whether a number is above zero; None where its interval holds it."""
    return True if found.low > 0.0 else False if found.high < 0.0 else None
