r"""The mathematics of every operator in plain PyTorch: the oracle, and the last fallback.

Everything here is written for reading and for float64, not for speed. Points are batched,
``x (B, n, d)`` and ``y (B, m, d)``; weights ``a (B, n)`` and ``b (B, m)`` are masses.

**Entropic optimal transport** with the full cost :math:`C` and :math:`\varepsilon` in its units:

.. math::
    \mathrm{OT}_\varepsilon(\alpha,\beta) = \min_P \langle P, C\rangle
      + \varepsilon\,\mathrm{KL}(P\,|\,a\otimes b)
      + \rho_x\mathrm{KL}(P1\,|\,a) + \rho_y\mathrm{KL}(P^\top 1\,|\,b),
    \qquad \mathrm{KL}(p|q) = \sum p\log\tfrac pq - p + q,

solved through its dual (Sejourne et al. 2019; Peyre and Cuturi 2019, ch. 4 and 10)

.. math::
    \max_{f,g} \langle a, \varphi_x(f)\rangle + \langle b, \varphi_y(g)\rangle
      - \varepsilon \sum_{ij}(P_{ij} - a_i b_j), \qquad
    P_{ij} = a_i b_j e^{(f_i+g_j-C_{ij})/\varepsilon},\quad
    \varphi(f) = \rho\,(1-e^{-f/\rho})\ \text{or}\ f\ \text{for}\ \rho=\infty.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

COSTS = ("sqeuclidean", "euclidean", "cosine", "l1", "chordal")
#: Softmin: maps log-weighted potentials of the other side to -ε·logsumexp((h - C)/ε).
Softmin = Callable[[Tensor], Tensor]


class Solution(NamedTuple):
    """What every Sinkhorn backend returns, per problem of the batch.

    ``row`` is :math:`r_i = \\sum_j b_j e^{(f_i+g_j-C_{ij})/\\varepsilon}` (so ``a * row`` is
    :math:`P1`), ``column`` likewise; ``transport`` is :math:`\\langle P,C\\rangle`, ``mismatch``
    the mass that changes its label; ``grad_x`` and ``grad_y`` are the envelope gradients of the
    value, empty when not wanted.
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


def normalise(points: Tensor) -> Tensor:
    """Points divided by their length; a zero vector stays zero."""
    square = (points * points).sum(-1, keepdim=True)
    length = torch.where(square > 0, square, torch.ones_like(square)).sqrt()
    return points / length


def cost_matrix(x: Tensor, y: Tensor, cost: str = "sqeuclidean") -> Tensor:
    """The matrix of costs ``(B, n, m)``, by direct differences, differentiable.

    Args:
        x: Points ``(B, n, d)``.
        y: Points ``(B, m, d)``.
        cost: ``sqeuclidean`` :math:`|x-y|^2`, ``euclidean`` :math:`|x-y|`, ``cosine``
            :math:`1-\\cos(x,y)` (½ of the squared distance of the normalised points), ``l1``
            :math:`\\sum|x-y|`, ``chordal`` (the distance of the normalised points). Where a
            distance is 0 its gradient is 0.
    """
    if cost in ("cosine", "chordal"):
        x, y = normalise(x), normalise(y)
    difference = x.unsqueeze(-2) - y.unsqueeze(-3)
    if cost == "l1":
        return difference.abs().sum(-1)
    square = (difference * difference).sum(-1)
    if cost == "sqeuclidean":
        return square
    if cost == "cosine":
        return square / 2
    if cost in ("euclidean", "chordal"):
        apart = square > 0
        return torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0)
    raise ValueError(f"cost must be one of {', '.join(COSTS)}; got {cost!r}")


def label_matrix(x_label: Tensor | None, y_label: Tensor | None) -> Tensor | None:
    """``[x_label_i != y_label_j]`` as booleans ``(B, n, m)``, or None without labels."""
    if x_label is None or y_label is None:
        return None
    return x_label.unsqueeze(-1) != y_label.unsqueeze(-2)


def damping(epsilon: Tensor, reach: Tensor) -> Tensor:
    """:math:`\\rho/(\\rho+\\varepsilon)`, and 1 for an infinite reach."""
    return torch.where(torch.isinf(reach), 1.0, reach / (reach + epsilon))


