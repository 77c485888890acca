"""Checked numbers as one tensor on the device of the points."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ucmkd.ops._check import Number
from ucmkd.ops._scale import cast


def pack(values: Sequence[Number], like: Tensor, batch: int) -> Tensor:
    """Checked numbers as one float64 tensor ``(len(values), B)`` on the device of ``like``.

    One tensor in place of several keeps a call of the operator cheap.
    """
    if not any(isinstance(value, Tensor) for value in values):
        if torch.compiler.is_compiling():
            rows = torch.tensor(values, dtype=torch.float64, device=like.device)
            return rows.unsqueeze(1).expand(len(values), batch)
        if like.device.type == "cuda":
            given = tuple(map(float, values))
            if torch.cuda.is_current_stream_capturing():
                return _filled(given, batch, like.device)
            return _kept(given, batch, like.device)
        # Three times as fast as a tensor from a list.
        array = np.empty((len(values), batch))
        array.T[:] = values
        return torch.from_numpy(array).to(like.device)
    return torch.stack(
        [
            cast(value, torch.float64).expand(batch)
            if isinstance(value, Tensor)
            else torch.full((batch,), value, dtype=torch.float64, device=like.device)
            for value in values
        ]
    )


def _filled(values: tuple[float, ...], batch: int, device: torch.device) -> Tensor:
    """Rows of numbers, made on the device: a copy from the host would wait for it."""
    with torch.inference_mode(False):  # of use outside of it, too
        rows = torch.empty((len(values), batch), dtype=torch.float64, device=device)
        for row, value in zip(rows, values, strict=True):
            row.fill_(value)
    return rows


@functools.lru_cache(maxsize=64)
def _kept(values: tuple[float, ...], batch: int, device: torch.device) -> Tensor:
    """The same for a training loop, which comes with the same numbers at every step: they are
    waited for once, so that every stream may read them. Nothing writes to them."""
    rows = _filled(values, batch, device)
    torch.cuda.current_stream(device).synchronize()
    return rows
