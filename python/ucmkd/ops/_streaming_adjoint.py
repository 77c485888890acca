r"""The linear systems of :mod:`ucmkd.ops._adjoint` for a plan that is only ever applied.

The same Schur complement and the same preconditioned conjugate gradients, with one pass over the
tiles of the plan for each of :math:`Pv` and :math:`P^\top u`. A pass is in float32, all else in
float64. Nothing waits for the device: a problem that is done stands still. At the end the residual
is computed from the solution, not by the recurrence, and a problem in which it is still above
:data:`LIMIT` gets NaN: a wrong second derivative is never silent. That happens where ε is so far
below the cost that the plan nearly falls apart into blocks; float64 points have the dense solver.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ucmkd.ops._triton_loop import repeat

#: Relative residual, in the norm of the inverse of the diagonal, at which the iteration stops: what
#: float32 passes can reach; and the one up to which the solution is believed.
GOAL, LIMIT = 1e-6, 1e-3
#: Most iterations before the restart on the true residual, and the number of such rounds.
MOST_ITERATIONS, ROUNDS = 500, 2

#: The plan, or its transpose, times a vector, in float64; problems with flag 0 may give anything.
Apply = Callable[[Tensor, Tensor], Tensor]


def solve_two_sided(
    right: Apply,
    left: Apply,
    stiff_x: Tensor,
    stiff_y: Tensor,
    right_x: Tensor,
    right_y: Tensor,
    kernel: Tensor,
) -> tuple[Tensor, Tensor]:
    """:func:`ucmkd.ops._adjoint.solve_two_sided` with ``right(v) = Pv``, ``left(u) = Pᵀu``."""
    if stiff_x.shape[-1] < stiff_y.shape[-1]:
        second, first = solve_two_sided(left, right, stiff_y, stiff_x, right_y, right_x, kernel)
        return first, second
    inverse_x, inverse_y = _inverse(stiff_x), _inverse(stiff_y)
    share = stiff_y / stiff_y.sum(-1, keepdim=True)

    def balanced(v: Tensor) -> Tensor:
        # The image of a matrix with kernel 1 sums to 0, up to rounding, which would accumulate.
        return v - torch.where(kernel.unsqueeze(-1), v.sum(-1, keepdim=True), 0.0) * share

    def schur(v: Tensor, active: Tensor) -> Tensor:
        return balanced(stiff_y * v - left(inverse_x * right(v, active), active))

    every = torch.ones_like(kernel, dtype=torch.int32)
    known = right_y - left(inverse_x * right_x, every)
    second = _solve(schur, balanced(torch.where(stiff_y > 0, known, 0.0)), inverse_y)
    return inverse_x * (right_x - right(second, every)), second


def solve_symmetric(right: Apply, stiff: Tensor, known: Tensor) -> Tensor:
    """:func:`ucmkd.ops._adjoint.solve_symmetric` for a symmetric plan."""

    def image(v: Tensor, active: Tensor) -> Tensor:
        return stiff * v + right(v, active)

    return _solve(image, torch.where(stiff > 0, known, 0.0), _inverse(stiff))


def _inverse(stiff: Tensor) -> Tensor:
    return torch.where(stiff > 0, 1 / torch.where(stiff > 0, stiff, 1.0), 0.0)


def _power(residual: Tensor, precondition: Tensor) -> Tensor:
    return (residual * precondition * residual).sum(-1, keepdim=True)


def _solve(image: Apply, known: Tensor, precondition: Tensor) -> Tensor:
    """Conjugate gradients with a restart; NaN in problems whose true residual is too large."""
    scale = _power(known, precondition)
    every = torch.ones(len(known), dtype=torch.int32, device=known.device)
    solution, residual = torch.zeros_like(known), known
    for _ in range(ROUNDS):
        step = _conjugate_gradients(image, residual, precondition, GOAL**2 * scale)
        solution = solution + step
        residual = known - image(solution, every)
    good = _power(residual, precondition) <= LIMIT**2 * scale
    return torch.where(good, solution, torch.nan)


def _conjugate_gradients(image: Apply, known: Tensor, precondition: Tensor, goal: Tensor) -> Tensor:
    solution, residual = torch.zeros_like(known), known.clone()
    direction = precondition * residual
    power = _power(residual, precondition)
    active = (power > goal).squeeze(-1).to(torch.int32)

    def iteration(_: int) -> None:
        step_image = image(direction, active)
        step_image = torch.where(active.unsqueeze(-1) > 0, step_image, 0.0)
        curvature = (direction * step_image).sum(-1, keepdim=True)
        go = (power > goal) & (curvature > 0)
        step = torch.where(go, power / torch.where(go, curvature, 1.0), 0.0)
        solution.add_(step * direction)
        residual.sub_(step * step_image)
        new_power = torch.where(go, _power(residual, precondition), 0.0)
        ratio = torch.where(go, new_power / torch.where(go, power, 1.0), 0.0)
        direction.mul_(ratio).add_(precondition * residual)
        power.copy_(new_power)
        active.copy_((power > goal).squeeze(-1))

    repeat(iteration, active, min(2 * known.shape[-1] + 20, MOST_ITERATIONS))
    return solution