def _relaxed_mass(weight: Tensor, potential: Tensor, reach: Tensor) -> Tensor:
    """The marginal that the relaxation asks for, :math:`a e^{-f/\\rho}` (``a`` when strict)."""
    reach = reach.unsqueeze(-1)
    return weight * torch.where(torch.isinf(reach), 1.0, torch.exp(-potential / reach))


def dual_term(potential: Tensor, reach: Tensor) -> Tensor:
    """:math:`\\varphi(f) = \\rho(1-e^{-f/\\rho})`, or ``f`` for an infinite reach."""
    finite = torch.where(torch.isinf(reach), 1.0, reach).unsqueeze(-1)
    relaxed = -finite * torch.expm1(-potential / finite)
    return torch.where(torch.isinf(reach).unsqueeze(-1), potential, relaxed)


class Iterates(NamedTuple):
    """What the loop knows when it stops."""

    f: Tensor
    g: Tensor
    mass: Tensor
    iterations: Tensor
    residual: Tensor
    converged: Tensor


def sinkhorn_loop(
    softmin_x: Softmin,
    softmin_y: Softmin,
    a: Tensor,
    b: Tensor,
    epsilon: Tensor,
    reach_x: Tensor,
    reach_y: Tensor,
    g0: Tensor,
    *,
    tol: float,
    max_iter: int,
    check_every: int = 1,
) -> Iterates:
    """The two-sided log-domain Sinkhorn loop over any ``softmin``.

    One iteration is ``f <- τ_x softmin_x(g + ε log b)``, ``g <- τ_y softmin_y(f + ε log a)`` and,
    when a side is relaxed, the translation ``(f+k, g-k)`` that maximises the dual (Sejourne,
    Vialard, Peyre 2022), without which a large ρ/ε converges slowly. It stops when the L1
    violation of the column marginal, relative to the mass of ``b``, is at most ``tol``; rows hold
    exactly at that moment. Problems of a batch stop one by one.

    Args:
        softmin_x: ``h (B, m) -> (B, n)``,
            :math:`-\\varepsilon\\log\\sum_j e^{(h_j-C_{ij})/\\varepsilon}`.
        softmin_y: The same for the other side.
        a: Weights ``(B, n)``.
        b: Weights ``(B, m)``.
        epsilon: ``(B,)``.
        reach_x: ``(B,)``, infinity for a strict marginal.
        reach_y: ``(B,)``.
        g0: Start ``(B, m)``.
        tol: Tolerance of the residual.
        max_iter: Most iterations.
        check_every: Look at the residual every so many iterations (each look is a host sync).
    """
    eps = epsilon.unsqueeze(-1)
    log_a, log_b = eps * a.log(), eps * b.log()
    tau_x, tau_y = damping(epsilon, reach_x), damping(epsilon, reach_y)
    stiffness = 1 / reach_x + 1 / reach_y
    f, g = torch.zeros_like(a), g0.clone()
    mass = a.sum(-1)
    residual = torch.full_like(epsilon, torch.inf)
    iterations = torch.zeros_like(epsilon, dtype=torch.int64)
    active = torch.ones_like(epsilon, dtype=torch.bool)
    for step in range(1, max_iter + 1):
        f_new = tau_x.unsqueeze(-1) * softmin_x(g + log_b)
        best_g = softmin_y(f_new + log_a)
        columns = b * torch.exp((g - best_g) / eps)
        columns = torch.where(b > 0, columns, torch.zeros_like(columns))
        error = (columns - _relaxed_mass(b, g, reach_y)).abs().sum(-1) / b.sum(-1)
        g_new = tau_y.unsqueeze(-1) * best_g
        mass_new = (b * torch.exp((g_new - best_g) / eps)).sum(-1)
        shift = torch.log(
            _relaxed_mass(a, f_new, reach_x).sum(-1) / _relaxed_mass(b, g_new, reach_y).sum(-1)
        )
        shift = torch.where(stiffness > 0, shift / stiffness.clamp(min=1e-300), 0.0).unsqueeze(-1)
        f = torch.where(active.unsqueeze(-1), f_new + shift, f)
        g = torch.where(active.unsqueeze(-1), g_new - shift, g)
        mass = torch.where(active, mass_new, mass)
        residual = torch.where(active, error, residual)
        iterations = iterations + active.to(iterations.dtype)
        active = active & (residual > tol)  # a NaN also ends here
        if step % check_every == 0 and not bool(active.any()):
            break
    # Balanced: f and g are known up to a constant; share it equally.
    gauge = ((b * g).sum(-1) / b.sum(-1) - (a * f).sum(-1) / a.sum(-1)) / 2
    gauge = torch.where(stiffness > 0, torch.zeros_like(gauge), gauge).unsqueeze(-1)
    return Iterates(f + gauge, g - gauge, mass, iterations, residual, residual <= tol)


