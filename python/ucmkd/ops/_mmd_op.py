r"""The operator ``ucmkd::mmd``: backends, shapes, and its derivatives.

One fused pass gives the value and the gradients that are wanted; no kernel matrix is stored
(:mod:`ucmkd.reference.kernels` has the notation). With pair weights :math:`w_{ij}=a_ia_j` or
:math:`a_ib_j`, summed over the classes,

.. math:: \partial_{x_i} = -2\Big[\sum_j w_{ij}c_{ij}(x_i-x_j) - \sum_j w_{ij}c_{ij}(x_i-y_j)\Big].

Backward only multiplies. With ``create_graph=True`` it differentiates the dense formula instead,
which can be differentiated again.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ucmkd import _backend, reference
from ucmkd.ops._plain import tracked, transformed
from ucmkd.ops._scale import scale as scale_by
from ucmkd.ops._solve import as_numpy
from ucmkd.reference import Kernel


class Flag(IntFlag):
    """Options of the operator, in one integer: each argument costs time at every call."""

    UNBIASED = 1
    X = 2  # emit the gradient to x
    Y = 4  # emit the gradient to y
    MASSES = 8  # emit the gradients to both masses
    BANDWIDTH = 16  # emit the derivative with respect to the bandwidth


class Spec(NamedTuple):
    """What is computed, apart from the tensors."""

    kernel: Kernel
    unbiased: bool
    backend: str


#: Entries of a gradient that are multiplied without further ado.
SMALL = 32768

Outputs = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def _rust(
    x: Tensor, y: Tensor, a: Tensor | None, b: Tensor | None, sigma: Any, spec: Spec, flags: int
) -> Outputs:
    """The Rust kernels, on points ``(n, d)`` or ``(B, n, d)``; ``sigma`` is a float64 array."""
    left, right = as_numpy(x), as_numpy(y)
    single = left.ndim == 2
    if single:
        left, right = left[None], right[None]

    def masses(weight: Tensor | None, points: Any) -> Any:
        return None if weight is None else as_numpy(weight).reshape(*points.shape[:2], -1)

    kernel = spec.kernel
    value, *grads = _backend.rust().mmd(
        left,
        right,
        masses(a, left),
        masses(b, right),
        sigma,
        kernel.name,
        kernel.scales,
        (kernel.degree, kernel.gamma, kernel.coef),
        flags,
        torch.get_num_threads(),
    )
    shapes: list[Any] = [x.shape, y.shape, left.shape[:2], right.shape[:2]]
    for i, weight in ((2, a), (3, b)):
        if weight is not None:
            shapes[i] = weight.shape
    found: list[Tensor | None] = [None] * 5
    for i, gradient in enumerate(grads):
        if gradient is not None:
            found[i] = torch.from_numpy(gradient.reshape(shapes[i]) if i < 4 else gradient)
    return (torch.from_numpy(value.reshape(()) if single else value), *found)  # type: ignore[return-value]


def _batched(
    x: Tensor, y: Tensor, a: Tensor | None, b: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four tensors with their batch dimension; uniform masses where there are none."""
    if x.dim() == 2:
        x, y = x.unsqueeze(0), y.unsqueeze(0)
    batch, n, m = x.shape[0], x.shape[1], y.shape[1]
    return (
        x,
        y,
        x.new_full((batch, n), 1 / n) if a is None else a,
        x.new_full((batch, m), 1 / m) if b is None else b,
    )


def _torch(
    x: Tensor, y: Tensor, a: Tensor | None, b: Tensor | None, sigma: Tensor, spec: Spec, flags: int
) -> Outputs:
    """The reference, for any device."""
    keywords: dict[str, Any] = dict(
        bandwidth=sigma.to(x.dtype), kernel=spec.kernel, unbiased=spec.unbiased
    )
    arguments = _batched(x, y, a, b)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        value = reference.mmd(*arguments, **keywords)
        shape = () if x.dim() == 2 else (x.shape[0],)
        if not flags & ~Flag.UNBIASED:
            return value.reshape(shape), None, None, None, None, None
        grads = reference.mmd_gradient(*arguments, **keywords)
    masses = bool(flags & Flag.MASSES)
    return (
        value.reshape(shape),
        grads.x.reshape(x.shape) if flags & Flag.X else None,
        grads.y.reshape(y.shape) if flags & Flag.Y else None,
        grads.a.reshape(grads.a.shape if a is None else a.shape) if masses else None,
        grads.b.reshape(grads.b.shape if b is None else b.shape) if masses else None,
        grads.bandwidth.double() if flags & Flag.BANDWIDTH else None,
    )


def _points_type(x: Tensor, y: Tensor, dtype: torch.dtype, backend: str) -> torch.dtype:
    """The type in which a backend takes the points: Triton multiplies 16-bit ones as they are."""
    return x.dtype if backend == "triton" and x.dtype == y.dtype else dtype


