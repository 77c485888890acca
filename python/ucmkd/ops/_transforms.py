r"""The operators under ``torch.func``: ``grad``, ``vjp``, ``jacrev``, ``vmap`` and their nestings.

A ``torch.library`` operator with a derivative does not pass through these transforms; an
``autograd.Function`` with ``setup_context`` and ``vmap`` does. Problems under ``vmap`` become
problems of one batch, solved in one call. First derivatives only: forward and backward are
emitted by the solver, and what they depend on is not differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ucmkd.ops import _envelope
from ucmkd.ops._mmd_op import Flag as MMDFlag
from ucmkd.ops._mmd_op import Spec, compute
from ucmkd.ops._plain import tracked
from ucmkd.ops._scale import saturated
from ucmkd.ops._sinkhorn_op import absolute, class_gradient
from ucmkd.ops._solve import Flag, as_tensors, solve
from ucmkd.reference import Solution

#: Where the problems of one batch stand in each argument; None: all problems share it.
_SINKHORN_BATCH = (0, 0, 0, 0, 0, 0, None, 0, 1)
_MMD_BATCH = (0, 0, 0, 0, 0)


def _merge(value: Tensor | None, dim: int | None, size: int, batch: int | None) -> Tensor | None:
    """An argument of ``size`` mapped calls as one: their batches one behind the other."""
    if value is None:
        return None
    if batch is None:
        return value
    moved = value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)
    # A tensor (B, ...) or (4, B), of which there are now `size`.
    return moved.movedim(0, batch).flatten(batch, batch + 1)


def _split(value: Tensor, size: int) -> tuple[Tensor, int | None]:
    """A result ``(size * B, ...)`` per mapped call; an empty one is the same for all."""
    if value.numel() == 0:
        return value, None
    return value.unflatten(0, (size, value.shape[0] // size)), 0


def _mapped(
    apply: Callable[..., tuple[Tensor, ...]],
    size: int,
    in_dims: Sequence[int | None],
    batch: Sequence[int | None],
    args: Sequence[Any],
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    count = len(batch)
    tensors = (
        _merge(value, dim, size, place)
        for value, dim, place in zip(args[:count], in_dims[:count], batch, strict=True)
    )
    found = apply(*tensors, *args[count:])
    values, dims = zip(*(_split(value, size) for value in found), strict=True)
    return values, dims


class _Product(torch.autograd.Function):
    """Stored derivatives times the incoming one; differentiable in the latter alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(factor: Tensor, gradient: Tensor, *sources: Tensor) -> Tensor:
        wide = factor.reshape(-1, *[1] * (gradient.dim() - 1))
        return (wide.to(gradient.dtype) * gradient).clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[Tensor | None, ...]:
        raise NotImplementedError(
            "the alignment losses have first derivatives under torch.func; for second ones use "
            "torch.autograd.grad(..., create_graph=True)"
        )


def _times(factor: Tensor, gradient: Tensor, sources: Sequence[Tensor | None]) -> Tensor:
    """``factor (B,)`` times ``gradient (B, ...)``; its own derivative is refused, not 0."""
    return _Product.apply(factor, gradient, *(s for s in sources if s is not None))


