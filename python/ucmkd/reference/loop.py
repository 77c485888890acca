"""The Sinkhorn iterations in the log domain, over any softmin."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

#: Softmin: maps log-weighted potentials of the other side to -ε·logsumexp((h - C)/ε).
Softmin = Callable[[Tensor], Tensor]


def damping(epsilon: Tensor, reach: Tensor) -> Tensor:
    """:math:`\\rho/(\\rho+\\varepsilon)`, and 1 for an infinite reach."""
    return torch.where(torch.isinf(reach), 1.0, reach / (reach + epsilon))


def capped_exp(exponent: Tensor) -> Tensor:
    """``exp`` that stays finite: so far from a solution only being large matters."""
    return torch.exp(exponent.clamp(max=0.9 * math.log(torch.finfo(exponent.dtype).max)))


def weighted(weight: Tensor, terms: Tensor) -> Tensor:
    """``weight * terms``, and 0 at masked points, whose terms may overflow."""
    return torch.where(weight > 0, weight * terms, torch.zeros_like(terms))


def usable_start(g0: Tensor, weight: Tensor, epsilon: Tensor, balanced: Tensor) -> Tensor:
    """A warm start without its gauge, or 0 where it would drown the cost in rounding error."""
    mean = (weight * g0).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True)
    start = torch.where(balanced.unsqueeze(-1), g0 - mean, g0)
    far = (start.abs() * (weight > 0)).amax(-1) / epsilon
    good = far * torch.finfo(g0.dtype).eps < 0.01
    return torch.where(good.unsqueeze(-1), start, torch.zeros_like(start))


def relaxed_mass(weight: Tensor, potential: Tensor, reach: Tensor) -> Tensor:
    """The marginal that the relaxation asks for, :math:`a e^{-f/\\rho}` (``a`` when strict)."""
    reach = reach.unsqueeze(-1)
    return weight * torch.where(torch.isinf(reach), 1.0, capped_exp(-potential / reach))


def log_relaxed_mass(weight: Tensor, potential: Tensor, reach: Tensor) -> Tensor:
    """:math:`\\log\\sum_i a_i e^{-f_i/\\rho}`, free of overflow."""
    reach = reach.unsqueeze(-1)
    exponent = torch.where(torch.isinf(reach), 0.0, -potential / reach)
    return torch.logsumexp(weight.log() + exponent, -1)


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
    f, g = torch.zeros_like(a), usable_start(g0, b, epsilon, stiffness == 0)
    mass = a.sum(-1)
    residual = torch.full_like(epsilon, torch.inf)
    iterations = torch.zeros_like(epsilon, dtype=torch.int64)
    active = torch.ones_like(epsilon, dtype=torch.bool)
    for step in range(1, max_iter + 1):
        f_new = tau_x.unsqueeze(-1) * softmin_x(g + log_b)
        best_g = softmin_y(f_new + log_a)
        columns = weighted(b, capped_exp((g - best_g) / eps))
        error = (columns - relaxed_mass(b, g, reach_y)).abs().sum(-1) / b.sum(-1)
        g_new = tau_y.unsqueeze(-1) * best_g
        mass_new = weighted(b, torch.exp((g_new - best_g) / eps)).sum(-1)
        shift = log_relaxed_mass(a, f_new, reach_x) - log_relaxed_mass(b, g_new, reach_y)
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
    f, g = f + gauge, g - gauge
    if bool((a == 0).any()) or bool((b == 0).any()):
        # Nothing depends on the potential of a masked point: it gets that of the other side's end.
        f = torch.where(a > 0, f, tau_x.unsqueeze(-1) * softmin_x(g + log_b))
        g = torch.where(b > 0, g, tau_y.unsqueeze(-1) * softmin_y(f + log_a))
    return Iterates(f, g, mass, iterations, residual, residual <= tol)


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
        rows = weighted(a, torch.exp((f - best) / eps))
        error = (rows - relaxed_mass(a, f, reach)).abs().sum(-1) / a.sum(-1)
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
