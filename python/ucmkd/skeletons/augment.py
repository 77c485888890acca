"""Random views of a trajectory, as CMD augments a skeleton."""

from __future__ import annotations

import torch
from torch import Tensor

from .streams import check_points


def view(
    points: Tensor,
    generator: torch.Generator,
    *,
    least: float = 0.7,
    shear: float = 0.3,
    moved: int = 2,
    noise: float = 0.3,
) -> Tensor:
    """One random view of each trajectory.

    First in time: a stretch of random length and place, put on T points again by linear
    interpolation. Then in space, one of two with equal probability: all points sheared,
    ``(x, y) + (s y, s' x)``, or a few of them moved by Gaussian noise.

    Args:
        points: ``(n, T, 2)``, about the origin.
        generator: Random numbers, on the CPU.
        least: Shortest stretch as a share of the whole, in (0, 1].
        shear: Largest ``|s|`` and ``|s'|``, ≥ 0.
        moved: How many points are moved, at most T.
        noise: Standard deviation of the movement in x and y, ≥ 0.

    Returns:
        ``(n, T, 2)``.

    Raises:
        ValueError: Points of another shape, or an option out of range.
    """
    check_points(points)
    n, count, _ = points.shape
    if not 0 < least <= 1:
        raise ValueError(f"least must lie in (0, 1], got {least}")
    for name, value in (("shear", shear), ("noise", noise)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be a number of at least 0, got {value}")
    if not 0 <= moved <= count:
        raise ValueError(f"moved must lie in 0..{count}, the points of a trajectory, got {moved}")

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(points)

    length = least + (1 - least) * uniform(n, 1)
    place = (1 - length) * uniform(n, 1)
    at = (place + length * torch.linspace(0, 1, count).to(points)) * (count - 1)
    cut = interpolate(points, at)
    slope = shear * (2 * uniform(n, 1, 2) - 1)
    sheared = cut + slope * cut.flip(-1)
    chosen = uniform(n, count).argsort(dim=1) < moved
    shift = noise * torch.randn(n, count, 2, generator=generator).to(points)
    corrupted = cut + shift * chosen[..., None]
    return torch.where(uniform(n, 1, 1) < 0.5, sheared, corrupted)


def interpolate(points: Tensor, at: Tensor) -> Tensor:
    """Points ``(n, k, 2)`` between neighbours, at times ``(n, k)`` in [0, T - 1]."""
    before = at.floor().clamp(0, points.shape[1] - 2)
    share = (at - before)[..., None]
    index = before.long()[..., None].expand(-1, -1, 2)
    return points.gather(1, index) * (1 - share) + points.gather(1, index + 1) * share
