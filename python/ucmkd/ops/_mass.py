"""Masses of a point cloud as probabilities, and points relative to their own mean."""

from __future__ import annotations

import torch
from torch import Tensor


def probabilities(weight: Tensor | None, points: Tensor) -> Tensor:
    """Checked masses ``(B, n)`` divided by their sum, in float64; ``1/n`` for None.

    float64 because ranks and effective sample sizes are sums and differences of many of them.
    """
    if weight is None:
        batch, n = points.shape[:2]
        return torch.full((batch, n), 1 / n, dtype=torch.float64, device=points.device)
    wide = weight.to(torch.float64)
    return wide / wide.sum(-1, keepdim=True)


def centred(points: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """``(points - centre, centre)`` with the detached weighted mean ``(B, 1, d)`` as centre.

    Far from the origin a float32 loses digits; near its own mean it does not.
    """
    centre = weighted_mean(points, mass)
    return fill_masked(points - centre, mass, 0.0), centre


def weighted_mean(points: Tensor, mass: Tensor) -> Tensor:
    """Detached, ``(B, 1, d)``."""
    weight = mass.detach().to(points.dtype).unsqueeze(-1)
    return (weight * points.detach()).sum(1, keepdim=True)


def fill_masked(points: Tensor, mass: Tensor, value: Tensor | float) -> Tensor:
    """Points of zero mass moved to ``value``: a mask may hide anything finite, however large.

    A mass that is learned keeps its point in place: the derivative to it depends on the point.
    """
    if mass.requires_grad:
        return points
    return torch.where((mass > 0).unsqueeze(-1), points, value)
