"""Mean and variance of samples that pass by once."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Moments = tuple[int, NDArray[np.float64], NDArray[np.float64]]
"""How many samples, their mean, and the sum of squared distances from it."""

VALUES = 4096
"""The most values of a sample that have a mean each; of a larger one every channel has."""


class RunningMoments:
    """Welford's recursion over float32 samples of one shape, in float64 (Knuth, TAOCP 2, 4.2.2).

    Args:
        shape: Of a sample; its first axis are the channels.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._whole = math.prod(shape) <= VALUES
        kept = shape if self._whole else (shape[0], *(1,) * (len(shape) - 1))
        self.count = 0
        self.mean, self.square = np.zeros(kept), np.zeros(kept)

    def add(self, sample: NDArray[np.float32]) -> None:
        """One more sample of the shape."""
        values = np.asarray(sample, dtype=np.float64)
        self.count += 1
        if self._whole:
            step = values - self.mean
            self.mean += step / self.count
            self.square += step * (values - self.mean)
            return
        other = tuple(range(1, values.ndim))
        mean = values.mean(axis=other, keepdims=True)
        within = ((values - mean) ** 2).mean(axis=other, keepdims=True)
        step = mean - self.mean
        self.mean += step / self.count
        self.square += within + step * (mean - self.mean)


def pooled(parts: list[Moments]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (divisor n) of several sets together; 1 where it is constant.

    A value counts as constant if its deviation is within the rounding of float32.
    """
    total = sum(count for count, _, _ in parts)
    mean = sum(count / total * own for count, own, _ in parts)
    square = sum(own + count * (centre - mean) ** 2 for count, centre, own in parts)
    deviation = np.sqrt(square / total)
    constant = deviation <= 1e-7 * np.abs(mean)
    return np.asarray(mean), np.where(constant, 1.0, deviation)