def compute(
    x: Tensor, y: Tensor, a: Tensor | None, b: Tensor | None, sigma: Any, spec: Spec, flags: int
) -> Outputs:
    """Value and wanted gradients; all tensors are of one type, ``sigma`` float64 ``(B,)``.

    Only Triton takes 16-bit points; what it returns is float32 all the same.
    """
    if spec.backend == "rust":
        if isinstance(sigma, Tensor):
            sigma = as_numpy(sigma)
        return _rust(x, y, a, b, sigma, spec, flags)
    if spec.backend == "triton":
        from ucmkd.ops import _triton_mmd

        return _triton_mmd.compute(x, y, a, b, sigma, spec, flags)
    return _torch(x, y, a, b, torch.as_tensor(sigma, device=x.device), spec, flags)


def _again(
    inputs: tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None],
    wanted: tuple[bool, ...],
    sigma: Any,
    spec: Spec,
    gradient: Tensor,
) -> list[Tensor | None]:
    """The gradients by the dense formula, differentiable again."""
    dtype = torch.float64 if inputs[0].dtype == torch.float64 else torch.float32
    if inputs[1].dtype == torch.float64:
        dtype = torch.float64
    with torch.enable_grad(), torch.autocast(inputs[0].device.type, enabled=False):
        # A view each: one tensor may stand in two places, and only its own share is asked for.
        views = [None if t is None else t.view_as(t) for t in inputs]
        x, y, a, b, width = (None if t is None else t.to(dtype) for t in views)
        assert x is not None and y is not None
        arguments = _batched(x, y, a, b)
        if width is None:
            width = torch.as_tensor(sigma, device=x.device).to(dtype)
        value = reference.mmd(
            *arguments,
            bandwidth=width.expand(arguments[0].shape[0]),
            kernel=spec.kernel,
            unbiased=spec.unbiased,
        )
        leaves = [t for t, want in zip(views, wanted, strict=True) if want and t is not None]
        factor = gradient.to(dtype).reshape(value.shape)
        found = iter(
            torch.autograd.grad(value, leaves, factor, create_graph=True, allow_unused=True)
        )
    return [next(found) if want else None for want in wanted]


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """``tensor.to(dtype)``, without the call where there is nothing to do."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


class DirectMMD(torch.autograd.Function):
    """The eager path: no dispatcher, no cast and no reshape that autograd would have to record."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        a: Tensor | None,
        b: Tensor | None,
        width: Tensor | None,
        sigma: Any,
        spec: Spec,
        dtype: torch.dtype,
    ) -> Tensor:
        """``width`` is a bandwidth with a gradient, ``sigma`` the numbers ``(B,)`` in float64."""
        need = ctx.needs_input_grad
        flags = (
            spec.unbiased * Flag.UNBIASED
            | need[0] * Flag.X
            | need[1] * Flag.Y
            | (need[2] or need[3]) * Flag.MASSES
            | need[4] * Flag.BANDWIDTH
        )
        kind = _points_type(x, y, dtype, spec.backend)
        left, right = _cast(x, kind), _cast(y, kind)
        first, second = (None if w is None else _cast(w, dtype) for w in (a, b))
        value, *ctx.gradients = compute(left, right, first, second, sigma, spec, int(flags))
        ctx.save_for_backward(*tracked(x, y, a, b, width))
        ctx.sigma, ctx.spec = sigma, spec
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[:5]
        if torch.is_grad_enabled():
            found = _again(ctx.saved_tensors, wanted, ctx.sigma, ctx.spec, gradient)
            return (*found, None, None, None)
        result: list[Tensor | None] = [None] * 8
        for i, stored in enumerate(ctx.gradients):
            if wanted[i]:
                small = gradient.dim() == 0 and stored.numel() < SMALL
                result[i] = stored * gradient if small else scale_by(stored, gradient)
        if wanted[4]:
            width = ctx.saved_tensors[4]
            assert result[4] is not None
            result[4] = result[4].sum_to_size(width.shape)
        # Autograd casts a gradient to the type of its input.
        return tuple(result)


