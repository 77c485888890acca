r"""The operator ``ucmkd::sinkhorn``: its shapes and its derivatives.

The operator solves the batch *and* emits the envelope gradient to the points in the same call,
while the kernel is still at hand; its backward only multiplies (:mod:`ucmkd.ops._envelope` has the
formulas). A second derivative differentiates the potentials implicitly
(:mod:`ucmkd.ops._implicit`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ucmkd.ops import _envelope
from ucmkd.ops._implicit import differentiable_gradients
from ucmkd.ops._plain import tracked
from ucmkd.ops._scale import saturated
from ucmkd.ops._scale import scale as scale_by
from ucmkd.ops._solve import Flag, as_tensors, solve
from ucmkd.reference import Solution


@torch.library.custom_op("ucmkd::sinkhorn", mutates_args=())
def sinkhorn_op(
    x: Tensor,
    y: Tensor | None,
    x_weight: Tensor | None,
    y_weight: Tensor | None,
    x_label: Tensor | None,
    y_label: Tensor | None,
    distance: Tensor | None,
    start: Tensor | None,
    parameters: Tensor,
    cost: str,
    tol: float,
    max_iter: int,
    flags: int,
    backend: str,
) -> tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
    Tensor, Tensor,
]:  # fmt: skip
    """The solve; arguments as in ``_solve.solve``, results the fields of a ``Solution``."""
    solution = solve(
        x, y, x_weight, y_weight, x_label, y_label, distance, start, parameters, cost, tol,
        max_iter, flags, backend,
    )  # fmt: skip
    return tuple(as_tensors(solution))  # type: ignore[return-value]


@sinkhorn_op.register_fake
def _(  # type: ignore[no-untyped-def]
    x, y, x_weight, y_weight, x_label, y_label, distance, start, parameters, cost, tol, max_iter,
    flags, backend,
):  # fmt: skip
    batch, n = x.shape[0], x.shape[1]
    m = n if y is None else y.shape[1]

    def problem(dtype: torch.dtype = torch.float64) -> Tensor:
        return x.new_empty((batch,), dtype=dtype)

    def like(points: Tensor | None, wanted: int) -> Tensor:
        if points is None or not wanted:
            return x.new_empty(0)
        return torch.empty_like(points, memory_format=torch.contiguous_format)

    between = distance is not None and flags & Flag.DISTANCE
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
        like(x, flags & Flag.X),
        like(y, flags & Flag.Y),
        x.new_empty((batch, *distance.shape)) if between else x.new_empty(0),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.cost, ctx.backend = inputs[9], inputs[13]
    ctx.save_for_backward(*tracked(*inputs[:7], inputs[8], *output))


def absolute(parameters: Tensor, scale: Tensor) -> Tensor:
    """The parameters in units of the cost."""
    return parameters * scale  # both in float64


def masses(weight: Tensor | None, potential: Tensor) -> Tensor:
    """The weights, ``1/n`` where none are given."""
    return torch.full_like(potential, 1 / potential.shape[-1]) if weight is None else weight


def second_order(
    solution: Solution,
    inputs: Sequence[Tensor | None],
    labels: tuple[Tensor | None, Tensor | None],
    need: Sequence[bool],
    cost: str,
    factor: Tensor,
    backend: str,
) -> list[Tensor | None]:
    """``factor (B,)`` times the gradients to x, y, a, b, parameters, distance, differentiably."""
    x, y, a, b, parameters, distance = inputs
    assert x is not None and parameters is not None
    f, g = solution.x_potential, solution.y_potential
    wanted = (need[0], need[1], need[2], need[3], need[4], need[5])
    derive = differentiable_gradients
    if backend == "triton":
        from ucmkd.ops import _streaming

        if _streaming.streams(x, y, cost, wanted):
            derive = _streaming.streaming_gradients
    gradients = derive(
        x, y, masses(a, f), masses(b, g), absolute(parameters, solution.scale), distance,
        x_label=labels[0], y_label=labels[1], f=f, g=g, cost=cost, need=wanted,
    )  # fmt: skip
    out: list[Tensor | None] = []
    factor = factor.double()
    for i, (gradient, given) in enumerate(zip(gradients, inputs, strict=True)):
        if gradient is None or given is None:
            out.append(None)
            continue
        if i == 4:
            out.append(factor * solution.scale * gradient.double())
            continue
        weighted = factor.reshape(-1, *[1] * (gradient.dim() - 1)) * gradient.double()
        # The class distances are one matrix for the batch.
        out.append((weighted.sum(0) if i == 5 else weighted).to(given.dtype))
    return out


def class_gradient(solution: Solution, parameters: Tensor, factor: Tensor) -> Tensor:
    """Gradient of ``(factor * value).sum()`` to the class distances."""
    weight = factor.double() * parameters[3] * solution.scale
    return (weight.reshape(-1, 1, 1) * solution.class_mass.double()).sum(0)


def _backward(ctx: Any, grad_value: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    none: list[Tensor | None] = [None] * 14
    if grad_value is None:
        return tuple(none)
    x, y, a, b, k, l, distance, parameters = ctx.saved_tensors[:8]  # noqa: E741
    solution = Solution(*ctx.saved_tensors[8:])
    places = (0, 1, 2, 3, 8, 6)
    need = [bool(ctx.needs_input_grad[i]) for i in places]
    for wanted, stored, name in (
        (need[0], solution.grad_x, "x"),
        (need[1], solution.grad_y, "y"),
        (need[5], solution.class_mass, "distance"),
    ):
        if wanted and stored.numel() == 0:
            raise RuntimeError(
                f"ucmkd::sinkhorn was run without Flag.{name.upper()}, and {name} needs a gradient"
            )
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        inputs = (x, y, a, b, parameters, distance)
        found = second_order(solution, inputs, (k, l), need, ctx.cost, grad_value, ctx.backend)
        for place, gradient in zip(places, found, strict=True):
            none[place] = gradient
        return tuple(none)
    if need[0]:
        none[0] = scale_by(solution.grad_x, grad_value)
    if need[1]:
        none[1] = scale_by(solution.grad_y, grad_value)
    if need[2] or need[3] or need[4]:
        sides = _envelope.Sides(
            solution.x_potential, solution.y_potential, solution.row, solution.column,
            solution.transport, solution.mismatch,
        )  # fmt: skip
        grad_a, grad_b, grad_p = _envelope.gradients(
            sides, a, b, absolute(parameters, solution.scale), need[2:5], symmetric=y is None
        )
        factor = grad_value.double()
        if grad_a is not None:
            none[2] = saturated(grad_a, factor.unsqueeze(-1), a.dtype)
        if grad_b is not None:
            none[3] = saturated(grad_b, factor.unsqueeze(-1), b.dtype)
        if grad_p is not None:
            none[8] = factor * solution.scale * grad_p
    if need[5]:
        none[6] = class_gradient(solution, parameters, grad_value).to(distance.dtype)
    return tuple(none)


sinkhorn_op.register_autograd(_backward, setup_context=_setup)
for _device in ("cpu", "cuda"):
    sinkhorn_op.register_autocast(_device, torch.float32)
