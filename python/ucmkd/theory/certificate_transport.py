"""The Wasserstein distance between two clouds from above, in bounded memory."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ucmkd.ops import round_plan
from ucmkd.ops.sinkhorn_cost import transport_plan_cost

Distance = Literal["euclidean", "chebyshev"]

#: Exact differences: the expansion |x|² + |y|² - 2xy loses what is small.
EXACT = "donot_use_mm_for_euclid_dist"
#: Pooled points up to which a diameter is computed from all pairs.
DIAMETER_LIMIT = 4096


def wasserstein(
    x: Tensor,
    y: Tensor,
    *,
    distance: Distance = "euclidean",
    epsilon: float = 0.005,
    tol: float = 1e-3,
    max_iter: int = 1000,
    max_points: int = 2048,
    seed: int = 0,
    backend: str = "auto",
) -> float:
    r"""An upper bound of :math:`W_1` between two uniform clouds.

    The value :math:`\langle G, C\rangle` of the entropic plan rounded onto its marginals
    (:func:`ucmkd.ops.round_plan`), in float64: every feasible plan costs at least :math:`W_1`,
    and this one :math:`\varepsilon\log n` more at most, up to the rounding of what ``tol`` leaves.

    With more than ``max_points`` on a side both clouds are cut at random into equally many blocks
    of equal mass (a point at a cut is shared by its two blocks), and plans are made between the
    k-th blocks. Together they are a feasible plan of the whole, so that the value is still an upper
    bound; it is larger, because a block differs from the whole by chance.

    Args:
        x: ``(n, d)``, n ≥ 1.
        y: ``(m, d)``, m ≥ 1.
        distance: ``"euclidean"``, or ``"chebyshev"``: the largest difference of a coordinate.
        epsilon: In units of the mean distance of a block.
        tol: Of the solver; what it leaves is rounded away.
        max_iter: Of the solver.
        max_points: The most points of either side in one plan: memory is three such matrices.
        seed: Of the blocks.
        backend: Of the solver.

    Returns:
        In units of the features.

    Source: Altschuler, Weed, Rigollet 2017 (arXiv 1705.09634) for the rounding; blocks as in
    Fatras et al. 2020 (arXiv 1910.04091), here for one fixed partition.
    """
    x, y = x.detach().double(), y.detach().double()
    blocks = math.ceil(max(len(x), len(y)) / max_points)
    generator = torch.Generator().manual_seed(seed)
    parts_x, parts_y = (_parts(len(side), blocks, generator) for side in (x, y))
    total = 0.0
    for (i, a), (j, b) in zip(parts_x, parts_y, strict=True):
        total += _value(
            x[i.to(x.device)], y[j.to(y.device)], a.to(x), b.to(y),
            distance=distance, epsilon=epsilon, tol=tol, max_iter=max_iter, backend=backend,
        )  # fmt: skip
    return total / blocks


def _parts(n: int, blocks: int, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """Rows and masses of blocks of equal mass; point i owns [i/n, (i+1)/n) of a shuffled cloud."""
    order = torch.randperm(n, generator=generator) if blocks > 1 else torch.arange(n)
    parts = []
    for k in range(blocks):  # in units of 1/(n·blocks), so that every overlap is an integer
        first, last = k * n // blocks, -(-(k + 1) * n // blocks)
        start = torch.arange(first, last) * blocks
        overlap = (start + blocks).clamp(max=(k + 1) * n) - start.clamp(min=k * n)
        parts.append((order[first:last], overlap.double() / n))
    return parts


def _distances(x: Tensor, y: Tensor, distance: Distance) -> Tensor:
    return torch.cdist(x, y, p=2 if distance == "euclidean" else math.inf, compute_mode=EXACT)


def _value(
    x: Tensor,
    y: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    distance: Distance,
    epsilon: float,
    tol: float,
    max_iter: int,
    backend: str,
) -> float:
    cost = _distances(x, y, distance)
    mean = float(a @ cost @ b)
    # Where all points coincide up to rounding there is nothing to solve: any plan costs this.
    if mean <= 1e-12 * float(torch.maximum(x.abs().max(), y.abs().max())):
        return mean
    plan = transport_plan_cost(
        cost, epsilon=epsilon * mean, x_weight=a, y_weight=b, tol=tol, max_iter=max_iter,
        backend=backend,
    )  # fmt: skip
    return float((round_plan(plan, a, b) * cost).sum())


def diameter(*clouds: Tensor) -> float:
    """The largest distance between two points of the pooled clouds ``(n, d)``.

    Above 4,096 points, where all pairs would be many, twice the largest distance from the mean,
    which is at least as large and at most twice.
    """
    points = torch.cat([cloud.detach().double() for cloud in clouds])
    if len(points) <= DIAMETER_LIMIT:
        return max(
            float(torch.cdist(rows, points, compute_mode=EXACT).max()) for rows in points.split(512)
        )
    return 2.0 * float((points - points.mean(0)).norm(dim=1).max())
