"""Centring and scaling of columns, fitted on training rows only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ucmkd.data.base import FloatArray


@dataclass(frozen=True)
class Standardiser:
    """`z = (x - mean) / scale`, per column, with the statistics of one side's training rows.

    Teacher and student have one each: their modalities, sample sets and units differ.

    Attributes:
        mean: Mean of the training rows, shape of one sample.
        scale: Their standard deviation (divisor n); 1 where a column is constant.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def fit(cls, train: ArrayLike) -> Standardiser:
        """Fit on training rows `(n, ...)`, n at least 1.

        A column counts as constant if its deviation is below 1e-7 of its largest magnitude, that is
        within the rounding of float32; dividing by such a number would blow rounding up to noise.

        Raises:
            ValueError: No rows, or NaN or Inf among them.
        """
        rows = np.asarray(train, dtype=np.float64)
        if rows.ndim < 2 or len(rows) == 0:
            raise ValueError(
                f"train must be (n, ...) with at least one row, got shape {rows.shape}"
            )
        if not np.isfinite(rows).all():
            raise ValueError("train must be finite, got NaN or Inf")
        deviation = rows.std(axis=0)
        constant = deviation <= 1e-7 * np.abs(rows).max(axis=0)
        return cls(rows.mean(axis=0), np.where(constant, 1.0, deviation))

    def __call__(self, inputs: ArrayLike) -> FloatArray:
        """Standardise `(n, ...)` inputs; float32 out.

        Raises:
            ValueError: The shape of a sample is not that of the training rows.
        """
        rows = self._checked(inputs)
        return ((rows - self.mean) / self.scale).astype(np.float32)

    def inverse(self, outputs: ArrayLike) -> FloatArray:
        """Undo `__call__`, up to rounding.

        Raises:
            ValueError: The shape of a sample is not that of the training rows.
        """
        return (self._checked(outputs) * self.scale + self.mean).astype(np.float32)

    def _checked(self, inputs: ArrayLike) -> NDArray[np.float64]:
        rows = np.asarray(inputs, dtype=np.float64)
        if rows.shape[1:] != self.mean.shape:
            raise ValueError(
                f"inputs must be (n, {', '.join(map(str, self.mean.shape))}), got {rows.shape}"
            )
        return rows

    def state_dict(self) -> dict[str, NDArray[np.float64]]:
        """The statistics, to be stored beside a model."""
        return {"mean": self.mean, "scale": self.scale}

    @classmethod
    def from_state_dict(cls, state: dict[str, NDArray[np.float64]]) -> Standardiser:
        """The inverse of `state_dict`."""
        return cls(np.asarray(state["mean"], np.float64), np.asarray(state["scale"], np.float64))
