r"""Squared maximum mean discrepancy: ``ucmkd.ops.mmd`` and the operator ``ucmkd::mmd``.

One fused pass gives the value and, when asked, the gradient to the points; no kernel matrix is
stored (:func:`ucmkd.reference.mmd` has the formula). With
:math:`w_{ij} = \frac1S\sum_s k_s(x_i,x_j)/(s\sigma)^2` the gradient is

.. math:: \partial_{x_i} = -2a_i\Big[\sum_j a_j w_{ij}(x_i-x_j) - \sum_j b_j w_{ij}(x_i-y_j)\Big].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ucmkd import _backend, reference
from ucmkd.ops import _check
from ucmkd.ops._check import Number
from ucmkd.ops._once import once
from ucmkd.ops._scale import scale
from ucmkd.ops._solve import as_numpy

KERNELS = ("gaussian",)
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
#: Pooled points above which the median bandwidth is taken on a subsample.
MEDIAN_LIMIT = 1024


@torch.library.custom_op("ucmkd::mmd", mutates_args=())
def mmd_op(
    x: Tensor,
    y: Tensor,
    x_weight: Tensor | None,
    y_weight: Tensor | None,
    bandwidth: Tensor,
    scales: list[float],
    unbiased: bool,
    want_x: bool,
    want_y: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """value ``(B,)``, then the gradients to x, y, the two weights and the bandwidth."""
    if backend == "rust":
        out = _backend.rust().mmd(
            as_numpy(x),
            as_numpy(y),
            as_numpy(x_weight),
            as_numpy(y_weight),
            as_numpy(bandwidth),
            scales,
            unbiased,
            want_x,
            want_y,
            torch.get_num_threads(),
        )
        value, gx, gy, ga, gb, gs = (torch.from_numpy(array) for array in out)
        return value.to(x.dtype), gx, gy, ga, gb, gs
    batch, n, _ = x.shape
    m = y.shape[1]
    # Differences are what counts: a far-away cloud must not lose digits.
    centre = y.mean(1, keepdim=True)
    arguments = (
        x - centre,
        y - centre,
        x.new_full((batch, n), 1 / n) if x_weight is None else x_weight,
        x.new_full((batch, m), 1 / m) if y_weight is None else y_weight,
    )
    keywords: dict[str, Any] = dict(
        bandwidth=bandwidth.to(x.dtype), scales=tuple(scales), unbiased=unbiased
    )
    with torch.no_grad():
        value = reference.mmd(*arguments, **keywords)
        grads = reference.mmd_gradient(*arguments, **keywords)
    empty = x.new_empty(0)
    return (
        value,
        grads.x if want_x else empty,
        grads.y if want_y else empty.clone(),
        grads.a,
        grads.b,
        grads.bandwidth.to(bandwidth.dtype),
    )


@mmd_op.register_fake
def _(  # type: ignore[no-untyped-def]
    x, y, x_weight, y_weight, bandwidth, scales, unbiased, want_x, want_y, backend
):
    contiguous = torch.contiguous_format
    return (
        x.new_empty((x.shape[0],)),
        torch.empty_like(x, memory_format=contiguous) if want_x else x.new_empty(0),
        torch.empty_like(y, memory_format=contiguous) if want_y else x.new_empty(0),
        x.new_empty(x.shape[:2]),
        x.new_empty(y.shape[:2]),
        bandwidth.new_empty(bandwidth.shape),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[1:])


def _backward(ctx: Any, grad_value: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    none: list[Tensor | None] = [None] * 10
    if grad_value is None:
        return tuple(none)
    for i, saved in enumerate(ctx.saved_tensors):
        if not ctx.needs_input_grad[i]:
            continue
        if saved.numel() == 0:
            raise RuntimeError("ucmkd::mmd was run without the gradient that is now needed")
        none[i] = once(scale(saved, grad_value))
    return tuple(none)


mmd_op.register_autograd(_backward, setup_context=_setup)


@torch.library.custom_op("ucmkd::median_bandwidth", mutates_args=())
def median_bandwidth_op(
    x: Tensor, y: Tensor, x_weight: Tensor | None, y_weight: Tensor | None, backend: str
) -> Tensor:
    """The median heuristic ``(B,)`` in float64; not differentiable."""
    if backend == "rust":
        out = _backend.rust().median_bandwidth(
            as_numpy(x),
            as_numpy(y),
            as_numpy(x_weight),
            as_numpy(y_weight),
            MEDIAN_LIMIT,
            torch.get_num_threads(),
        )
        return torch.from_numpy(out)
    a = x.new_ones(x.shape[:2]) if x_weight is None else x_weight
    b = y.new_ones(y.shape[:2]) if y_weight is None else y_weight
    return reference.median_bandwidth(x, y, a, b, MEDIAN_LIMIT).double()


@median_bandwidth_op.register_fake
def _(x, y, x_weight, y_weight, backend):  # type: ignore[no-untyped-def]
    return x.new_empty((x.shape[0],), dtype=torch.float64)


for _device in ("cpu", "cuda"):
    mmd_op.register_autocast(_device, torch.float32)
    median_bandwidth_op.register_autocast(_device, torch.float32)


def pooled_median(x: Tensor, y: Tensor, a: Tensor | None, b: Tensor | None, backend: str) -> Tensor:
    """The median bandwidth ``(1,)`` of one problem ``(n, d)``, detached."""
    dtype = _check.compute_dtype(x, y)
    chosen = _backend.choose(backend, x.device, dtype, supported=("rust", "torch"))
    rows = [None if w is None else w.detach().to(dtype).reshape(1, -1) for w in (a, b)]
    points = (t.detach().to(dtype).unsqueeze(0) for t in (x, y))
    return median_bandwidth_op(*points, *rows, chosen)


def _scales(scales: Sequence[float]) -> list[float]:
    try:
        values = [float(s) for s in scales]
    except (TypeError, ValueError):
        values = []
    if not values or not all(0 < s < float("inf") for s in values):
        raise ValueError(f"scales must be one or more positive numbers; got {scales!r}")
    return values


def mmd(
    x: Tensor,
    y: Tensor,
    *,
    kernel: str = "gaussian",
    bandwidth: str | Number = "median",
    scales: Sequence[float] = SCALES,
    estimator: str = "v",
    x_weight: Tensor | None = None,
    y_weight: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    r"""Squared maximum mean discrepancy between two point clouds.

    .. math::
        \mathrm{MMD}^2 = a^\top K_{xx}a + b^\top K_{yy}b - 2a^\top K_{xy}b,\qquad
        k(x,y) = \frac1S\sum_{s} \exp\!\Big(-\frac{|x-y|^2}{2(s\sigma)^2}\Big).

    Differentiable (once) to the points, the weights and a ``bandwidth`` tensor.

    Args:
        x: Points ``(n, d)`` or ``(B, n, d)``.
        y: Points ``(m, d)`` or ``(B, m, d)``.
        kernel: ``"gaussian"``.
        bandwidth: σ > 0 in units of the features, a number or a 0-d tensor; or ``"median"``:
            the root of the median of the pooled off-diagonal squared distances, detached. Above
            1024 pooled points the median is that of an evenly spaced subsample of 1024.
        scales: The factors of σ whose kernels are averaged.
        estimator: ``"v"`` (≥ 0 up to rounding) or ``"u"`` (unbiased, may be negative).
        x_weight: Masses ``(n,)`` or ``(B, n)``, default ``1/n``; a zero weight masks the point.
        y_weight: Masses of ``y``.
        backend: ``"auto"``, ``"rust"`` or ``"torch"``.

    Returns:
        A 0-d tensor, or ``(B,)`` for batched points.

    Raises:
        TypeError: A tensor of the wrong kind.
        ValueError: Shapes, weights, bandwidth, scales or names that are not accepted.

    Source: Gretton et al. 2012, eq. 3 and 5; several scales after Long et al. 2015.
    """
    return run(
        x, y, kernel=kernel, bandwidth=bandwidth, scales=scales, estimator=estimator,
        x_weight=x_weight, y_weight=y_weight, backend=backend, names=("x", "y"),
    )  # fmt: skip


def run(
    x: Tensor,
    y: Tensor,
    *,
    kernel: str,
    bandwidth: str | Number,
    scales: Sequence[float],
    estimator: str,
    x_weight: Tensor | None,
    y_weight: Tensor | None,
    backend: str,
    names: tuple[str, str],
) -> Tensor:
    """:func:`mmd` for a caller whose arguments have other ``names``."""
    _check.pair(x, y, *names)
    _check.one_of(kernel, KERNELS, "kernel")
    _check.one_of(estimator, ("v", "u"), "estimator")
    factors = _scales(scales)
    single = x.dim() == 2
    if single:
        x, y = x.unsqueeze(0), y.unsqueeze(0)
    batch, n, _ = x.shape
    dtype = _check.compute_dtype(x, y)
    a = _check.weight(x_weight, (batch, n), f"{names[0]}_weight", x)
    b = _check.weight(y_weight, (batch, y.shape[1]), f"{names[1]}_weight", x)
    x, y = x.to(dtype), y.to(dtype)
    a = None if a is None else a.to(dtype)
    b = None if b is None else b.to(dtype)
    chosen = _backend.choose(backend, x.device, dtype, supported=("rust", "torch"))
    if isinstance(bandwidth, str):
        _check.one_of(bandwidth, ("median",), "bandwidth")
        detached = [None if t is None else t.detach() for t in (a, b)]
        sigma = median_bandwidth_op(x.detach(), y.detach(), *detached, chosen)
    else:
        given = _check.number(bandwidth, "bandwidth", x, batch, minimum=0.0, strict=True)
        sigma = _check.pack([given], x, batch).squeeze(0)
    grad = torch.is_grad_enabled()
    value = mmd_op(
        x, y, a, b, sigma, factors, estimator == "u", grad and x.requires_grad,
        grad and y.requires_grad, chosen,
    )[0]  # fmt: skip
    return value.squeeze(0) if single else value
