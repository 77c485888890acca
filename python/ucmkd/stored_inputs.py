"""Inputs of a training that stay in a file: read, scaled and moved one batch at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .data.stored import StoredArray, rows_within

#: The most float32 input that `split` hands over at once: the activations of a convolutional
#: network take some ten times as much.
PIECE = 1 << 26


class StoredInputs:
    """What `TrainingData` uses of a tensor `(n, ...)`, over a :class:`StoredArray`.

    ``inputs[index]`` with a tensor of row numbers, or a slice, is a tensor
    ``(value - mean) / scale`` on ``device``; nothing else is ever read.

    Args:
        rows: The rows.
        mean: What is subtracted, broadcast over a row.
        scale: What is divided by.
        device: Of the tensors that come out.
        dtype: Of those tensors.
    """

    def __init__(
        self,
        rows: StoredArray,
        mean: NDArray[np.floating] | float = 0.0,
        scale: NDArray[np.floating] | float = 1.0,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._rows = rows
        self._mean, self._scale = np.float32(mean), np.float32(scale)
        self.device, self.dtype = torch.device(device), dtype

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> torch.Size:
        """`(n, ...)`."""
        return torch.Size(self._rows.shape)

    @property
    def ndim(self) -> int:
        """Number of dimensions, samples included."""
        return self._rows.ndim

    def is_floating_point(self) -> bool:
        """True, as for the tensors that come out."""
        return True

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        chosen = index if isinstance(index, slice) else index.cpu().numpy()
        values = (self._rows.read(chosen) - self._mean) / self._scale
        return torch.from_numpy(values).to(self.device, self.dtype)

    def split(self, size: int) -> Iterator[Tensor]:
        """All rows in order, in pieces of at most ``size`` rows and of at most 64 MiB."""
        step = min(size, rows_within(self._rows.shape, PIECE))
        return (self[start : start + step] for start in range(0, len(self), step))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> StoredInputs:
        """The same rows, to come out on another device or in another type; nothing is read."""
        return StoredInputs(
            self._rows, self._mean, self._scale, device=device, dtype=dtype or self.dtype
        )


Inputs = Tensor | StoredInputs
