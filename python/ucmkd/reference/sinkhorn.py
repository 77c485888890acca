"""Entropic optimal transport on a cost matrix and between points."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .cost import class_mass, cost_gradient, cost_matrix, label_matrix
from .loop import Softmin, capped_exp, dual_term, sinkhorn_loop, symmetric_loop, weighted


class Solution(NamedTuple):
    """What every Sinkhorn backend returns, per problem of the batch.

    ``row`` is :math:`r_i = \\sum_j b_j e^{(f_i+g_j-C_{ij})/\\varepsilon}` (so ``a * row`` is
    :math:`P1`), ``column`` likewise; ``transport`` is :math:`\\langle P,C\\rangle`, ``mismatch``
    :math:`\\sum P_{ij}D_{k_il_j}` (the mass that changes its label); ``grad_x`` and ``grad_y`` are
    the envelope gradients of the value, ``class_mass`` the plan's mass between the classes
    ``(B, K, L)``, each empty when not wanted.
    """

    value: Tensor
    x_potential: Tensor
    y_potential: Tensor
    iterations: Tensor
    residual: Tensor
    converged: Tensor
    scale: Tensor
    row: Tensor
    column: Tensor
    transport: Tensor
    mismatch: Tensor
    grad_x: Tensor
    grad_y: Tensor
    class_mass: Tensor


def dense_softmin(matrix: Tensor, epsilon: Tensor) -> Softmin:
    """The softmin of a cost matrix ``(B, n, m)`` held in memory."""
    eps = epsilon.unsqueeze(-1)

    def softmin(h: Tensor) -> Tensor:
        scores = (h.unsqueeze(-2) - matrix) / eps.unsqueeze(-1)
        return -eps * torch.logsumexp(scores, -1)

    return softmin


#: Rounding of the costs in units of ε, above which float32 does not do: for a solve, and for a plan
#: from potentials, where it is the relative error of the entries.
COARSE, COARSE_PLAN = 2**-6, 2**-10
#: ε in units of the costs, above which float32 does not do.
WIDE = 16.0


def too_coarse(
    feature_cost: Tensor,
    different: Tensor | None,
    a: Tensor,
    b: Tensor,
    epsilon: Tensor,
    label_cost: Tensor,
    relative: bool,
) -> bool:
    """Whether float32 costs are to be float64; arguments as in :func:`solve_dense`.

    The exponents :math:`(f_i+g_j-C_{ij})/\\varepsilon` need potentials as large as the costs to a
    fraction of ε. Where a float32 cannot hold them to that (clouds 1000 apart, or ε a millionth of
    the cost), no plan is left, and densities may overflow. And where ε is many times the costs, the
    value is what is left of terms as large as ε.
    """
    if feature_cost.dtype != torch.float32:
        return False
    with torch.no_grad():
        mass = a.sum(-1) * b.sum(-1)
        mean = torch.einsum("bn,bnm,bm->b", a, feature_cost, b).double() / mass
        unit = mean if relative else torch.ones_like(mean)
        size = mean.abs()
        if different is not None:
            size = size + unit * label_cost * different.to(mean.dtype).abs().amax((-1, -2))
        rounding = torch.finfo(feature_cost.dtype).eps * size
        coarse = rounding > COARSE * unit * epsilon
        wide = (unit * epsilon > WIDE * size) & torch.isfinite(epsilon)
        return bool((torch.isfinite(size) & (coarse | wide)).any())


def narrowed(solution: Solution, dtype: torch.dtype) -> Solution:
    """The solution of a float64 problem in another type."""
    fields = (t.to(dtype) if t.is_floating_point() else t for t in solution)
    return Solution(*fields)


def solve_dense(
    feature_cost: Tensor,
    different: Tensor | None,
    a: Tensor,
    b: Tensor,
    g0: Tensor,
    epsilon: Tensor,
    reach_x: Tensor,
    reach_y: Tensor,
    label_cost: Tensor,
    *,
    symmetric: bool,
    relative: bool,
    tol: float,
    max_iter: int,
) -> tuple[Solution, Tensor]:
    """Solves for a given cost matrix; returns the solution (without gradients) and the plan.

    Args:
        feature_cost: ``(B, n, m)``.
        different: Label distances ``(B, n, m)`` or None.
        a: Weights ``(B, n)``.
        b: Weights ``(B, m)``.
        g0: Start of the y-potential (of the only one if ``symmetric``).
        epsilon: ``(B,)``.
        reach_x: ``(B,)``, infinity for strict.
        reach_y: ``(B,)``.
        label_cost: ``(B,)``, price of a label mismatch.
        symmetric: The two sides are the same cloud.
        relative: ``epsilon``, the reaches and ``label_cost`` are in units of the mean feature cost.
        tol: Tolerance of the residual.
        max_iter: Most iterations.
    """
    if too_coarse(feature_cost, different, a, b, epsilon, label_cost, relative):
        solution, plan = solve_dense(
            feature_cost.double(), different, a.double(), b.double(), g0.double(),
            epsilon.double(), reach_x.double(), reach_y.double(), label_cost.double(),
            symmetric=symmetric, relative=relative, tol=tol, max_iter=max_iter,
        )  # fmt: skip
        return narrowed(solution, a.dtype), plan.to(a.dtype)
    mass_a, mass_b = a.sum(-1), b.sum(-1)
    scale = torch.ones_like(epsilon)
    if relative:
        mean = torch.einsum("bn,bnm,bm->b", a, feature_cost, b) / (mass_a * mass_b)
        # Where all points coincide there is no scale, and 1 keeps everything finite.
        scale = torch.where(mean < torch.finfo(mean.dtype).tiny ** 0.5, 1.0, mean)
        epsilon, label_cost = epsilon * scale, label_cost * scale
        reach_x, reach_y = reach_x * scale, reach_y * scale
    matrix = feature_cost
    if different is not None:
        matrix = matrix + label_cost[:, None, None] * different.to(matrix.dtype)
    softmin_x = dense_softmin(matrix, epsilon)
    if symmetric:
        end = symmetric_loop(softmin_x, a, epsilon, reach_x, g0, tol=tol, max_iter=max_iter)
    else:
        softmin_y = dense_softmin(matrix.transpose(-1, -2), epsilon)
        end = sinkhorn_loop(
            softmin_x, softmin_y, a, b, epsilon, reach_x, reach_y, g0, tol=tol, max_iter=max_iter
        )
    # Masked points have no bound on their density: of a pair of them nothing depends on it, with
    # one of them only its being large matters.
    first, second = (a == 0).unsqueeze(-1), (b == 0).unsqueeze(-2)
    score = (end.f.unsqueeze(-1) + end.g.unsqueeze(-2) - matrix) / epsilon[:, None, None]
    score = score.masked_fill(first & second, -torch.inf)
    density = torch.where(first | second, capped_exp(score), torch.exp(score))
    plan = a.unsqueeze(-1) * density * b.unsqueeze(-2)
    value = (
        weighted(a, dual_term(end.f, reach_x)).sum(-1)
        + weighted(b, dual_term(end.g, reach_y)).sum(-1)
        - epsilon * (end.mass - mass_a * mass_b)
    )
    mismatch = torch.zeros_like(value)
    if different is not None:
        mismatch = (plan * different).sum((-1, -2))

    solution = Solution(
        value,
        end.f,
        end.g.clone(),
        end.iterations,
        end.residual,
        end.converged,
        scale,
        row=torch.einsum("bnm,bm->bn", density, b),
        column=torch.einsum("bnm,bn->bm", density, a),
        transport=(plan * matrix).sum((-1, -2)),
        mismatch=mismatch,
        grad_x=value.new_empty(0),
        grad_y=value.new_empty(0),
        class_mass=value.new_empty(0),
    )
    return solution, plan


def sinkhorn(
    x: Tensor,
    y: Tensor | None,
    a: Tensor,
    b: Tensor,
    *,
    epsilon: Tensor,
    cost: str = "sqeuclidean",
    reach_x: Tensor,
    reach_y: Tensor,
    x_label: Tensor | None = None,
    y_label: Tensor | None = None,
    label_cost: Tensor | None = None,
    distance: Tensor | None = None,
    g0: Tensor | None = None,
    relative: bool = False,
    tol: float = 1e-9,
    max_iter: int = 10_000,
    want_x: bool = True,
    want_y: bool = True,
    want_distance: bool = False,
) -> Solution:
    """Entropic optimal transport between point clouds, value and envelope gradients.

    Float32 problems whose ε is below the rounding of their costs are solved in float64.
    ``y=None`` is the self-term of ``x``; its ``grad_x`` is the total derivative (both sides).
    ``distance (K, L)`` is the label cost between the classes, in units of ``label_cost``. Other
    arguments as in :func:`solve_dense`.
    """
    symmetric = y is None
    other = x if y is None else y
    labels = (x_label, x_label) if symmetric else (x_label, y_label)
    b = a if symmetric else b
    label_cost = torch.zeros_like(epsilon) if label_cost is None else label_cost
    matrix, different = cost_matrix(x, other, cost), label_matrix(*labels, distance)
    if too_coarse(matrix, different, a, b, epsilon, label_cost, relative):
        solution = sinkhorn(
            x.double(), None if y is None else y.double(), a.double(), b.double(),
            epsilon=epsilon.double(), cost=cost, reach_x=reach_x.double(),
            reach_y=reach_y.double(), x_label=x_label, y_label=y_label,
            label_cost=label_cost.double(),
            distance=None if distance is None else distance.double(),
            g0=None if g0 is None else g0.double(), relative=relative, tol=tol, max_iter=max_iter,
            want_x=want_x, want_y=want_y, want_distance=want_distance,
        )  # fmt: skip
        return narrowed(solution, x.dtype)
    solution, plan = solve_dense(
        matrix,
        different,
        a,
        b,
        torch.zeros_like(b) if g0 is None else g0,
        epsilon,
        reach_x,
        reach_x if symmetric else reach_y,
        label_cost,
        symmetric=symmetric,
        relative=relative,
        tol=tol,
        max_iter=max_iter,
    )
    backwards = plan.transpose(-1, -2)
    if want_x:
        gradient = cost_gradient(x, other, cost, plan)
        if symmetric:
            gradient = gradient + cost_gradient(other, x, cost, backwards)
        solution = solution._replace(grad_x=gradient)
    if want_distance and distance is not None and labels[0] is not None and labels[1] is not None:
        mass = class_mass(plan, labels[0], labels[1], distance.shape)
        solution = solution._replace(class_mass=mass)
    if want_y and not symmetric:
        solution = solution._replace(grad_y=cost_gradient(other, x, cost, backwards))
    return solution
