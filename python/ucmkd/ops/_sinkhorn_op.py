r"""The operator ``ucmkd::sinkhorn``: backends, shapes, and its derivatives.

The operator solves the batch *and* emits the envelope gradient to the points in the same call,
while the kernel is still at hand; its backward only multiplies. The dual value, at the returned
potentials, has the derivatives (:mod:`ucmkd.reference` has the notation)

.. math::
    \partial_{x_i} = \sum_j P_{ij}\,\partial_{x_i} c(x_i,y_j),\quad
    \partial_{a_i} = \varphi_x(f_i) - \varepsilon (r_i - m_b),\quad
    \partial_\varepsilon = \mathrm{KL}(P|a\otimes b),\quad
    \partial_{\rho_x} = \mathrm{KL}(a e^{-f/\rho_x}|a),\quad
    \partial_\lambda = \sum_{ij} P_{ij}[k_i\neq l_j].
"""

from __future__ import annotations

from enum import IntFlag
from typing import Any

import torch
from torch import Tensor

from ucmkd import _backend, reference
from ucmkd.ops._once import once
from ucmkd.ops._scale import scale as scale_by


class Flag(IntFlag):
    """Options of the operator, in one integer: each argument costs time at every call."""

    RELATIVE = 1  # ε, ρ and the label cost are in units of the mean feature cost
    X = 2  # emit the gradient to x
    Y = 4  # emit the gradient to y
    ACCELERATE = 8


def as_numpy(tensor: Tensor | None) -> Any:
    """The memory of a CPU tensor as an array; None stays None."""
    return None if tensor is None else tensor.detach().contiguous().numpy()


@torch.library.custom_op("ucmkd::sinkhorn", mutates_args=())
def sinkhorn_op(
    x: Tensor,
    y: Tensor | None,
    x_weight: Tensor | None,
    y_weight: Tensor | None,
    x_label: Tensor | None,
    y_label: Tensor | None,
    start: Tensor | None,
    parameters: Tensor,
    cost: str,
    tol: float,
    max_iter: int,
    flags: int,
    backend: str,
) -> tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
    Tensor,
]:  # fmt: skip
    """The solve; ``y=None`` is the symmetric self-term. Fields as in ``reference.Solution``.

    ``start`` is the y-potential to begin from (the only one of a self-term); ``parameters``
    holds ε, ρ_x, ρ_y and the label cost in its rows ``(4, B)``; ``flags`` are :class:`Flag`.
    """
    relative, want_x, want_y = (bool(flags & f) for f in (Flag.RELATIVE, Flag.X, Flag.Y))
    if backend == "rust":
        start_numpy = as_numpy(start)
        out = _backend.rust().sinkhorn(
            as_numpy(x),
            as_numpy(y),
            as_numpy(x_weight),
            as_numpy(y_weight),
            as_numpy(x_label),
            as_numpy(y_label),
            None,
            start_numpy if y is None else None,
            None if y is None else start_numpy,
            *as_numpy(parameters),
            cost,
            relative,
            tol,
            max_iter,
            want_x,
            want_y,
            False,
            bool(flags & Flag.ACCELERATE),
            512 << 20,
            torch.get_num_threads(),
        )
        tensors = [torch.from_numpy(array) for array in out[:13]]
        for i in (0, 4, 6, 9, 10):  # per-problem numbers come in float64
            tensors[i] = tensors[i].to(x.dtype)
        return tuple(tensors)  # type: ignore[return-value]
    batch, n, _ = x.shape
    other = x if y is None else y
    m = other.shape[1]
    a = x.new_full((batch, n), 1 / n) if x_weight is None else x_weight
    b = x.new_full((batch, m), 1 / m) if y_weight is None else y_weight
    if y is None:
        b = a
    if start is not None:
        start = torch.nan_to_num(start, nan=0.0, posinf=0.0, neginf=0.0)
    epsilon, reach_x, reach_y, label_cost = parameters.to(x.dtype)
    keywords: dict[str, Any] = dict(
        epsilon=epsilon,
        cost=cost,
        reach_x=reach_x,
        reach_y=reach_y,
        x_label=x_label,
        y_label=y_label,
        label_cost=label_cost,
        g0=start,
        relative=relative,
        tol=tol,
        max_iter=max_iter,
        want_x=want_x,
        want_y=want_y,
    )
    with torch.no_grad():
        if backend == "triton":
            from ucmkd.ops import _triton

            return tuple(_triton.solve(x, y, a, b, **keywords))  # type: ignore[return-value]
        return tuple(reference.sinkhorn(x, y, a, b, **keywords))  # type: ignore[return-value]


