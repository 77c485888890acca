"""The median bandwidth on a device: shapes that do not depend on the data, and no waiting."""

from __future__ import annotations

import torch
from torch import Tensor

from ucmkd.reference.bandwidth import FLOOR


def device_median(x: Tensor, y: Tensor, a: Tensor | None, b: Tensor | None, limit: int) -> Tensor:
    """:func:`ucmkd.reference.median_bandwidth` in the type of the points, ``(B,)`` in float64.

    The points of positive weight are moved to the front, and the others' distances sorted behind
    all that count.
    """
    points = torch.cat([x, y], 1)
    batch, total, width = points.shape
    size = min(total, limit)
    place = torch.arange(size, device=x.device)
    if a is None and b is None:
        kept = points if total <= limit else points[:, place * total // limit]
        count = torch.full((batch, 1), size, device=x.device)
    else:
        first = x.new_ones(x.shape[:2]) if a is None else a
        second = y.new_ones(y.shape[:2]) if b is None else b
        masked = torch.cat([first, second], 1).eq(0)
        order = torch.argsort(masked.to(torch.int8), dim=1, stable=True)
        count = (~masked).sum(1, keepdim=True)
        index = torch.where(count > limit, place * count // limit, place)
        index = torch.gather(order, 1, index)
        kept = torch.gather(points, 1, index.unsqueeze(-1).expand(-1, -1, width))
        count = count.clamp(max=limit)
    valid = place < count
    shown = torch.where(valid.unsqueeze(-1), kept, 0.0)
    kept = shown - shown.sum(1, keepdim=True) / count.clamp(min=1).unsqueeze(-1)
    row, column = torch.triu_indices(size, size, 1, device=x.device)
    exact = "donot_use_mm_for_euclid_dist"
    square = torch.cdist(kept, kept, compute_mode=exact).square()[:, row, column]
    both = valid[:, row] & valid[:, column]
    pairs = (count * (count - 1) // 2).clamp(min=1)
    if square.shape[1] == 0:
        return torch.full((batch,), FLOOR, dtype=torch.float64, device=x.device)
    ordered = torch.where(both, square, torch.inf).sort(1).values
    middle = (ordered.gather(1, (pairs - 1) // 2) + ordered.gather(1, pairs // 2)).double() / 2
    mean = torch.where(both, square, 0.0).sum(1, keepdim=True, dtype=torch.float64) / pairs
    middle = torch.where((middle > 0) & middle.isfinite(), middle, mean)
    return middle.squeeze(1).clamp(min=FLOOR**2).sqrt()
