"""Rows that stay in a file: what is too big to be held in memory as float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHUNK = 1 << 26  # bytes of float32 held at a time when all rows are read


class StoredArray:
    """Rows of a memory-mapped array, `(n, channels, ...)`, read as float32 when they are needed.

    Indexing chooses rows and reads nothing; `read` returns them. Values are
    `float32(stored) * factor + offset`, so images may be stored as bytes and spectrograms in half
    precision.

    Args:
        source: The whole array, usually a `numpy.memmap`; any real number type.
        factor: What a stored value is multiplied by, e.g. 1/255 for bytes; broadcast over a row.
        offset: What is added to the product.
        rows: `(n,)` row numbers in `source`; None for all.

    Raises:
        ValueError: `source` has fewer than two dimensions.
    """

    def __init__(
        self,
        source: NDArray[Any],
        *,
        factor: NDArray[np.floating] | float = 1.0,
        offset: NDArray[np.floating] | float = 0.0,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        if source.ndim < 2:
            raise ValueError(f"source must be (n, ...), got shape {source.shape}")
        self._source = source
        self._factor, self._offset = np.float32(factor), np.float32(offset)
        self._rows = np.arange(len(source)) if rows is None else np.asarray(rows)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """`(n, ...)`."""
        return (len(self), *self._source.shape[1:])

    @property
    def ndim(self) -> int:
        """Number of dimensions, rows included."""
        return self._source.ndim

    def __getitem__(self, index: NDArray[np.integer] | NDArray[np.bool_] | slice) -> StoredArray:
        """The chosen rows as another `StoredArray`; nothing is read."""
        return StoredArray(
            self._source, factor=self._factor, offset=self._offset, rows=self._rows[index]
        )

    def affine(self, gain: NDArray[np.floating], offset: NDArray[np.floating]) -> StoredArray:
        """The same rows as `gain * value + offset`, both broadcast over a row; nothing is read."""
        factor, moved = self._factor * gain, self._offset * gain + offset
        return StoredArray(self._source, factor=factor, offset=moved, rows=self._rows)

    def read(self, index: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.float32]:
        """The chosen rows `(m, ...)` as float32."""
        values = np.asarray(self._source[self._rows[index]], dtype=np.float32)
        return values * self._factor + self._offset

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self.read().astype(dtype or np.float32, copy=False)

    def channel_moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation (divisor n) of every channel, each `(channels, 1, ...)`.

        One scale per channel and not per cell: it takes one pass in float64, and what a frozen
        convolution has learned elsewhere keeps its meaning at every position.

        Raises:
            ValueError: There are no rows.
        """
        if len(self) == 0:
            raise ValueError("at least one row is needed")
        other = (0, *range(2, self.ndim))
        step = rows_within(self.shape, _CHUNK)
        first = self.read(slice(0, step))
        centre = first.mean(axis=other, keepdims=True, dtype=np.float64)
        total, square = np.zeros_like(centre), np.zeros_like(centre)
        for start in range(0, len(self), step):
            shifted = self.read(slice(start, start + step)) - centre  # against cancellation
            total += shifted.sum(axis=other, keepdims=True)
            square += (shifted**2).sum(axis=other, keepdims=True)
        count = len(self) * np.prod(self.shape[2:], dtype=np.float64)
        variance = np.maximum(square / count - (total / count) ** 2, 0.0)
        return (centre + total / count)[0], np.sqrt(variance)[0]


def rows_within(shape: tuple[int, ...], size: int) -> int:
    """How many float32 rows of `(n, ...)` fit into `size` bytes; at least 1."""
    return max(1, size // (4 * int(np.prod(shape[1:], dtype=np.int64))))
