r"""The linear system of the implicit function theorem for entropic transport.

The marginal conditions :math:`F = (P1 - a e^{-f/\rho_x},\ P^\top 1 - b e^{-g/\rho_y})` have, times
:math:`\varepsilon`, the symmetric positive semi-definite Jacobian in :math:`(f,g)`

.. math:: J = \begin{pmatrix} \mathrm{diag}(s) & P\\ P^\top & \mathrm{diag}(t)\end{pmatrix},\qquad
    s = P1 + \tfrac{\varepsilon}{\rho_x} a e^{-f/\rho_x},\quad
    t = P^\top 1 + \tfrac{\varepsilon}{\rho_y} b e^{-g/\rho_y}.

Two strict marginals leave the kernel :math:`(1,-1)`; points without mass have zero rows. Solved by
conjugate gradients on the Schur complement of the larger side, preconditioned by the diagonal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

#: Preconditioned residual, squared and relative, at which the iteration stops; and the one above
#: which its answer is not believed.
_GOAL, _LIMIT = 1e-28, 1e-18
#: Most iterations before a restart, and most unknowns of the direct solve.
_MOST_ITERATIONS, _MOST_UNKNOWNS = 1000, 2048
#: Stiffness up to which a point counts as one without mass.
_PRESENT = 1e-280


def ratio(potential: Tensor, reach: Tensor) -> Tensor:
    """:math:`f/\\rho`, 0 for a strict marginal; so bounded that its exponential is finite."""
    strict = torch.isinf(reach).unsqueeze(-1)
    finite = torch.where(strict, 1.0, reach.unsqueeze(-1))
    return torch.where(strict, 0.0, potential / finite).clamp(min=-600.0)


class System(Protocol):
    """The plan ``(B, n, m)`` of a batch of problems, and linear systems with it."""

    def marginals(self) -> tuple[Tensor, Tensor]:
        """Sums of its rows and columns."""

    def solve_symmetric(self, stiff: Tensor, right: Tensor) -> Tensor:
        """As the function of that name."""

    def solve_two_sided(
        self, stiff_x: Tensor, stiff_y: Tensor, right_x: Tensor, right_y: Tensor, kernel: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As the function of that name."""


