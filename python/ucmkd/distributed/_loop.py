"""The Sinkhorn iterations of :mod:`ucmkd.reference.loop` with the rows spread over the ranks.

Columns are on every rank: the y-potential and the masses ``(m,)``. A rank decides to stop by a
residual that was added up over the ranks, so that all stop at the same iteration.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ucmkd.distributed._costs import Costs
from ucmkd.distributed._group import Ranks
from ucmkd.distributed._sweep import log_sum, over_columns, over_rows, total
from ucmkd.reference.loop import capped_exp, weighted


class Masses(NamedTuple):
    """Masses of one rank's rows and of all columns, and their sums."""

    a: Tensor
    b: Tensor
    sum_a: float
    sum_b: float


class Potentials(NamedTuple):
    """Of this rank's rows and of all columns; the plan's mass and what the solve reports."""

    f: Tensor
    g: Tensor
    mass: float
    iterations: int
    residual: float


def relaxed(weight: Tensor, potential: Tensor, reach: float) -> Tensor:
    """The marginal that the relaxation asks for."""
    return weight if math.isinf(reach) else weight * capped_exp(-potential / reach)


def damping(epsilon: float, reach: float) -> float:
    """:math:`\\rho/(\\rho+\\varepsilon)`, and 1 for an infinite reach."""
    return 1.0 if math.isinf(reach) else reach / (reach + epsilon)


def _log_relaxed(weight: Tensor, potential: Tensor, reach: float) -> Tensor:
    exponent = torch.zeros_like(potential) if math.isinf(reach) else -potential / reach
    return torch.logsumexp(weight.log() + exponent, -1)


def _own_columns(values: Tensor, ranks: Ranks) -> Tensor:
    """This rank's share of what every rank has: added up once."""
    return values[ranks.rank :: ranks.size].sum()


def two_sided(
    costs: Costs,
    masses: Masses,
    ranks: Ranks,
    epsilon: float,
    reach: tuple[float, float],
    *,
    tol: float,
    max_iter: int,
) -> Potentials:
    """:func:`ucmkd.reference.loop.sinkhorn_loop` from 0; two turns of the ring an iteration."""
    a, b, sum_a, sum_b = masses
    log_a, log_b = epsilon * a.log(), epsilon * b.log()
    tau_x, tau_y = damping(epsilon, reach[0]), damping(epsilon, reach[1])
    stiffness = 1 / reach[0] + 1 / reach[1]
    f, g = torch.zeros_like(a), torch.zeros_like(b)
    mass, residual, step = sum_a, math.inf, 0
    while step < max_iter and not residual <= tol:
        step += 1
        f = tau_x * over_columns(costs, g + log_b, epsilon)
        best = over_rows(costs, f + log_a, epsilon, ranks)
        error = (weighted(b, capped_exp((g - best) / epsilon)) - relaxed(b, g, reach[1])).abs()
        g = tau_y * best
        moved = weighted(b, torch.exp((g - best) / epsilon))
        sums = torch.stack([_own_columns(error, ranks), _own_columns(moved, ranks)]).double()
        residual, mass = ranks.add(sums).tolist()
        residual /= sum_b
        if stiffness > 0:
            own = _log_relaxed(a, f, reach[0]).reshape(1)
            shift = log_sum(own, ranks)[0] - _log_relaxed(b, g, reach[1])
            f, g = f + shift / stiffness, g - shift / stiffness
        if math.isnan(residual):
            break
    if stiffness == 0:
        mean_f = total((a * f).sum(), ranks) / sum_a
        gauge = (float((b * g).sum()) / sum_b - mean_f) / 2
        f, g = f + gauge, g - gauge
    return Potentials(f, g, mass, step, residual)


def symmetric(
    costs: Costs,
    masses: Masses,
    ranks: Ranks,
    epsilon: float,
    reach: float,
    *,
    tol: float,
    max_iter: int,
) -> Potentials:
    """:func:`ucmkd.reference.loop.symmetric_loop` from 0; one turn, and an all-gather of ``(n,)``.

    Here ``masses.b`` are those of all rows, and ``g`` is the potential of all of them.
    """
    a, all_a, sum_a, _ = masses
    log_all, tau = epsilon * all_a.log(), damping(epsilon, reach)
    g = torch.zeros_like(all_a)
    mine = costs.ring.mine
    mass, residual, step = sum_a, math.inf, 0
    while step < max_iter:
        step += 1
        f = g[mine]
        best = over_columns(costs, g + log_all, epsilon)
        rows = weighted(a, torch.exp((f - best) / epsilon))
        error = (rows - relaxed(a, f, reach)).abs().sum()
        residual, mass = ranks.add(torch.stack([error, rows.sum()]).double()).tolist()
        residual /= sum_a
        if residual <= tol or math.isnan(residual):
            break
        f = torch.where(a > 0, (f + tau * best) / 2, tau * best)
        g = torch.cat(ranks.gather_rows(f, costs.ring.sizes, 0))
    return Potentials(g[mine], g, mass, step, residual)
