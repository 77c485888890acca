"""Three modalities of one trajectory: where the points are, how they move, what joins them."""

from __future__ import annotations

import torch
from torch import Tensor

#: Their order wherever there are three of something.
STREAMS = ("joint", "motion", "bone")


def streams(points: Tensor) -> dict[str, Tensor]:
    """Joint, motion and bone of trajectories of T points.

    - ``joint`` ``(n, T, 2)``: the points.
    - ``motion`` ``(n, T - 1, 2)``: differences in time, ``x_{t+1} - x_t``.
    - ``bone`` ``(n, T - 1, 3)``: the segments between neighbours, as length and direction,
      ``(|d|, d / |d|)`` with ``d = x_{t+1} - x_t``; the direction of a segment without length is 0.

    In a body, motion joins one joint at two times and a bone two joints at one time. A pen has one
    point at a time, so that both are the same differences; told by length and direction, the third
    stream is not the second in other words for a linear layer.

    Args:
        points: ``(n, T, 2)``, T at least 2.

    Raises:
        ValueError: Another shape, or not floating point.
    """
    check_points(points)
    step = points[:, 1:] - points[:, :-1]
    length = step.norm(dim=-1, keepdim=True)
    direction = step / length.clamp_min(torch.finfo(step.dtype).eps)
    return {"joint": points, "motion": step, "bone": torch.cat((length, direction), dim=-1)}


def check_points(points: Tensor) -> None:
    """Refuse what is no set of trajectories."""
    if points.ndim != 3 or points.shape[1] < 2 or points.shape[2] != 2:
        raise ValueError(
            "points must have shape (n, T, 2), T at least 2 points of a trajectory and their x "
            f"and y, got {tuple(points.shape)}"
        )
    if not points.is_floating_point():
        raise ValueError(f"points must be floating point, got {points.dtype}")