def symmetric_loop(
    softmin: Softmin,
    a: Tensor,
    epsilon: Tensor,
    reach: Tensor,
    f0: Tensor,
    *,
    tol: float,
    max_iter: int,
    check_every: int = 1,
) -> Iterates:
    """The self-term :math:`\\mathrm{OT}(\\alpha,\\alpha)`: averaged updates of one potential.

    ``f <- ½ (f + τ softmin(f + ε log a))`` (Knight, Ruiz, Ucar 2014; Feydy et al. 2019), which
    needs a handful of half-iterations where the two-sided loop needs many.
    """
    eps = epsilon.unsqueeze(-1)
    log_a = eps * a.log()
    tau = damping(epsilon, reach).unsqueeze(-1)
    f = f0.clone()
    mass = a.sum(-1)
    residual = torch.full_like(epsilon, torch.inf)
    iterations = torch.zeros_like(epsilon, dtype=torch.int64)
    active = torch.ones_like(epsilon, dtype=torch.bool)
    for step in range(1, max_iter + 1):
        best = softmin(f + log_a)
        rows = torch.where(a > 0, a * torch.exp((f - best) / eps), torch.zeros_like(a))
        error = (rows - _relaxed_mass(a, f, reach)).abs().sum(-1) / a.sum(-1)
        done = error <= tol
        mass = torch.where(active, rows.sum(-1), mass)
        residual = torch.where(active, error, residual)
        iterations = iterations + active.to(iterations.dtype)
        # The state whose residual was measured is the one returned, except where a weight is 0:
        # there the potential is the softmin itself, and nothing depends on it.
        averaged = torch.where(done.unsqueeze(-1) & (a > 0), f, (f + tau * best) / 2)
        averaged = torch.where(a > 0, averaged, tau * best)
        f = torch.where(active.unsqueeze(-1), averaged, f)
        active = active & (error > tol)
        if step % check_every == 0 and not bool(active.any()):
            break
    return Iterates(f, f, mass, iterations, residual, residual <= tol)


def dense_softmin(matrix: Tensor, epsilon: Tensor) -> Softmin:
    """The softmin of a cost matrix ``(B, n, m)`` held in memory."""
    eps = epsilon.unsqueeze(-1)

    def softmin(h: Tensor) -> Tensor:
        scores = (h.unsqueeze(-2) - matrix) / eps.unsqueeze(-1)
        return -eps * torch.logsumexp(scores, -1)

    return softmin


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
        different: Label mismatch ``(B, n, m)`` or None.
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
    mass_a, mass_b = a.sum(-1), b.sum(-1)
    scale = torch.ones_like(epsilon)
    if relative:
        mean = torch.einsum("bn,bnm,bm->b", a, feature_cost, b) / (mass_a * mass_b)
        scale = mean.clamp(min=torch.finfo(mean.dtype).tiny ** 0.5)
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
    density = torch.exp(
        (end.f.unsqueeze(-1) + end.g.unsqueeze(-2) - matrix) / epsilon[:, None, None]
    )
    plan = a.unsqueeze(-1) * density * b.unsqueeze(-2)
    value = (
        (a * dual_term(end.f, reach_x)).sum(-1)
        + (b * dual_term(end.g, reach_y)).sum(-1)
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
    )
    return solution, plan


