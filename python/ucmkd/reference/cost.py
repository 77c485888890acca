"""Costs between points, and their derivatives."""

from __future__ import annotations

import torch
from torch import Tensor

COSTS = ("sqeuclidean", "euclidean", "cosine", "l1", "chordal")


def normalise(points: Tensor) -> Tensor:
    """Points divided by their length; a zero vector stays zero."""
    square = (points * points).sum(-1, keepdim=True)
    length = torch.where(square > 0, square, torch.ones_like(square)).sqrt()
    return points / length


def cost_matrix(x: Tensor, y: Tensor, cost: str = "sqeuclidean") -> Tensor:
    """The matrix of costs ``(B, n, m)``, by direct differences, differentiable.

    Args:
        x: Points ``(B, n, d)``.
        y: Points ``(B, m, d)``.
        cost: ``sqeuclidean`` :math:`|x-y|^2`, ``euclidean`` :math:`|x-y|`, ``cosine``
            :math:`1-\\cos(x,y)` (½ of the squared distance of the normalised points), ``l1``
            :math:`\\sum|x-y|`, ``chordal`` (the distance of the normalised points). Where a
            distance is 0 its gradient is 0.
    """
    if cost in ("cosine", "chordal"):
        x, y = normalise(x), normalise(y)
    difference = x.unsqueeze(-2) - y.unsqueeze(-3)
    if cost == "l1":
        return difference.abs().sum(-1)
    square = (difference * difference).sum(-1)
    if cost == "sqeuclidean":
        return square
    if cost == "cosine":
        return square / 2
    if cost in ("euclidean", "chordal"):
        apart = square > 0
        return torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0)
    raise ValueError(f"cost must be one of {', '.join(COSTS)}; got {cost!r}")


def label_matrix(
    x_label: Tensor | None, y_label: Tensor | None, distance: Tensor | None = None
) -> Tensor | None:
    """Label distances ``(B, n, m)``: ``D[k, l]``, or 1 where labels differ without a ``distance``.

    None without labels.
    """
    if x_label is None or y_label is None:
        return None
    if distance is None:
        return x_label.unsqueeze(-1) != y_label.unsqueeze(-2)
    return distance[x_label.unsqueeze(-1), y_label.unsqueeze(-2)]


def class_mass(plan: Tensor, x_label: Tensor, y_label: Tensor, shape: torch.Size) -> Tensor:
    """Mass of the plan ``(B, n, m)`` between each pair of classes: ``(B, K, L)``."""
    first = torch.nn.functional.one_hot(x_label, shape[0]).to(plan.dtype)
    second = torch.nn.functional.one_hot(y_label, shape[1]).to(plan.dtype)
    return torch.einsum("bnk,bnm,bml->bkl", first, plan, second)


def centre_of(points: Tensor, part: Tensor | None) -> Tensor:
    """Mean ``(B, 1, d)`` of the points ``(B, n, d)`` that take part, ``(B, n)``; None: all."""
    if part is None:
        return points.mean(-2, keepdim=True)
    part = part.unsqueeze(-1)
    total = torch.where(part, points, 0.0).sum(-2, keepdim=True)
    return total / part.sum(-2, keepdim=True).clamp_min(1)


def cost_gradient(x: Tensor, y: Tensor, cost: str, plan: Tensor) -> Tensor:
    """:math:`\\sum_j P_{ij}\\,\\partial_{x_i} c(x_i,y_j)`, the envelope gradient to ``x``.

    For the gradient to ``y`` swap the clouds and transpose the plan.
    """
    if cost in ("cosine", "chordal"):
        square = (x * x).sum(-1, keepdim=True)
        unit = normalise(x)
        inner = "sqeuclidean" if cost == "cosine" else "euclidean"
        gradient = cost_gradient(unit, normalise(y), inner, plan)
        gradient = gradient / 2 if cost == "cosine" else gradient
        tangent = gradient - (gradient * unit).sum(-1, keepdim=True) * unit
        length = torch.where(square > 0, square, torch.ones_like(square)).sqrt()
        return torch.where(square > 0, tangent / length, torch.zeros_like(x))
    if cost == "l1":
        sign = torch.sign(x.unsqueeze(-2) - y.unsqueeze(-3))
        return torch.einsum("bnm,bnmd->bnd", plan, sign)
    if cost == "sqeuclidean":
        weight = 2 * plan
    else:
        distance = cost_matrix(x, y, cost)
        apart = distance > 0
        weight = torch.where(apart, plan / torch.where(apart, distance, 1.0), 0.0)
    # About a point amid those that take part: far from the origin the two terms would be large.
    centre = centre_of(y, weight.sum(-2) != 0).detach()
    return weight.sum(-1, keepdim=True) * (x - centre) - weight @ (y - centre)
