"""Bandwidths from the data: the pooled median and the pooled mean."""

from __future__ import annotations

import torch
from torch import Tensor

#: The smallest bandwidth that the data can give: what coincident points get.
FLOOR = 1e-6


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
        result.append(median.clamp(min=FLOOR**2).sqrt())
    return torch.stack(result)


def mean_bandwidth(x: Tensor, y: Tensor, a: Tensor | None, b: Tensor | None) -> Tensor:
    r"""Root of the mean of the pooled off-diagonal squared distances, ``(B,)`` in float64.

    Over :math:`N` points :math:`\frac1{N(N-1)}\sum_{ij}|z_i-z_j|^2 =
    \frac2{N-1}\sum_i|z_i-\bar z|^2`: no distance is computed. Points of zero weight are left out.
    """
    points = torch.cat([x, y], 1)
    if a is None and b is None:
        count = float(points.shape[1])
        spread = (points - points.mean(1, keepdim=True)).square().sum((1, 2), dtype=torch.float64)
        return (2 * spread / max(count - 1, 1)).clamp(min=FLOOR**2).sqrt()
    first = x.new_ones(x.shape[:2]) if a is None else a
    second = y.new_ones(y.shape[:2]) if b is None else b
    kept = torch.cat([first, second], 1).ne(0).unsqueeze(-1)
    points = torch.where(kept, points, 0.0)
    counts = kept.sum((1, 2)).double()
    mean = points.sum(1, keepdim=True) / counts.clamp(min=1).to(x.dtype)[:, None, None]
    spread = torch.where(kept, points - mean, 0.0).square().sum((1, 2), dtype=torch.float64)
    return (2 * spread / (counts - 1).clamp(min=1)).clamp(min=FLOOR**2).sqrt()