class Dense:
    """A plan in memory."""

    def __init__(self, plan: Tensor) -> None:
        self.plan = plan

    def marginals(self) -> tuple[Tensor, Tensor]:
        """See :class:`System`."""
        return self.plan.sum(-1), self.plan.sum(-2)

    def solve_symmetric(self, stiff: Tensor, right: Tensor) -> Tensor:
        """See :class:`System`."""
        return solve_symmetric(self.plan, stiff, right)

    def solve_two_sided(
        self, stiff_x: Tensor, stiff_y: Tensor, right_x: Tensor, right_y: Tensor, kernel: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See :class:`System`."""
        return solve_two_sided(self.plan, stiff_x, stiff_y, right_x, right_y, kernel)


def adjoint_potentials(
    system: System,
    a: Tensor,
    b: Tensor,
    epsilon: Tensor,
    reach_x: Tensor,
    reach_y: Tensor,
    f: Tensor,
    g: Tensor,
    to_f: Tensor,
    to_g: Tensor,
    *,
    symmetric: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """:math:`(u, v) = J^{-1}(v_f, v_g)` with the condition on the constant, all in float64.

    The third result ``(B, 1)`` is the part of the right side along the kernel, 0 without one.
    """
    eps = epsilon.unsqueeze(-1)
    row, column = system.marginals()
    stiff_x = row + eps / reach_x.unsqueeze(-1) * a * torch.exp(-ratio(f, reach_x))
    stiff_y = column + eps / reach_y.unsqueeze(-1) * b * torch.exp(-ratio(g, reach_y))
    if symmetric:
        u = system.solve_symmetric((stiff_x + stiff_y) / 2, to_f + to_g) / 2
        return u, u, torch.zeros_like(eps)
    kernel = torch.isinf(reach_x) & torch.isinf(reach_y)
    share_a, share_b = a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)
    # The part of v along the kernel sees only the constant, which the masses and f, g fix.
    along = (to_f.sum(-1) - to_g.sum(-1)) / 2
    along = torch.where(kernel, along, 0.0).unsqueeze(-1)
    u, v = system.solve_two_sided(
        stiff_x, stiff_y, to_f - along * share_a, to_g + along * share_b, kernel
    )
    shift = ((share_b * v).sum(-1) - (share_a * u).sum(-1)) / 2
    shift = torch.where(kernel, shift, 0.0).unsqueeze(-1)
    return u + shift, v - shift, along


def solve_two_sided(
    plan: Tensor, stiff_x: Tensor, stiff_y: Tensor, right_x: Tensor, right_y: Tensor, kernel: Tensor
) -> tuple[Tensor, Tensor]:
    """:math:`J\\lambda = r` for a plan ``(B, n, m)``; ``kernel (B,)``: both marginals are strict.

    Where ``kernel`` holds the right side must be orthogonal to :math:`(1,-1)`; what rounding has
    left of that part is removed.
    """
    if plan.shape[-2] < plan.shape[-1]:
        second, first = solve_two_sided(
            plan.transpose(-1, -2), stiff_y, stiff_x, right_y, right_x, kernel
        )
        return first, second
    inverse_x, inverse_y = _inverse(stiff_x), _inverse(stiff_y)

    def schur(v: Tensor) -> Tensor:
        return stiff_y * v - _left(plan, inverse_x * _right(plan, v))

    def dense() -> Tensor:
        inner = plan.transpose(-1, -2) @ (inverse_x.unsqueeze(-1) * plan)
        return torch.diag_embed(stiff_y) - inner

    right = right_y - _left(plan, inverse_x * right_x)
    right = torch.where(stiff_y > _PRESENT, right, 0.0)
    surplus = right.sum(-1, keepdim=True) / stiff_y.sum(-1, keepdim=True)
    right = right - torch.where(kernel.unsqueeze(-1), surplus, 0.0) * stiff_y
    second = _solve(schur, dense, right, inverse_y)
    return inverse_x * (right_x - _right(plan, second)), second


def solve_symmetric(plan: Tensor, stiff: Tensor, right: Tensor) -> Tensor:
    """:math:`(\\mathrm{diag}(s)+\\tfrac12(P+P^\\top))\\lambda = r`: a single potential."""

    def image(v: Tensor) -> Tensor:
        return stiff * v + (_right(plan, v) + _left(plan, v)) / 2

    def dense() -> Tensor:
        return torch.diag_embed(stiff) + (plan + plan.transpose(-1, -2)) / 2

    return _solve(image, dense, torch.where(stiff > _PRESENT, right, 0.0), _inverse(stiff))


def _right(plan: Tensor, v: Tensor) -> Tensor:
    return (plan @ v.unsqueeze(-1)).squeeze(-1)


def _left(plan: Tensor, v: Tensor) -> Tensor:
    return (v.unsqueeze(-2) @ plan).squeeze(-2)


def _inverse(stiff: Tensor) -> Tensor:
    # The inverse of what is nearly zero would be infinite, and all it multiplies is as small.
    present = stiff > _PRESENT
    return torch.where(present, 1 / torch.where(present, stiff, 1.0), 0.0)


def _solve(
    image: Callable[[Tensor], Tensor],
    dense: Callable[[], Tensor],
    right: Tensor,
    precondition: Tensor,
) -> Tensor:
    """Conjugate gradients, restarted on the true residual, which the recurrence drifts from."""
    scale = (right * precondition * right).sum(-1, keepdim=True)
    solution, residual = torch.zeros_like(right), right
    for _ in range(3):
        solution = solution + _conjugate_gradients(image, residual, precondition, _GOAL * scale)
        residual = right - image(solution)
        power = (residual * precondition * residual).sum(-1, keepdim=True)
        if not bool((power > _LIMIT * scale).any()):
            return solution
    # Nearly disconnected plans (ε far below the cost) are beyond the iteration.
    if right.shape[-1] > _MOST_UNKNOWNS:
        return solution
    exact = _pseudo_solve(dense(), right, precondition)
    left = right - image(exact)
    better = (left * precondition * left).sum(-1, keepdim=True) < power
    return torch.where(better, exact, solution)


def _conjugate_gradients(
    image: Callable[[Tensor], Tensor], right: Tensor, precondition: Tensor, goal: Tensor
) -> Tensor:
    solution, residual = torch.zeros_like(right), right
    direction = precondition * residual
    power = (residual * direction).sum(-1, keepdim=True)
    for _ in range(min(2 * right.shape[-1] + 20, _MOST_ITERATIONS)):
        if not bool((power > goal).any()):
            break
        step_image = image(direction)
        curvature = (direction * step_image).sum(-1, keepdim=True)
        go = (power > goal) & (curvature > 0)
        step = torch.where(go, power / torch.where(go, curvature, 1.0), 0.0)
        solution = solution + step * direction
        residual = residual - step * step_image
        fresh = precondition * residual
        new_power = (residual * fresh).sum(-1, keepdim=True)
        ratio = torch.where(go, new_power / torch.where(power > 0, power, 1.0), 0.0)
        direction = fresh + ratio * direction
        power = torch.where(go, new_power, torch.zeros_like(power))
    return solution


def _pseudo_solve(matrix: Tensor, right: Tensor, precondition: Tensor) -> Tensor:
    """The least-norm solution in the preconditioned variables, by eigenvalues."""
    root = precondition.sqrt()
    values, vectors = torch.linalg.eigh(root.unsqueeze(-1) * matrix * root.unsqueeze(-2))
    cut = torch.finfo(values.dtype).eps * values.shape[-1] * values.abs().amax(-1, keepdim=True)
    inverse = torch.where(values > cut, 1 / torch.where(values > cut, values, 1.0), 0.0)
    return root * _right(vectors, inverse * _left(vectors, root * right))
