"""The bandwidth of a kernel: from the data, or as given."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ucmkd import _backend, reference
from ucmkd.ops import _check
from ucmkd.ops._check import Number
from ucmkd.ops._median import device_median
from ucmkd.ops._solve import as_numpy

RULES = ("median", "mean")
#: Pooled points above which the median bandwidth is taken on a subsample.
MEDIAN_LIMIT = 1024


def _median(x: Tensor, y: Tensor, a: Tensor | None, b: Tensor | None) -> Any:
    """By Rust, an array ``(B,)``; points ``(n, d)`` or ``(B, n, d)``."""

    def batched(tensor: Tensor | None, rank: int) -> Any:
        array = as_numpy(tensor)
        return array if array is None or array.ndim == rank else array[None]

    def masses(weight: Tensor | None) -> Any:
        array = batched(weight, 2)
        return None if array is None else array[..., None]

    return _backend.rust().median_bandwidth(
        batched(x, 3), batched(y, 3), masses(a), masses(b), MEDIAN_LIMIT, torch.get_num_threads()
    )


@torch.library.custom_op("ucmkd::median_bandwidth", mutates_args=())
def median_bandwidth_op(
    x: Tensor, y: Tensor, x_weight: Tensor | None, y_weight: Tensor | None, backend: str
) -> Tensor:
    """The median heuristic ``(B,)`` in float64; not differentiable."""
    if backend == "rust":
        return torch.from_numpy(_median(x, y, x_weight, y_weight))
    if backend == "triton" or x.device.type != "cpu":
        return device_median(x, y, x_weight, y_weight, MEDIAN_LIMIT)
    a = x.new_ones(x.shape[:2]) if x_weight is None else x_weight
    b = y.new_ones(y.shape[:2]) if y_weight is None else y_weight
    return reference.median_bandwidth(x, y, a, b, MEDIAN_LIMIT).double()


@median_bandwidth_op.register_fake
def _(x, y, x_weight, y_weight, backend):  # type: ignore[no-untyped-def]
    return x.new_empty((x.shape[0],), dtype=torch.float64)


@median_bandwidth_op.register_vmap
def _(info, in_dims, x, y, x_weight, y_weight, backend):  # type: ignore[no-untyped-def]
    size = info.batch_size
    merged = (
        None if t is None else
        (t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)).flatten(0, 1)
        for t, dim in zip((x, y, x_weight, y_weight), in_dims, strict=False)
    )  # fmt: skip
    return median_bandwidth_op(*merged, backend).unflatten(0, (size, -1)), 0


for _device in ("cpu", "cuda"):
    median_bandwidth_op.register_autocast(_device, torch.float32)


def bandwidth_of(
    bandwidth: str | Number,
    x: Tensor,
    y: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    backend: str,
    dtype: torch.dtype,
    direct: bool,
) -> Any:
    """A checked bandwidth: the tensor that was given, or numbers ``(B,)`` in float64.

    Args:
        bandwidth: ``"median"``, ``"mean"``, a number, or a tensor 0-d or ``(B,)``.
        x: Points ``(n, d)`` or ``(B, n, d)``.
        y: Points of the same rank.
        a: Masses ``(B, n)``: a point of zero mass does not count. The others count alike.
        b: Masses of ``y``.
        backend: Of the operators.
        dtype: The type of the computation.
        direct: The eager path: numbers come as an array.
    """
    batch = x.shape[0] if x.dim() == 3 else 1
    if not isinstance(bandwidth, str):
        if direct and type(bandwidth) is float and 0 < bandwidth < math.inf:
            return np.array([bandwidth] * batch)
        given = _check.number(bandwidth, "bandwidth", x, batch, minimum=0.0, strict=True)
        if isinstance(given, Tensor):
            return given
        if direct:
            return np.full(batch, given)
        return torch.full((batch,), given, dtype=torch.float64, device=x.device)
    if bandwidth not in RULES:
        raise ValueError(
            "bandwidth must be one of 'median', 'mean', or a number or tensor > 0; "
            f"got {bandwidth!r}"
        )
    x, y = x.detach().to(dtype), y.detach().to(dtype)
    rows = [None if w is None else w.detach().to(dtype) for w in (a, b)]
    if bandwidth == "median" and direct and backend == "rust":
        return _median(x, y, *rows)
    if x.dim() == 2:
        x, y = x.unsqueeze(0), y.unsqueeze(0)
    if bandwidth == "mean":
        return reference.mean_bandwidth(x, y, *rows)
    return median_bandwidth_op(x, y, *rows, backend)
