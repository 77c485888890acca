"""Sinkhorn for a precomputed cost matrix: ``ucmkd.ops.sinkhorn_cost`` and ``ucmkd::sinkhorn_cost``.

The same solver as :mod:`ucmkd.ops.sinkhorn`; the envelope gradient to the matrix is the plan.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ucmkd import _backend, reference
from ucmkd.ops import _check
from ucmkd.ops._check import Number, Reach
from ucmkd.ops._envelope import Sides, gradients
from ucmkd.ops._implicit import differentiable_gradients_cost
from ucmkd.ops._pack import pack
from ucmkd.ops._plain import tracked
from ucmkd.ops._scale import cast, saturated, scale
from ucmkd.ops._sinkhorn_op import masses
from ucmkd.ops._solve import as_numpy
from ucmkd.ops.sinkhorn import SinkhornOutput


@torch.library.custom_op("ucmkd::sinkhorn_cost", mutates_args=())
def sinkhorn_cost_op(
    matrix: Tensor,
    x_weight: Tensor | None,
    y_weight: Tensor | None,
    start: Tensor | None,
    parameters: Tensor,
    tol: float,
    max_iter: int,
    want_plan: bool,
    accelerate: bool,
    backend: str,
) -> tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor
]:  # fmt: skip
    """value, f, g, iterations, residual, converged, row, column, transport, plan.

    ``parameters`` holds ε, ρ_x and ρ_y in its rows ``(3, B)``.
    """
    if backend == "rust":
        out = _backend.rust().sinkhorn_cost(
            as_numpy(matrix),
            as_numpy(x_weight),
            as_numpy(y_weight),
            None,
            as_numpy(start),
            *as_numpy(parameters),
            tol,
            max_iter,
            want_plan,
            accelerate,
            torch.get_num_threads(),
        )
        tensors = [torch.from_numpy(array) for array in out]
        del tensors[6]  # the scale, 1 here
        for i in (0, 4, 8):
            tensors[i] = tensors[i].to(matrix.dtype)
        return tuple(tensors)  # type: ignore[return-value]
    batch, n, m = matrix.shape
    start = matrix.new_zeros((batch, m)) if start is None else start
    epsilon, reach_x, reach_y = parameters.to(matrix.dtype)
    a = matrix.new_full((batch, n), 1 / n) if x_weight is None else x_weight
    b = matrix.new_full((batch, m), 1 / m) if y_weight is None else y_weight
    start = torch.nan_to_num(start, nan=0.0, posinf=0.0, neginf=0.0)
    with torch.no_grad(), torch.autocast(matrix.device.type, enabled=False):
        if backend == "triton":
            from ucmkd.ops import _triton

            with torch.cuda.device_of(matrix):
                s, plan = _triton.solve_matrix(
                    matrix, a, b, epsilon=epsilon, reach_x=reach_x, reach_y=reach_y, g0=start,
                    tol=tol, max_iter=max_iter, want_plan=want_plan, accelerate=accelerate,
                )  # fmt: skip
        else:
            s, plan = reference.solve_dense(
                matrix, None, a, b, start, epsilon, reach_x, reach_y, torch.zeros_like(epsilon),
                symmetric=False, relative=False, tol=tol, max_iter=max_iter,
            )  # fmt: skip
    return (*s[:6], s.row, s.column, s.transport, plan if want_plan else matrix.new_empty(0))


@sinkhorn_cost_op.register_fake
def _(  # type: ignore[no-untyped-def]
    matrix, x_weight, y_weight, start, parameters, tol, max_iter, want_plan, accelerate, backend,
):  # fmt: skip
    batch, n, m = matrix.shape

    def new(*shape: int, dtype: torch.dtype = matrix.dtype) -> Tensor:
        return matrix.new_empty(shape, dtype=dtype)

    return (
        new(batch), new(batch, n), new(batch, m), new(batch, dtype=torch.int64), new(batch),
        new(batch, dtype=torch.bool), new(batch, n), new(batch, m), new(batch),
        new(batch, n, m) if want_plan else new(0),
    )  # fmt: skip


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    parameters = inputs[4]
    _, f, g, _, _, _, row, column, transport, plan = output
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tracked(f, g, row, column, transport, plan, *inputs[:3], parameters))


def _backward(ctx: Any, grad_value: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    none: list[Tensor | None] = [None] * 10
    if grad_value is None:
        return tuple(none)
    f, g, row, column, transport, plan, matrix, a, b, parameters = ctx.saved_tensors
    places = (0, 1, 2, 4)
    need = [bool(ctx.needs_input_grad[i]) for i in places]
    if need[0] and plan.numel() == 0:
        raise RuntimeError("ucmkd::sinkhorn_cost was run with want_plan=False")
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        found = differentiable_gradients_cost(
            matrix, masses(a, f), masses(b, g), parameters, f=f, g=g,
            need=(need[0], need[1] and a is not None, need[2] and b is not None, need[3]),
        )  # fmt: skip
        for place, gradient in zip(places, found, strict=True):
            if gradient is None:
                continue
            # The parameters have the problems in their last dimension, all else in the first.
            shape = (-1,) if place == 4 else (-1, *[1] * (gradient.dim() - 1))
            none[place] = grad_value.to(gradient.dtype).reshape(shape) * gradient
        return tuple(none)
    if need[0]:
        none[0] = scale(plan, grad_value)
    if any(need[1:]):
        sides = Sides(f, g, row, column, transport, None)
        grad_a, grad_b, grad_p = gradients(sides, a, b, parameters, need[1:], symmetric=False)
        factor = grad_value.double()
        if grad_a is not None:
            none[1] = saturated(grad_a, factor.unsqueeze(-1), a.dtype)
        if grad_b is not None:
            none[2] = saturated(grad_b, factor.unsqueeze(-1), b.dtype)
        if grad_p is not None:
            none[4] = factor * grad_p
    return tuple(none)


sinkhorn_cost_op.register_autograd(_backward, setup_context=_setup)
for _device in ("cpu", "cuda"):
    sinkhorn_cost_op.register_autocast(_device, torch.float32)


def _solve(
    cost_matrix: Tensor,
    epsilon: Number,
    x_weight: Tensor | None,
    y_weight: Tensor | None,
    reach: Reach,
    x_potential: Tensor | None,
    y_potential: Tensor | None,
    tol: float,
    max_iter: int,
    want_plan: bool | None,
    accelerate: bool,
    backend: str,
) -> tuple[tuple[Tensor, ...], bool]:
    _check.stopping(tol, max_iter)
    _check.points(cost_matrix, "cost_matrix")
    single = cost_matrix.dim() == 2
    matrix = cost_matrix.unsqueeze(0) if single else cost_matrix
    batch, n, m = matrix.shape
    dtype = _check.compute_dtype(matrix)
    a = _check.weight(x_weight, (batch, n), "x_weight", matrix)
    b = _check.weight(y_weight, (batch, m), "y_weight", matrix)
    _check.equal_mass(reach, a, b, "x_weight", "y_weight")
    eps = _check.number(epsilon, "epsilon", matrix, batch, minimum=0.0, strict=True)
    parameters = pack([eps, *_check.reaches(reach, matrix, batch)], matrix, batch)
    _check.potential(x_potential, (batch, n), "x_potential", matrix, dtype)
    if want_plan is None:
        want_plan = torch.is_grad_enabled() and matrix.requires_grad
    chosen = _backend.choose(backend, matrix.device, dtype)
    out = sinkhorn_cost_op(
        matrix.to(dtype),
        None if a is None else cast(a, dtype),
        None if b is None else cast(b, dtype),
        _check.potential(y_potential, (batch, m), "y_potential", matrix, dtype),
        parameters,
        float(tol),
        int(max_iter),
        want_plan,
        accelerate,
        chosen,
    )
    return out, single


def sinkhorn_cost(
    cost_matrix: Tensor,
    *,
    epsilon: Number,
    x_weight: Tensor | None = None,
    y_weight: Tensor | None = None,
    reach: Reach = None,
    x_potential: Tensor | None = None,
    y_potential: Tensor | None = None,
    tol: float = 1e-6,
    max_iter: int = 1000,
    accelerate: bool = True,
    backend: str = "auto",
) -> SinkhornOutput:
    """Entropic optimal transport for a given cost matrix.

    The value is differentiable to ``cost_matrix`` (the gradient is the plan), the weights,
    ``epsilon`` and ``reach``.

    Args:
        cost_matrix: ``(n, m)`` or ``(B, n, m)``, finite, of any sign.
        epsilon: Regularisation ε > 0 in units of the cost.
        x_weight: Masses of the rows, default ``1/n``.
        y_weight: Masses of the columns, default ``1/m``.
        reach: As in :func:`ucmkd.ops.sinkhorn`.
        x_potential: Warm start; checked, but not needed, as in :func:`ucmkd.ops.sinkhorn`.
        y_potential: Warm start.
        tol: Tolerance of the marginal residual.
        max_iter: Most iterations.
        accelerate: Anderson acceleration, where the backend has it.
        backend: ``"auto"``, ``"triton"``, ``"rust"`` or ``"torch"``.

    Returns:
        A :class:`SinkhornOutput`.

    Raises:
        TypeError: The matrix is not a floating tensor.
        ValueError: Shapes, weights, masses or ε that are not accepted.
    """
    out, single = _solve(
        cost_matrix, epsilon, x_weight, y_weight, reach, x_potential, y_potential, tol, max_iter,
        None, accelerate, backend,
    )  # fmt: skip
    output = SinkhornOutput(*out[:6])
    return SinkhornOutput(*(t.squeeze(0) for t in output)) if single else output


def transport_plan_cost(
    cost_matrix: Tensor,
    *,
    epsilon: Number,
    x_weight: Tensor | None = None,
    y_weight: Tensor | None = None,
    reach: Reach = None,
    tol: float = 1e-6,
    max_iter: int = 1000,
    accelerate: bool = True,
    backend: str = "auto",
) -> Tensor:
    """The optimal plan for a given cost matrix, detached: ``(n, m)`` or ``(B, n, m)``.

    Arguments and errors as in :func:`sinkhorn_cost`. Its column sums are exact, its row sums up
    to the residual.
    """
    with torch.no_grad():
        out, single = _solve(
            cost_matrix.detach() if isinstance(cost_matrix, Tensor) else cost_matrix,
            epsilon, x_weight, y_weight, reach, None, None, tol, max_iter, True, accelerate,
            backend,
        )  # fmt: skip
    return out[-1].squeeze(0) if single else out[-1]
