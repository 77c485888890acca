r"""Second derivatives of entropic transport by the implicit function theorem.

The envelope gradient is a function :math:`h(\theta, f, g)` of the inputs and of the potentials,
and these move with the inputs: :math:`F(\theta,f,g)=0` (:mod:`ucmkd.ops._adjoint`). Differentiating
:math:`h` at fixed potentials alone misses that. :class:`ImplicitPotentials` puts the converged
potentials into the graph with the derivative :math:`-(\partial_{(f,g)}F)^{-1}\partial_\theta F`;
all else is plain autograd.

With two strict marginals the potentials are known up to a constant, fixed here as everywhere in
the package by :math:`\langle a,f\rangle/m_a = \langle b,g\rangle/m_b`. A derivative to weights
there means along perturbations that keep both masses equal.

Source: Luise et al. 2018; Eisenberger et al. 2022; Cuturi et al. 2020 (arXiv 2002.03229).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ucmkd.ops._adjoint import Dense, adjoint_potentials, ratio
from ucmkd.ops._once import twice
from ucmkd.ops._pairwise import add_labels, class_distances, one_hot, pairwise_cost
from ucmkd.ops._plain import tracked
from ucmkd.reference.sinkhorn import COARSE_PLAN, solve_dense

#: Stopping rule of a second solve in float64, which starts from the potentials of the first.
_TOLERANCE, _MOST_ITERATIONS = 1e-6, 1000

#: Gradients to x, y, a, b, the parameters and the class distances, or None.
Gradients = tuple[Tensor | None, ...]


def dual_term(potential: Tensor, reach: Tensor) -> Tensor:
    """``reference.dual_term`` without a NaN in the derivatives of its unused branch."""
    strict = torch.isinf(reach).unsqueeze(-1)
    finite = torch.where(strict, 1.0, reach.unsqueeze(-1))
    return torch.where(strict, potential, -finite * torch.expm1(-ratio(potential, reach)))


def density(
    matrix: Tensor, a: Tensor, b: Tensor, epsilon: Tensor, f: Tensor, g: Tensor
) -> tuple[Tensor, Tensor]:
    """The scores :math:`(f_i+g_j-C_{ij})/\\varepsilon` and their exponentials, ``P = a b exp``.

    Two masked points have no bound on their density, and no mass: it is taken as 1. Those of a
    masked point and another one, or far from a solution, are bounded as in :func:`ratio`.
    """
    masked = (a == 0).unsqueeze(-1) & (b == 0).unsqueeze(-2)
    score = (f.unsqueeze(-1) + g.unsqueeze(-2) - matrix) / epsilon[:, None, None]
    score = score.masked_fill(masked, 0.0).clamp(max=600.0)
    return score, torch.exp(score)


class ImplicitPotentials(torch.autograd.Function):
    """Converged potentials as differentiable functions of the problem.

    ``apply(f, g, matrix, a, b, epsilon, reach_x, reach_y, symmetric)``, all in float64: the
    potentials ``(B, n)`` and ``(B, m)``, the cost ``(B, n, m)``, masses, and the parameters
    ``(B,)``; ``symmetric`` for the self-term, where ``b`` is ``a``, ``g`` is ``f`` and ``reach_y``
    is ``reach_x``. Returns ``f, g``. A derivative of its derivative raises.
    """

    @staticmethod
    def forward(
        ctx: Any,
        f: Tensor,
        g: Tensor,
        matrix: Tensor,
        a: Tensor,
        b: Tensor,
        epsilon: Tensor,
        reach_x: Tensor,
        reach_y: Tensor,
        symmetric: bool,
    ) -> tuple[Tensor, Tensor]:
        ctx.symmetric = symmetric
        ctx.save_for_backward(*tracked(f, g, matrix, a, b, epsilon, reach_x, reach_y))
        return f.clone(), g.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        with torch.no_grad():
            result = _pull_back(*saved, *gradients, symmetric=ctx.symmetric)
        return (None, None, *(twice(g, *saved[2:], *gradients) for g in result), None)


def _pull_back(
    f: Tensor,
    g: Tensor,
    matrix: Tensor,
    a: Tensor,
    b: Tensor,
    epsilon: Tensor,
    reach_x: Tensor,
    reach_y: Tensor,
    to_f: Tensor,
    to_g: Tensor,
    *,
    symmetric: bool,
) -> tuple[Tensor, ...]:
    """:math:`-(J^{-1}v)^\\top\\partial_\\theta F`, with the condition on the constant."""
    eps = epsilon.unsqueeze(-1)
    score, exponential = density(matrix, a, b, epsilon, f, g)
    plan = a.unsqueeze(-1) * exponential * b.unsqueeze(-2)
    decay_x, decay_y = torch.exp(-ratio(f, reach_x)), torch.exp(-ratio(g, reach_y))
    u, v, along = adjoint_potentials(
        Dense(plan), a, b, epsilon, reach_x, reach_y, f, g, to_f, to_g, symmetric=symmetric
    )
    if symmetric:
        fixed_a, fixed_b = torch.zeros_like(a), torch.zeros_like(b)
    else:
        mean_f = (a * f).sum(-1, True) / a.sum(-1, True)
        mean_g = (b * g).sum(-1, True) / b.sum(-1, True)
        fixed_a = along * (f - mean_f) / a.sum(-1, keepdim=True)
        fixed_b = -along * (g - mean_g) / b.sum(-1, keepdim=True)
    pair = u.unsqueeze(-1) + v.unsqueeze(-2)
    weighted = pair * exponential
    to_matrix = pair * plan
    to_a = eps * (u * decay_x - (weighted @ b.unsqueeze(-1)).squeeze(-1)) - fixed_a
    to_b = eps * (v * decay_y - (a.unsqueeze(-2) @ weighted).squeeze(-2)) - fixed_b
    to_epsilon = (to_matrix * score).sum((-1, -2))
    to_reach_x = (u * a * decay_x * ratio(f, reach_x)).sum(-1) * epsilon / reach_x
    to_reach_y = (v * b * decay_y * ratio(g, reach_y)).sum(-1) * epsilon / reach_y
    return to_matrix, to_a, to_b, to_epsilon, to_reach_x, to_reach_y


def _explicit(
    matrix: Tensor,
    a: Tensor,
    b: Tensor,
    epsilon: Tensor,
    reach_x: Tensor,
    reach_y: Tensor,
    f: Tensor,
    g: Tensor,
    symmetric: bool,
) -> tuple[Tensor, ...]:
    """The envelope gradients to matrix, a, b, ε, ρ_x and ρ_y, with the potentials in the graph."""
    f, g = ImplicitPotentials.apply(f, g, matrix, a, b, epsilon, reach_x, reach_y, symmetric)
    eps = epsilon.unsqueeze(-1)
    mass_a, mass_b = a.sum(-1, keepdim=True), b.sum(-1, keepdim=True)
    score, exponential = density(matrix, a, b, epsilon, f, g)
    plan = a.unsqueeze(-1) * exponential * b.unsqueeze(-2)
    row = (exponential @ b.unsqueeze(-1)).squeeze(-1)
    column = (a.unsqueeze(-2) @ exponential).squeeze(-2)
    to_a = dual_term(f, reach_x) - eps * (row - mass_b)
    to_b = dual_term(g, reach_y) - eps * (column - mass_a)
    to_epsilon = (plan * (score - 1)).sum((-1, -2)) + (mass_a * mass_b).squeeze(-1)
    to_reach_x, to_reach_y = _to_reach(a, f, reach_x), _to_reach(b, g, reach_y)
    return plan, to_a, to_b, to_epsilon, to_reach_x, to_reach_y


def _exact(
    matrix: Tensor,
    a: Tensor,
    b: Tensor,
    parameters: Tensor,
    f: Tensor,
    g: Tensor,
    symmetric: bool,
) -> tuple[Tensor, Tensor]:
    """The potentials in float64; solved for again where float32 ones have no plan.

    ``parameters`` are ε, ρ_x, ρ_y and perhaps more, all but ``f`` and ``g`` in float64.
    """
    wide = f.detach().double(), g.detach().double()
    # On a GPU the question would make the host wait.
    if f.dtype != torch.float32 or f.device.type != "cpu":
        return wide
    with torch.no_grad():
        size = torch.einsum("bn,bnm,bm->b", a, matrix, b).abs() / (a.sum(-1) * b.sum(-1))
        coarse = torch.finfo(f.dtype).eps * size > COARSE_PLAN * parameters[0]
        if not bool((coarse & torch.isfinite(size)).any()):
            return wide
        solution, _ = solve_dense(
            matrix, None, a, b, wide[1], parameters[0], parameters[1], parameters[2],
            torch.zeros_like(parameters[0]), symmetric=symmetric, relative=False, tol=_TOLERANCE,
            max_iter=_MOST_ITERATIONS,
        )  # fmt: skip
    return solution.x_potential, solution.y_potential


def _to_reach(weight: Tensor, potential: Tensor, reach: Tensor) -> Tensor:
    """:math:`\\mathrm{KL}(a e^{-f/\\rho}|a)`; 0 for a strict marginal."""
    r = ratio(potential, reach)
    return (weight * (-torch.expm1(-r) - r * torch.exp(-r))).sum(-1)


def _alias(value: Tensor, need: bool) -> Tensor:
    """The same tensor as a node of its own: the gradient to it is the explicit one."""
    if value.requires_grad:
        return value.view_as(value)
    return value.detach().requires_grad_() if need else value


def differentiable_gradients(
    x: Tensor,
    y: Tensor | None,
    a: Tensor,
    b: Tensor,
    parameters: Tensor,
    distance: Tensor | None,
    *,
    x_label: Tensor | None,
    y_label: Tensor | None,
    f: Tensor,
    g: Tensor,
    cost: str,
    need: tuple[bool, bool, bool, bool, bool, bool],
) -> Gradients:
    r"""The gradients of :math:`\mathrm{OT}_\varepsilon`, differentiable once more to every input.

    Equal to the envelope gradients of :mod:`ucmkd.ops._sinkhorn_op`, at the given potentials. As
    far as these have converged, so has the second derivative: a residual r leaves an error O(r).
    Needs ``O(nm)`` memory per problem, in float64, like each product of the Hessian with a vector;
    such a product costs one linear solve (:mod:`ucmkd.ops._adjoint`). For what does without, see
    :mod:`ucmkd.ops._streaming`.

    Args:
        x: Points ``(B, n, d)``.
        y: Points ``(B, m, d)``; None is the self-term OT(α, α), whose gradients are total
            derivatives (``b``, ``g``, ``y_label`` and ρ_y are not read).
        a: Masses ``(B, n)``.
        b: Masses ``(B, m)``.
        parameters: ε, ρ_x, ρ_y (infinite: strict) and λ, absolute, ``(4, B)``.
        distance: Class distances D ``(K, L)`` or ``(B, K, L)`` of
            :math:`C_{ij} = c(x_i,y_j) + \lambda D[k_i,l_j]`; None is :math:`[k\neq l]`. For a
            self-term it must be symmetric.
        x_label: Labels ``(B, n)`` or None: no label term.
        y_label: Labels ``(B, m)`` or None.
        f: Potential ``(B, n)`` of the solve.
        g: Potential ``(B, m)``.
        cost: As in :func:`ucmkd.reference.cost_matrix`.
        need: Which of x, y, a, b, parameters and distance are wanted.

    Returns:
        The gradients of each problem's own value, in the types and shapes of x, y, a, b and
        parameters; that of the class distances is ``(B, K, L)``, one matrix per problem. None for
        what is not needed or not there. Differentiating a third time raises.
    """
    symmetric = y is None
    if y is None:
        y, b, g, y_label = x, a, f, x_label
        parameters_ = torch.stack([parameters[0], parameters[1], parameters[1], parameters[3]])
    else:
        parameters_ = parameters
    epsilon, reach_x, reach_y, label_cost = parameters_.double()
    x_ = _alias(x, need[0])
    y_ = x_ if symmetric else _alias(y, need[1])
    features = pairwise_cost(x_, y_, cost)
    apart = class_distances(distance, x_label, y_label)
    matrix = add_labels(features, label_cost, apart)
    wide = a.double(), b.double()
    f, g = _exact(matrix, *wide, parameters_.double(), f, g, symmetric)
    plan, to_a, to_b, to_epsilon, to_reach_x, to_reach_y = _explicit(
        matrix, *wide, epsilon, reach_x, reach_y, f, g, symmetric
    )
    result: list[Tensor | None] = [None] * 6
    points = [(0, x_)] if symmetric else [(0, x_), (1, y_)]
    points = [(i, p) for i, p in points if need[i]]
    if points:
        found = torch.autograd.grad(features, [p for _, p in points], plan, create_graph=True)
        for (i, _), gradient in zip(points, found, strict=True):
            result[i] = gradient
    if need[2]:
        result[2] = (to_a + to_b if symmetric else to_a).to(a.dtype)
    if need[3] and not symmetric:
        result[3] = to_b.to(b.dtype)
    if need[4]:
        mismatch = torch.zeros_like(epsilon) if apart is None else (plan * apart).sum((-1, -2))
        if symmetric:  # only ρ_x is read
            to_reach_x, to_reach_y = to_reach_x + to_reach_y, torch.zeros_like(to_reach_y)
        rows = torch.stack([to_epsilon, to_reach_x, to_reach_y, mismatch])
        result[4] = rows.to(parameters.dtype)
    if need[5] and distance is not None and x_label is not None and y_label is not None:
        first, second = (one_hot(x_label, distance.shape[-2]), one_hot(y_label, distance.shape[-1]))
        between = first.transpose(-1, -2) @ plan @ second
        result[5] = (label_cost[:, None, None] * between).to(distance.dtype)
    return tuple(result)


def differentiable_gradients_cost(
    matrix: Tensor,
    a: Tensor,
    b: Tensor,
    parameters: Tensor,
    *,
    f: Tensor,
    g: Tensor,
    need: tuple[bool, bool, bool, bool],
) -> Gradients:
    """:func:`differentiable_gradients` for a given cost matrix ``(B, n, m)``.

    ``parameters (3, B)`` are ε, ρ_x and ρ_y; the gradients are those to the matrix (the plan),
    ``a``, ``b`` and the parameters.
    """
    wide = matrix.double(), a.double(), b.double()
    f, g = _exact(*wide, parameters.double(), f, g, False)
    epsilon, reach_x, reach_y = parameters.double()
    plan, to_a, to_b, *to_parameters = _explicit(*wide, epsilon, reach_x, reach_y, f, g, False)
    gradients = (
        plan.to(matrix.dtype), to_a.to(a.dtype), to_b.to(b.dtype),
        torch.stack(to_parameters).to(parameters.dtype),
    )  # fmt: skip
    return tuple(gradient if n else None for gradient, n in zip(gradients, need, strict=True))