@torch.library.custom_op("ucmkd::mmd", mutates_args=())
def mmd_op(
    x: Tensor,
    y: Tensor,
    x_mass: Tensor | None,
    y_mass: Tensor | None,
    bandwidth: Tensor,
    kernel: str,
    scales: list[float],
    polynomial: list[float],
    flags: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The pass; value ``(B,)``, then the gradients to x, y, the masses and the bandwidth.

    Points ``(B, n, d)``, masses ``(B, n)`` or ``(B, n, K)``, bandwidth ``(B,)`` in float64;
    ``polynomial`` holds the degree, the factor and the offset, ``flags`` are :class:`Flag`. A
    gradient that is not wanted is empty.
    """
    spec = _spec(kernel, scales, polynomial, flags, backend)
    value, *grads = compute(x, y, x_mass, y_mass, bandwidth.detach(), spec, flags)
    return (value, *(x.new_empty(0) if g is None else g for g in grads))  # type: ignore[return-value]


def _spec(
    kernel: str, scales: list[float], polynomial: list[float], flags: int, backend: str
) -> Spec:
    shape = Kernel(kernel, tuple(scales), int(polynomial[0]), polynomial[1], polynomial[2])
    return Spec(shape, bool(flags & Flag.UNBIASED), backend)


@mmd_op.register_fake
def _(  # type: ignore[no-untyped-def]
    x, y, x_mass, y_mass, bandwidth, kernel, scales, polynomial, flags, backend
):
    # 16-bit points give float32.
    wide = torch.promote_types(x.dtype, torch.float32)

    def like(flag, tensor, shape=None, dtype=wide):  # type: ignore[no-untyped-def]
        if not flags & flag:
            return x.new_empty(0)
        return x.new_empty(tensor.shape if shape is None else shape, dtype=dtype)

    return (
        x.new_empty((x.shape[0],), dtype=wide),
        like(Flag.X, x),
        like(Flag.Y, y),
        like(Flag.MASSES, x_mass, x.shape[:2] if x_mass is None else None),
        like(Flag.MASSES, y_mass, y.shape[:2] if y_mass is None else None),
        like(Flag.BANDWIDTH, bandwidth, None, torch.float64),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tracked(*inputs[:5], *output[1:]))
    ctx.spec = _spec(*inputs[5:])


def _backward(ctx: Any, gradient: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    none: tuple[None, ...] = (None,) * 5
    if gradient is None:
        return none + none
    saved, wanted = ctx.saved_tensors, ctx.needs_input_grad[:5]
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return (*_again(saved[:5], wanted, None, ctx.spec, gradient), *none)
    result: list[Tensor | None] = [None] * 5
    for i, stored in enumerate(saved[5:]):
        if wanted[i]:
            if stored.numel() == 0:
                raise RuntimeError("ucmkd::mmd was run without the gradient that is now needed")
            result[i] = scale_by(stored, gradient)
    return (*result, *none)


mmd_op.register_autograd(_backward, setup_context=_setup)


def apply(
    x: Tensor,
    y: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    bandwidth: Any,
    spec: Spec,
    dtype: torch.dtype,
    direct: bool,
) -> Tensor:
    """MMD² of points ``(n, d)`` or ``(B, n, d)``, differentiable.

    Args:
        x: Floating, of any type.
        y: Likewise.
        a: Masses ``(B, n)`` or ``(B, n, K)``, or None.
        b: Masses of ``y``.
        bandwidth: A tensor, 0-d or ``(B,)``, or an array ``(B,)`` in float64.
        spec: The rest.
        dtype: The type of the computation.
        direct: :func:`ucmkd.ops._plain.plain` of the tensors.
    """
    batch = x.shape[0] if x.dim() == 3 else 1
    if not direct:
        if not isinstance(bandwidth, Tensor):
            bandwidth = torch.as_tensor(bandwidth, device=x.device)
        single = x.dim() == 2
        if single:
            x, y = x.unsqueeze(0), y.unsqueeze(0)
        kind = _points_type(x, y, dtype, spec.backend)
        x, y = x.to(kind), y.to(kind)
        a, b = (None if w is None else w.to(dtype) for w in (a, b))
        cast = (x, y, a, b)
        need = [torch.is_grad_enabled() and t is not None and t.requires_grad for t in cast]
        sigma = bandwidth.to(torch.float64).expand(batch)
        if transformed():
            from ucmkd.ops import _transforms  # which builds on this module

            value = _transforms.mmd(x, y, a, b, sigma, spec)
            return value.squeeze(0) if single else value
        flags = (
            spec.unbiased * Flag.UNBIASED
            | need[0] * Flag.X
            | need[1] * Flag.Y
            | (need[2] or need[3]) * Flag.MASSES
            | (torch.is_grad_enabled() and sigma.requires_grad) * Flag.BANDWIDTH
        )
        kernel = spec.kernel
        value = mmd_op(
            *cast, sigma, kernel.name, list(kernel.scales),
            [float(kernel.degree), kernel.gamma, kernel.coef], int(flags), spec.backend,
        )[0]  # fmt: skip
        return value.squeeze(0) if single else value
    width = None
    if isinstance(bandwidth, Tensor) and spec.backend == "triton":
        # It stays on the device.
        width = bandwidth if bandwidth.requires_grad else None
        bandwidth = bandwidth.detach().to(torch.float64).expand(batch).contiguous()
    elif isinstance(bandwidth, Tensor):
        width = bandwidth if bandwidth.requires_grad else None
        bandwidth = np.array(
            bandwidth.detach().to("cpu", torch.float64).expand(batch).numpy(), order="C"
        )
    return DirectMMD.apply(x, y, a, b, width, bandwidth, spec, dtype)