class SinkhornTransform(torch.autograd.Function):
    """``ucmkd::sinkhorn`` as :mod:`ucmkd.ops._sinkhorn_op` has it, for transforms."""

    @staticmethod
    def forward(
        x: Tensor,
        y: Tensor | None,
        a: Tensor | None,
        b: Tensor | None,
        k: Tensor | None,
        l: Tensor | None,  # noqa: E741
        distance: Tensor | None,
        start: Tensor | None,
        parameters: Tensor,
        cost: str,
        tol: float,
        max_iter: int,
        flags: int,
        backend: str,
    ) -> tuple[Tensor, ...]:
        return tuple(
            as_tensors(
                solve(
                    x, y, a, b, k, l, distance, start, parameters, cost, tol, max_iter, flags,
                    backend,
                )
            )
        )  # fmt: skip

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tracked(*inputs[:4], inputs[6], inputs[8], *output))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        if in_dims[6] is not None:
            raise NotImplementedError("label_cost must be the same matrix for all calls under vmap")
        return _mapped(SinkhornTransform.apply, info.batch_size, in_dims, _SINKHORN_BATCH, args)

    @staticmethod
    def backward(ctx: Any, factor: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        out: list[Tensor | None] = [None] * 14
        if factor is None:
            return tuple(out)
        x, y, a, b, distance, parameters, *fields = ctx.saved_tensors
        s, need, sources = (
            Solution(*fields),
            ctx.needs_input_grad,
            (x, y, a, b, parameters, distance),
        )
        if need[0]:
            out[0] = _times(factor, s.grad_x, sources)
        if need[1] and y is not None:
            out[1] = _times(factor, s.grad_y, sources)
        if need[2] or need[3] or need[8]:
            sides = _envelope.Sides(
                s.x_potential, s.y_potential, s.row, s.column, s.transport, s.mismatch
            )
            with torch.no_grad():
                to_a, to_b, to_p = _envelope.gradients(
                    sides, a, b, absolute(parameters, s.scale), (need[2], need[3], need[8]),
                    symmetric=y is None,
                )  # fmt: skip
                ones = torch.ones_like(s.value).unsqueeze(-1)
                to_a = None if to_a is None else saturated(to_a, ones, a.dtype)
                to_b = None if to_b is None else saturated(to_b, ones, b.dtype)
            out[2] = None if to_a is None else _times(factor, to_a, sources)
            out[3] = None if to_b is None else _times(factor, to_b, sources)
            if to_p is not None:
                out[8] = _times(factor, (s.scale * to_p).mT, sources).mT
        if need[6]:
            with torch.no_grad():
                each = [
                    class_gradient(s, parameters, one)
                    for one in torch.eye(len(factor), dtype=torch.float64, device=factor.device)
                ]
            out[6] = _times(factor, torch.stack(each), sources).sum(0).to(distance.dtype)
        return tuple(out)


def sinkhorn(*args: Any, flags: int, backend: str) -> Solution:
    """The solve of ``sinkhorn_op``; all derivatives are emitted, as none can be ruled out."""
    flags |= Flag.X | Flag.Y * (args[1] is not None) | Flag.DISTANCE * (args[6] is not None)
    return Solution(*SinkhornTransform.apply(*args, int(flags), backend))


class MMDTransform(torch.autograd.Function):
    """``ucmkd::mmd`` as :mod:`ucmkd.ops._mmd_op` has it, for transforms."""

    @staticmethod
    def forward(
        x: Tensor,
        y: Tensor,
        a: Tensor | None,
        b: Tensor | None,
        bandwidth: Tensor,
        spec: Spec,
        flags: int,
    ) -> tuple[Tensor, ...]:
        found = compute(x, y, a, b, bandwidth.contiguous(), spec, flags)
        return tuple(x.new_empty(0) if t is None else t for t in found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tracked(*inputs[:5], *output[1:]))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        return _mapped(MMDTransform.apply, info.batch_size, in_dims, _MMD_BATCH, args)

    @staticmethod
    def backward(ctx: Any, factor: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        out: list[Tensor | None] = [None] * 7
        if factor is not None:
            sources, stored = ctx.saved_tensors[:5], ctx.saved_tensors[5:]
            for i, gradient in enumerate(stored):
                if ctx.needs_input_grad[i] and sources[i] is not None:
                    out[i] = _times(factor, gradient, sources)
        return tuple(out)


def mmd(
    x: Tensor, y: Tensor, a: Tensor | None, b: Tensor | None, sigma: Tensor, spec: Spec
) -> Tensor:
    """MMD² ``(B,)`` of batched points; ``sigma`` is float64 ``(B,)``."""
    masses = a is not None or b is not None
    flags = spec.unbiased * MMDFlag.UNBIASED | MMDFlag.X | MMDFlag.Y
    flags |= masses * MMDFlag.MASSES | spec.kernel.has_bandwidth * MMDFlag.BANDWIDTH
    return MMDTransform.apply(x, y, a, b, sigma, spec, int(flags))[0]