@sinkhorn_op.register_fake
def _(  # type: ignore[no-untyped-def]
    x, y, x_weight, y_weight, x_label, y_label, start, parameters, cost, tol, max_iter, flags,
    backend,
):  # fmt: skip
    want_x, want_y = bool(flags & Flag.X), bool(flags & Flag.Y)
    batch, n = x.shape[0], x.shape[1]
    m = n if y is None else y.shape[1]

    def problem(dtype: torch.dtype = x.dtype) -> Tensor:
        return x.new_empty((batch,), dtype=dtype)

    return (
        problem(),
        x.new_empty((batch, n)),
        x.new_empty((batch, m)),
        problem(torch.int64),
        problem(),
        problem(torch.bool),
        problem(),
        x.new_empty((batch, n)),
        x.new_empty((batch, m)),
        problem(),
        problem(),
        torch.empty_like(x, memory_format=torch.contiguous_format) if want_x else x.new_empty(0),
        torch.empty_like(y, memory_format=torch.contiguous_format)
        if want_y and y is not None
        else x.new_empty(0),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, y, a, b, _, _, _, parameters = inputs[:8]
    _, f, g, _, _, _, scale, row, column, transport, mismatch, gx, gy = output
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.symmetric = y is None
    ctx.save_for_backward(f, g, scale, row, column, transport, mismatch, gx, gy, a, b, parameters)


def reach_gradient(weight: Tensor, potential: Tensor, reach: Tensor) -> Tensor:
    """KL(a e^{-f/ρ} | a), the derivative of the dual in ρ; 0 for a strict marginal."""
    strict = torch.isinf(reach)
    ratio = potential / torch.where(strict, 1.0, reach).unsqueeze(-1)
    terms = -torch.expm1(-ratio) - ratio * torch.exp(-ratio)
    return torch.where(strict, 0.0, (weight * terms).sum(-1))


def _backward(ctx: Any, grad_value: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    none: list[Tensor | None] = [None] * 13
    if grad_value is None:
        return tuple(none)
    f, g, scale, row, column, transport, mismatch, gx, gy, a, b, parameters = ctx.saved_tensors
    need = ctx.needs_input_grad
    if need[0]:
        if gx.numel() == 0:
            raise RuntimeError("ucmkd::sinkhorn was run without Flag.X, and x needs a gradient")
        none[0] = scale_by(gx, grad_value)
    if need[1]:
        if gy.numel() == 0:
            raise RuntimeError("ucmkd::sinkhorn was run without Flag.Y, and y needs a gradient")
        none[1] = scale_by(gy, grad_value)
    if not (need[2] or need[3] or need[7]):
        return tuple(g if g is None else once(g) for g in none)
    gv = grad_value.double()
    f, g, row, column, scale = (t.double() for t in (f, g, row, column, scale))
    a_ = torch.full_like(f, 1 / f.shape[-1]) if a is None else a.double()
    b_ = a_ if ctx.symmetric else (torch.full_like(g, 1 / g.shape[-1]) if b is None else b.double())
    eps, rho_x, rho_y, _ = parameters * scale
    if ctx.symmetric:
        rho_y = rho_x
    mass_a, mass_b = a_.sum(-1, keepdim=True), b_.sum(-1, keepdim=True)
    if need[2] and a is not None:
        grad = reference.dual_term(f, rho_x) - eps.unsqueeze(-1) * (row - mass_b)
        grad = 2 * grad if ctx.symmetric else grad
        none[2] = (gv.unsqueeze(-1) * grad).to(a.dtype)
    if need[3] and b is not None and not ctx.symmetric:
        grad = reference.dual_term(g, rho_y) - eps.unsqueeze(-1) * (column - mass_a)
        none[3] = (gv.unsqueeze(-1) * grad).to(b.dtype)
    if need[7]:
        rows, columns = a_ * row, b_ * column
        entropy = ((rows * f).sum(-1) + (columns * g).sum(-1) - transport.double()) / eps
        entropy = entropy - rows.sum(-1) + (mass_a * mass_b).squeeze(-1)
        reach = [reach_gradient(a_, f, rho_x), reach_gradient(b_, g, rho_y)]
        if ctx.symmetric:  # only ρ_x is read
            reach = [reach[0] + reach[1], torch.zeros_like(reach[1])]
        none[7] = gv * scale * torch.stack([entropy, *reach, mismatch.double()])
    return tuple(g if g is None else once(g) for g in none)


sinkhorn_op.register_autograd(_backward, setup_context=_setup)
for _device in ("cpu", "cuda"):
    sinkhorn_op.register_autocast(_device, torch.float32)
