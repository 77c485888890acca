r"""The sharp value :math:`\langle P, C\rangle` with its own gradient.

The envelope theorem does not hold for :math:`S(\theta) = \langle P_\theta, C_\theta\rangle`: the
plan moves with the parameters. With :math:`u=(f,g)` the potentials, :math:`F(\theta,u)=0` the
marginal conditions and :math:`J=\partial_u F`, implicit differentiation gives

.. math:: \frac{dS}{d\theta} = \partial_\theta S - \lambda^\top \partial_\theta F,\qquad
          J^\top\lambda = \partial_u S,

which equals the gradient of the surrogate :math:`S(\theta,u)-\lambda^\top F(\theta,u)` at fixed
:math:`u,\lambda` (Luise et al. 2018; Eisenberger et al. 2022). :math:`J` is symmetric positive
semi-definite, and the system is solved by conjugate gradients in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ucmkd import reference
from ucmkd.ops._once import once_through


def _conditions(
    plan: Tensor, a: Tensor, b: Tensor, f: Tensor, g: Tensor, reach_x: Tensor, reach_y: Tensor
) -> tuple[Tensor, Tensor]:
    """By how much the marginals of the plan miss what is asked of them."""
    return (
        plan.sum(-1) - reference.relaxed_mass(a, f, reach_x),
        plan.sum(-2) - reference.relaxed_mass(b, g, reach_y),
    )


def _adjoint(
    plan: Tensor, stiff_x: Tensor, stiff_y: Tensor, right_x: Tensor, right_y: Tensor
) -> tuple[Tensor, Tensor]:
    """Solves [[diag(stiff_x), P], [Pᵀ, diag(stiff_y)]] λ = right by its Schur complement."""
    inverse_x = torch.where(stiff_x > 0, 1 / torch.where(stiff_x > 0, stiff_x, 1.0), 0.0)
    present = stiff_y > 0
    precondition = torch.where(present, 1 / torch.where(present, stiff_y, 1.0), 0.0)

    def schur(v: Tensor) -> Tensor:
        through = torch.einsum("bnm,bm->bn", plan, v)
        return stiff_y * v - torch.einsum("bnm,bn->bm", plan, inverse_x * through)

    right = right_y - torch.einsum("bnm,bn->bm", plan, inverse_x * right_x)
    right = torch.where(present, right, 0.0)
    solution = torch.zeros_like(right)
    residual = right
    direction = precondition * residual
    power = (residual * direction).sum(-1, keepdim=True)
    goal = 1e-26 * power
    for _ in range(4 * plan.shape[-1] + 50):
        if not bool((power > goal).any()):
            break
        image = schur(direction)
        curvature = (direction * image).sum(-1, keepdim=True)
        go = (power > goal) & (curvature > 0)
        step = torch.where(go, power / torch.where(go, curvature, 1.0), 0.0)
        solution = solution + step * direction
        residual = residual - step * image
        fresh = precondition * residual
        new_power = (residual * fresh).sum(-1, keepdim=True)
        ratio = torch.where(go, new_power / torch.where(power > 0, power, 1.0), 0.0)
        direction = fresh + ratio * direction
        power = torch.where(go, new_power, torch.zeros_like(power))
    first = inverse_x * (right_x - torch.einsum("bnm,bm->bn", plan, solution))
    return first, solution


def sharp_cost(
    x: Tensor,
    y: Tensor,
    a: Tensor,
    b: Tensor,
    solution: reference.Solution,
    *,
    cost: str,
    epsilon: Tensor,
    reach_x: Tensor,
    reach_y: Tensor,
    x_label: Tensor | None,
    y_label: Tensor | None,
    label_cost: Tensor,
    distance: Tensor | None = None,
) -> Tensor:
    """:math:`\\langle P,C\\rangle` ``(B,)``, differentiable once to everything but the labels.

    Holds the ``(n, m)`` plan in memory. ``epsilon``, ``reach`` and ``label_cost`` are absolute,
    ``(B,)``. For the self-term give ``y=x``, ``b=a``.
    """
    # Potentials and adjoint are held fixed, which is right once and wrong twice.
    x, y, a, b, epsilon, reach_x, reach_y, label_cost = map(
        once_through, (x, y, a, b, epsilon, reach_x, reach_y, label_cost)
    )
    dtype = x.dtype
    f = solution.x_potential.detach().double()
    g = solution.y_potential.detach().double()
    x, y, a, b = x.double(), y.double(), a.double(), b.double()
    if cost not in ("cosine", "chordal"):
        centre = y.detach().mean(1, keepdim=True)
        x, y = x - centre, y - centre
    matrix = reference.cost_matrix(x, y, cost)
    different = reference.label_matrix(x_label, y_label, distance)
    if different is not None:
        matrix = matrix + label_cost.double()[:, None, None] * different
    eps = epsilon.double()

    # Two masked points have no bound on their density, and nothing depends on it.
    masked = (a == 0).unsqueeze(-1) & (b == 0).unsqueeze(-2)

    def plan_of(f: Tensor, g: Tensor) -> Tensor:
        score = (f.unsqueeze(-1) + g.unsqueeze(-2) - matrix) / eps[:, None, None]
        return a.unsqueeze(-1) * b.unsqueeze(-2) * torch.exp(score.masked_fill(masked, -torch.inf))

    plan = plan_of(f, g)
    value = (plan * matrix).sum((-1, -2))
    if not value.requires_grad:
        return value.to(dtype)
    with torch.no_grad():
        fixed = plan.detach()
        # F and ∂S multiplied by ε: J becomes [[diag(P1), P], [Pᵀ, diag(Pᵀ1)]] (+ ε/ρ terms).
        soft_x = torch.where(torch.isinf(reach_x), 0.0, eps / reach_x).unsqueeze(-1)
        soft_y = torch.where(torch.isinf(reach_y), 0.0, eps / reach_y).unsqueeze(-1)
        stiff_x = fixed.sum(-1) + soft_x * reference.relaxed_mass(a, f, reach_x.double())
        stiff_y = fixed.sum(-2) + soft_y * reference.relaxed_mass(b, g, reach_y.double())
        weighted = fixed * matrix
        adjoint_x, adjoint_y = _adjoint(fixed, stiff_x, stiff_y, weighted.sum(-1), weighted.sum(-2))
    rows, columns = _conditions(plan, a, b, f, g, reach_x.double(), reach_y.double())
    correction = (adjoint_x * rows).sum(-1) + (adjoint_y * columns).sum(-1)
    # The conditions are 0 at the solution: what is left of them must not shift the value.
    return (value - (correction - correction.detach())).to(dtype)
