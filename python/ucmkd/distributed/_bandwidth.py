"""The bandwidth rules of :mod:`ucmkd.reference.bandwidth` over the rows of all ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from ucmkd import reference
from ucmkd.distributed._shares import Shares
from ucmkd.distributed._sweep import total
from ucmkd.ops.bandwidth import MEDIAN_LIMIT
from ucmkd.reference.bandwidth import FLOOR


def mean_bandwidth(x: Tensor, y: Tensor, shared: Shares) -> float:
    """Root of the mean pooled squared distance, from the moments; two small all-reduces."""
    ranks, _, s, t = shared
    kept = torch.cat([x[s.own != 0], y[t.own != 0]]).double()
    sums = torch.cat([kept.sum(0), kept.new_full((1,), len(kept))])
    *_, count = ranks.add(sums).tolist()
    spread = total((kept - sums[:-1] / max(count, 1)).square().sum(), ranks)
    return max(2 * spread / max(count - 1, 1), FLOOR**2) ** 0.5


def median_bandwidth(x: Tensor, y: Tensor, shared: Shares) -> float:
    """The median heuristic on the same at most 1024 pooled points as in one process."""
    ranks, _, s, t = shared
    counts = []  # rows with a mass on each rank, of both sides
    for side in (s, t):
        parts = torch.split(side.all != 0, list(side.sizes))
        counts += [int(part.sum()) for part in parts]
    everything = sum(counts)
    size = min(everything, MEDIAN_LIMIT)
    index = torch.arange(size, device=x.device) * everything // size
    chosen, first = [], 0
    sizes: list[int] = []
    for place, count in enumerate(counts):
        inside = index[(index >= first) & (index < first + count)] - first
        sizes.append(len(inside))
        if place % ranks.size == ranks.rank:
            points, side = ((x, s), (y, t))[place // ranks.size]
            chosen.append(points[side.own != 0][inside])
        first += count
    world = ranks.size
    pooled = [
        torch.cat(ranks.gather_rows(own, tuple(sizes[i * world : (i + 1) * world]), 0))
        for i, own in enumerate(chosen)
    ]
    p, q = (points.unsqueeze(0) for points in pooled)
    a, b = (points.new_ones(points.shape[:2]) for points in (p, q))
    return float(reference.median_bandwidth(p, q, a, b, MEDIAN_LIMIT))