def cost_gradient(x: Tensor, y: Tensor, cost: str, plan: Tensor) -> Tensor:
    """:math:`\\sum_j P_{ij}\\,\\partial_{x_i} c(x_i,y_j)`, the envelope gradient to ``x``.

    For the gradient to ``y`` swap the clouds and transpose the plan.
    """
    if cost in ("cosine", "chordal"):
        square = (x * x).sum(-1, keepdim=True)
        unit = normalise(x)
        inner = "sqeuclidean" if cost == "cosine" else "euclidean"
        gradient = cost_gradient(unit, normalise(y), inner, plan)
        gradient = gradient / 2 if cost == "cosine" else gradient
        tangent = gradient - (gradient * unit).sum(-1, keepdim=True) * unit
        length = torch.where(square > 0, square, torch.ones_like(square)).sqrt()
        return torch.where(square > 0, tangent / length, torch.zeros_like(x))
    if cost == "l1":
        sign = torch.sign(x.unsqueeze(-2) - y.unsqueeze(-3))
        return torch.einsum("bnm,bnmd->bnd", plan, sign)
    if cost == "sqeuclidean":
        weight = 2 * plan
    else:
        distance = cost_matrix(x, y, cost)
        apart = distance > 0
        weight = torch.where(apart, plan / torch.where(apart, distance, 1.0), 0.0)
    return weight.sum(-1, keepdim=True) * x - weight @ y


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
    g0: Tensor | None = None,
    relative: bool = False,
    tol: float = 1e-9,
    max_iter: int = 10_000,
    want_x: bool = True,
    want_y: bool = True,
) -> Solution:
    """Entropic optimal transport between point clouds, value and envelope gradients.

    ``y=None`` is the self-term of ``x``; its ``grad_x`` is the total derivative (both sides).
    Arguments as in :func:`solve_dense`.
    """
    symmetric = y is None
    other = x if y is None else y
    labels = (x_label, x_label) if symmetric else (x_label, y_label)
    solution, plan = solve_dense(
        cost_matrix(x, other, cost),
        label_matrix(*labels),
        a,
        a if symmetric else b,
        torch.zeros_like(a if symmetric else b) if g0 is None else g0,
        epsilon,
        reach_x,
        reach_x if symmetric else reach_y,
        torch.zeros_like(epsilon) if label_cost is None else label_cost,
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
    if want_y and not symmetric:
        solution = solution._replace(grad_y=cost_gradient(other, x, cost, backwards))
    return solution


def gaussian_kernel(x: Tensor, y: Tensor, bandwidth: Tensor, scales: tuple[float, ...]) -> Tensor:
    """:math:`\\frac1S\\sum_s \\exp(-|x-y|^2 / 2(s\\sigma)^2)`, ``(B, n, m)``."""
    square = cost_matrix(x, y, "sqeuclidean")
    total = torch.zeros_like(square)
    for scale in scales:
        total = total + torch.exp(-square / (2 * (scale * bandwidth[:, None, None]) ** 2))
    return total / len(scales)


def mmd(
    x: Tensor,
    y: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    bandwidth: Tensor,
    scales: tuple[float, ...] = (1.0,),
    unbiased: bool = False,
) -> Tensor:
    r"""Squared maximum mean discrepancy (Gretton et al. 2012, eq. 3 and 5), differentiable.

    .. math:: \mathrm{MMD}^2 = a^\top K_{xx} a + b^\top K_{yy} b - 2 a^\top K_{xy} b.

    ``unbiased`` leaves the diagonal out of the first two and rescales each by
    :math:`m^2/(m^2-\sum a_i^2)`, which is the U-statistic for uniform weights; a single point has
    no pairs, and its term is 0.

    Args:
        x: ``(B, n, d)``.
        y: ``(B, m, d)``.
        a: Masses ``(B, n)``.
        b: Masses ``(B, m)``.
        bandwidth: :math:`\sigma`, ``(B,)``.
        scales: Factors of :math:`\sigma`; the kernels are averaged.
        unbiased: U- instead of V-statistic.

    Returns:
        ``(B,)``.
    """

    def within(points: Tensor, weight: Tensor) -> Tensor:
        kernel = gaussian_kernel(points, points, bandwidth, scales)
        full = torch.einsum("bn,bnm,bm->b", weight, kernel, weight)
        if not unbiased:
            return full
        square = (weight * weight).sum(-1)
        mass = weight.sum(-1) ** 2
        pairs = mass - square
        some = pairs > 0
        factor = torch.where(some, mass / torch.where(some, pairs, 1.0), 0.0)
        return factor * (full - square)  # the kernel is 1 on the diagonal

    cross = torch.einsum("bn,bnm,bm->b", a, gaussian_kernel(x, y, bandwidth, scales), b)
    return within(x, a) + within(y, b) - 2 * cross


class MMDGradient(NamedTuple):
    """Derivatives of :func:`mmd`, each in the shape of its argument."""

    x: Tensor
    y: Tensor
    a: Tensor
    b: Tensor
    bandwidth: Tensor


def mmd_gradient(
    x: Tensor,
    y: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    bandwidth: Tensor,
    scales: tuple[float, ...] = (1.0,),
    unbiased: bool = False,
) -> MMDGradient:
    """The derivatives of :func:`mmd`, written out.

    With :math:`w=\\frac1S\\sum_s k_s/(s\\sigma)^2` a kernel entry has
    :math:`\\partial_x k = -w\\,(x-y)` and :math:`\\partial_\\sigma k = w\\,|x-y|^2/\\sigma`.
    """
    sigma = bandwidth[:, None, None]

    def parts(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        square = cost_matrix(p, q, "sqeuclidean")
        kernel, weight = torch.zeros_like(square), torch.zeros_like(square)
        for scale in scales:
            width = (scale * sigma) ** 2
            term = torch.exp(-square / (2 * width)) / len(scales)
            kernel, weight = kernel + term, weight + term / width
        return kernel, weight, weight * square / sigma

    def pull(p: Tensor, q: Tensor, masses: Tensor) -> Tensor:
        return masses.sum(-1, keepdim=True) * p - masses @ q

    def within(p: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kernel, weight, slope = parts(p, p)
        outer = w.unsqueeze(-1) * w.unsqueeze(-2)
        value = (outer * kernel).sum((-1, -2))
        factor, to_weight = torch.ones_like(value), 2 * torch.einsum("bnm,bm->bn", kernel, w)
        if unbiased:
            mass, square = w.sum(-1), (w * w).sum(-1)
            pairs = mass**2 - square
            some = pairs > 0
            safe = torch.where(some, pairs, 1.0)
            factor = torch.where(some, mass**2 / safe, 0.0)
            own = (value - square).unsqueeze(-1)
            inner = (to_weight - 2 * w) * factor.unsqueeze(-1)
            # d(m²/(m²-q)) = (2m(m²-q) - m²(2m-2w)) / (m²-q)²
            m_ = mass.unsqueeze(-1)
            quotient = 2 * m_ * (m_ * w - square.unsqueeze(-1)) / (safe**2).unsqueeze(-1)
            to_weight = torch.where(some.unsqueeze(-1), inner + own * quotient, 0.0)
        to_points = -2 * factor[:, None, None] * pull(p, p, outer * weight)
        return to_points, to_weight, factor * (outer * slope).sum((-1, -2))

    grad_x, grad_a, slope_x = within(x, a)
    grad_y, grad_b, slope_y = within(y, b)
    kernel, weight, slope = parts(x, y)
    outer = a.unsqueeze(-1) * b.unsqueeze(-2)
    cross = outer * weight
    return MMDGradient(
        grad_x + 2 * pull(x, y, cross),
        grad_y + 2 * pull(y, x, cross.transpose(-1, -2)),
        grad_a - 2 * torch.einsum("bnm,bm->bn", kernel, b),
        grad_b - 2 * torch.einsum("bnm,bn->bm", kernel, a),
        slope_x + slope_y - 2 * (outer * slope).sum((-1, -2)),
    )


def median_bandwidth(x: Tensor, y: Tensor, a: Tensor, b: Tensor, limit: int = 1024) -> Tensor:
    """Root of the median of the pooled off-diagonal squared distances, ``(B,)``.

    Points of zero weight are left out. Above ``limit`` pooled points an evenly spaced subsample
    of that many is used. If that median is 0 the mean is taken instead, and all-coincident points
    get the smallest bandwidth for which the squares stay in range.
    """
    result = []
    for points, weight in zip(torch.cat([x, y], 1), torch.cat([a, b], 1), strict=True):
        kept = points[weight != 0]
        if len(kept) > limit:
            index = torch.arange(limit, device=kept.device) * len(kept) // limit
            kept = kept[index]
        square = torch.pdist((kept - kept.mean(0)).double()) ** 2
        if len(square) == 0:
            square = square.new_zeros(1)
        middle = torch.sort(square).values
        median = (middle[(len(square) - 1) // 2] + middle[len(square) // 2]) / 2
        median = torch.where(median > 0, median, square.mean())
        result.append(median.clamp(min=1e-12).sqrt())
    return torch.stack(result)
