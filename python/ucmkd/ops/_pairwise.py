r"""Costs between points that can be differentiated twice in ``O(nm)`` memory.

Autograd through :func:`ucmkd.reference.cost_matrix` keeps the differences, ``O(nmd)``. Here the
pairwise sums are nodes of their own whose backward is again written in differentiable operations:

.. math:: \textstyle\sum_{ij} G_{ij}\,\partial_{x_i}|x_i-y_j|^2 = 2(G1)_i x_i - 2(Gy)_i.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ucmkd.ops._plain import tracked

_DIRECT = "donot_use_mm_for_euclid_dist"  # differences, so that equal points are exactly 0 apart


class _Square(torch.autograd.Function):
    """Squared distances ``(B, n, m)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(*tracked(x, y))
        return torch.cdist(x, y, compute_mode=_DIRECT).square_()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        (g,) = gradients
        t = g.transpose(-1, -2)
        to_x = g.sum(-1, keepdim=True) * x - g @ y
        to_y = t.sum(-1, keepdim=True) * y - t @ x
        return 2 * to_x, 2 * to_y


class _Sum(torch.autograd.Function):
    """Sums of absolute differences ``(B, n, m)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(*tracked(x, y))
        return torch.cdist(x, y, p=1.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        return _SignPull.apply(x, y, gradients[0])


class _SignPull(torch.autograd.Function):
    """:math:`\\sum_j G_{ij}\\,\\mathrm{sign}(x_i-y_j)` and its counterpart for ``y``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(*tracked(x, y))
        to_x, to_y = torch.empty_like(x), torch.empty_like(y)
        for k in range(x.shape[-1]):  # one coordinate at a time keeps the memory at O(nm)
            pull = g * _sign(x, y, k)
            to_x[..., k], to_y[..., k] = pull.sum(-1), -pull.sum(-2)
        return to_x, to_y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor]:
        x, y = ctx.saved_tensors
        to_x, to_y = gradients
        result = x.new_zeros((*x.shape[:-1], y.shape[-2]))
        for k in range(x.shape[-1]):
            result += _sign(x, y, k) * (to_x[..., None, k] - to_y[..., None, :, k])
        return None, None, result


def _sign(x: Tensor, y: Tensor, k: int) -> Tensor:
    return torch.sign(x[..., k].unsqueeze(-1) - y[..., k].unsqueeze(-2))


def _unit(points: Tensor) -> Tensor:
    """Points divided by their length; a zero vector stays zero and has no gradient."""
    square = (points * points).sum(-1, keepdim=True)
    some = square > 0
    return torch.where(some, points / torch.where(some, square, 1.0).sqrt(), 0.0)


def pairwise_cost(x: Tensor, y: Tensor, cost: str) -> Tensor:
    """:math:`c(x_i,y_j)` in float64, ``(B, n, m)``; costs as in ``reference.cost_matrix``.

    Differentiable twice. Where a distance is 0 its derivatives are 0.
    """
    x, y = x.double(), y.double()
    if cost in ("cosine", "chordal"):
        x, y = _unit(x), _unit(y)
    else:  # keeps the backward accurate for clouds far from the origin
        centre = y.detach().mean(-2, keepdim=True)
        x, y = x - centre, y - centre
    if cost == "l1":
        return _Sum.apply(x, y)
    square = _Square.apply(x, y)
    if cost == "sqeuclidean":
        return square
    if cost == "cosine":
        return square / 2
    apart = square > 0
    return torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0)


def add_labels(features: Tensor, label_cost: Tensor, apart: Tensor | None) -> Tensor:
    """:math:`c_{ij} + \\lambda D[k_i, l_j]` from the second part ``apart``, λ ``(B,)``."""
    return features if apart is None else features + label_cost.double()[:, None, None] * apart


def class_distances(
    distance: Tensor | None, x_label: Tensor | None, y_label: Tensor | None
) -> Tensor | None:
    """:math:`D[k_i, l_j]` in float64 ``(B, n, m)``; None without labels.

    ``distance`` is ``(K, L)`` or, one per problem, ``(B, K, L)``.
    """
    if x_label is None or y_label is None:
        return None
    if distance is None:
        return (x_label.unsqueeze(-1) != y_label.unsqueeze(-2)).double()
    rows, columns = one_hot(x_label, distance.shape[-2]), one_hot(y_label, distance.shape[-1])
    return rows @ distance.double() @ columns.transpose(-1, -2)


def one_hot(label: Tensor, classes: int) -> Tensor:
    """Indicators of the classes in float64, ``(B, n, classes)``."""
    return torch.nn.functional.one_hot(label, classes).double()
