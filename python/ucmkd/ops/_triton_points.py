"""Clouds made ready for the Triton kernels: one type, normalised, centred, padded."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ucmkd import reference

#: The kernels' cost and its factor; :data:`NORMALISED` ones want normalised points.
COSTS = {
    "sqeuclidean": ("sqeuclidean", 1.0),
    "euclidean": ("euclidean", 1.0),
    "l1": ("l1", 1.0),
    "cosine": ("sqeuclidean", 0.5),
    "chordal": ("euclidean", 1.0),
}
NORMALISED = ("cosine", "chordal")
TYPES = (torch.float32, torch.bfloat16, torch.float16)


def kernels(name: str) -> ModuleType:
    """A file of :mod:`ucmkd.kernels`, which imports Triton."""
    return importlib.import_module(f"ucmkd.kernels.{name}")


def check(x: Tensor, y: Tensor | None, cost: str) -> None:
    """Raises ValueError for a type or a cost that the kernels do not have."""
    if cost not in COSTS:
        raise ValueError(f"cost must be one of {', '.join(COSTS)}; got {cost!r}")
    for name, points in (("x", x), ("y", y)):
        if points is not None and points.dtype not in TYPES:
            raise ValueError(
                f"{name} must be float32, bfloat16 or float16 for the Triton backend, which "
                f"computes in float32; got {points.dtype}"
            )


def _mean(points: Tensor, weight: Tensor) -> Tensor:
    """The weighted mean ``(B, 1, d)``; not a product of matrices, which may be rounded to TF32."""
    total = (weight.unsqueeze(-1) * points).sum(-2, keepdim=True)
    return total / weight.sum(-1)[:, None, None]


def in_one_type(
    x: Tensor, y: Tensor | None, a: Tensor, b: Tensor, cost: str
) -> tuple[Tensor, Tensor | None]:
    """Points in one type, normalised and centred: a common shift must not cost digits, nor
    directions that are nearly the same.

    16-bit points are not centred: rounding the difference again would move them, while their
    products are exact as they are.
    """
    if y is not None and y.dtype != x.dtype:
        x, y = x.float(), y.float()
    if cost in NORMALISED:
        x, y = reference.normalise(x.float()), None if y is None else reference.normalise(y.float())
    if x.dtype != torch.float32:
        return x, y
    # A masked point may lie anywhere: it has no part in the centre.
    if y is None:
        return x - _mean(x, a), None
    mass_a, mass_b = a.sum(-1)[:, None, None], b.sum(-1)[:, None, None]
    centre = (mass_a * _mean(x, a) + mass_b * _mean(y, b)) / (mass_a + mass_b)
    return x - centre, y - centre


def pull_back(points: Tensor, gradient: Tensor) -> Tensor:
    """A gradient to normalised points as the gradient to the points; 0 for a zero vector."""
    points = points.float()
    square = (points * points).sum(-1, keepdim=True)
    length = torch.where(square > 0, square, torch.ones_like(square)).sqrt()
    unit = points / length
    tangent = gradient - (gradient * unit).sum(-1, keepdim=True) * unit
    return torch.where(square > 0, tangent / length, torch.zeros_like(points))


class Ready(NamedTuple):
    """A batch of problems as the kernels want it."""

    first: Any  #: ``tiles.Cloud`` of the rows
    second: Any  #: of the columns; ``first`` itself in a self-term
    a: Tensor  #: weights of the rows, float32
    b: Tensor  #: of the columns
    cost: str  #: one of the kernels' costs
    factor: float


def ready(
    x: Tensor,
    y: Tensor | None,
    a: Tensor,
    b: Tensor,
    cost: str,
    labels: tuple[Tensor | None, Tensor | None],
) -> Ready:
    """Prepares both clouds; ``y=None`` is the self-term of ``x``."""
    tiles = kernels("tiles")
    kernel_cost, factor = COSTS[cost]
    a = a.float().contiguous()
    b = a if y is None else b.float().contiguous()
    x_ready, y_ready = in_one_type(x, y, a, b, cost)

    def cloud(points: Tensor, weight: Tensor, label: Tensor | None) -> Any:
        short = None if label is None else label.to(torch.int32).contiguous()
        return tiles.cloud(tiles.pad_points(points), weight.log2(), kernel_cost, short)

    first = cloud(x_ready, a, labels[0])
    second = first if y_ready is None else cloud(y_ready, b, labels[1])
    return Ready(first, second, a, b, kernel_cost, factor)


def mean_cost(clouds: Ready) -> Tensor:
    """The mean feature cost of the product of the two measures ``(B,)``.

    For the squared distance from means and variances; else by a pass over the plan, which is that
    product at zero potentials and an infinite ε.
    """
    first, second = clouds.first, clouds.second
    if clouds.cost == "sqeuclidean":

        def moments(points: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
            points = points.float()
            mean = _mean(points, weight)
            return mean, _mean((points - mean).square().sum(-1, keepdim=True), weight)[:, 0, 0]

        x_mean, x_spread = moments(first.points, clouds.a)
        y_mean, y_spread = (x_mean, x_spread)
        if second is not first:
            y_mean, y_spread = moments(second.points, clouds.b)
        apart = (x_mean - y_mean).square().sum((-1, -2))
        return clouds.factor * (x_spread + y_spread + apart)
    tiles, transport = kernels("tiles"), kernels("transport")
    problem = tiles.Problem(clouds.cost, clouds.factor, clouds.a.new_zeros(len(clouds.a)))
    moved = transport.transport(
        first, second, problem, torch.zeros_like(clouds.a), torch.zeros_like(clouds.b),
        clouds.a, clouds.b, gradient=False,
    )  # fmt: skip
    return moved.transport.sum(-1) / (clouds.a.sum(-1) * clouds.b.sum(-1))
