"""What the losses on feature maps ``(n, channels, height, width)`` share: their checks."""

from __future__ import annotations

import torch
from torch import Tensor

from ucmkd.ops import _check


def _maps(value: Tensor, name: str) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a floating torch.Tensor; got {kind}")
    if value.dim() != 4 or 0 in value.shape:
        raise ValueError(
            f"{name} must be feature maps (n, channels, height, width), not empty; "
            f"got {tuple(value.shape)}"
        )


def ready_maps(maps: dict[str, Tensor], check_finite: bool) -> list[Tensor]:
    """The maps of the same samples in one floating type of at least float32."""
    for name, value in maps.items():
        _maps(value, name)
    counts = {name: len(value) for name, value in maps.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(f"the maps must be of the same samples; got {listed}")
    if check_finite and not torch.compiler.is_compiling():
        for name, value in maps.items():
            _check.finite(value, name)
    dtype = _check.compute_dtype(*maps.values())
    return [value.to(dtype) for value in maps.values()]
