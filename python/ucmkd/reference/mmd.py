"""Maximum mean discrepancy, its derivatives, and the median bandwidth."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .cost import cost_matrix


def gaussian_kernel(x: Tensor, y: Tensor, bandwidth: Tensor, scales: tuple[float, ...]) -> Tensor:
    """:math:`\\frac1S\\sum_s \\exp(-|x-y|^2 / 2(s\\sigma)^2)`, ``(B, n, m)``."""
    square = cost_matrix(x, y, "sqeuclidean")
    total = torch.zeros_like(square)
    for scale in scales:
        total = total + torch.exp(-square / (2 * (scale * bandwidth[:, None, None]) ** 2))
    return total / len(scales)


def mmd(
    x: Tensor,
    y: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    bandwidth: Tensor,
    scales: tuple[float, ...] = (1.0,),
    unbiased: bool = False,
) -> Tensor:
    r"""Squared maximum mean discrepancy (Gretton et al. 2012, eq. 3 and 5), differentiable.

    .. math:: \mathrm{MMD}^2 = a^\top K_{xx} a + b^\top K_{yy} b - 2 a^\top K_{xy} b.

    ``unbiased`` leaves the diagonal out of the first two and rescales each by
    :math:`m^2/(m^2-\sum a_i^2)`, which is the U-statistic for uniform weights; a single point has
    no pairs, and its term is 0.

    Args:
        x: ``(B, n, d)``.
        y: ``(B, m, d)``.
        a: Masses ``(B, n)``.
        b: Masses ``(B, m)``.
        bandwidth: :math:`\sigma`, ``(B,)``.
        scales: Factors of :math:`\sigma`; the kernels are averaged.
        unbiased: U- instead of V-statistic.

    Returns:
        ``(B,)``.
    """

    def within(points: Tensor, weight: Tensor) -> Tensor:
        kernel = gaussian_kernel(points, points, bandwidth, scales)
        full = torch.einsum("bn,bnm,bm->b", weight, kernel, weight)
        if not unbiased:
            return full
        square = (weight * weight).sum(-1)
        mass = weight.sum(-1) ** 2
        pairs = mass - square
        some = pairs > 0
        factor = torch.where(some, mass / torch.where(some, pairs, 1.0), 0.0)
        return factor * (full - square)  # the kernel is 1 on the diagonal

    cross = torch.einsum("bn,bnm,bm->b", a, gaussian_kernel(x, y, bandwidth, scales), b)
    return within(x, a) + within(y, b) - 2 * cross


class MMDGradient(NamedTuple):
    """Derivatives of :func:`mmd`, each in the shape of its argument."""

    x: Tensor
    y: Tensor
    a: Tensor
    b: Tensor
    bandwidth: Tensor


def mmd_gradient(
    x: Tensor,
    y: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    bandwidth: Tensor,
    scales: tuple[float, ...] = (1.0,),
    unbiased: bool = False,
) -> MMDGradient:
    """The derivatives of :func:`mmd`, written out.

    With :math:`w=\\frac1S\\sum_s k_s/(s\\sigma)^2` a kernel entry has
    :math:`\\partial_x k = -w\\,(x-y)` and :math:`\\partial_\\sigma k = w\\,|x-y|^2/\\sigma`.
    """
    sigma = bandwidth[:, None, None]

    def parts(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        square = cost_matrix(p, q, "sqeuclidean")
        kernel, weight = torch.zeros_like(square), torch.zeros_like(square)
        for scale in scales:
            width = (scale * sigma) ** 2
            term = torch.exp(-square / (2 * width)) / len(scales)
            kernel, weight = kernel + term, weight + term / width
        return kernel, weight, weight * square / sigma

    def pull(p: Tensor, q: Tensor, masses: Tensor) -> Tensor:
        return masses.sum(-1, keepdim=True) * p - masses @ q

    def within(p: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kernel, weight, slope = parts(p, p)
        outer = w.unsqueeze(-1) * w.unsqueeze(-2)
        value = (outer * kernel).sum((-1, -2))
        factor, to_weight = torch.ones_like(value), 2 * torch.einsum("bnm,bm->bn", kernel, w)
        if unbiased:
            mass, square = w.sum(-1), (w * w).sum(-1)
            pairs = mass**2 - square
            some = pairs > 0
            safe = torch.where(some, pairs, 1.0)
            factor = torch.where(some, mass**2 / safe, 0.0)
            own = (value - square).unsqueeze(-1)
            inner = (to_weight - 2 * w) * factor.unsqueeze(-1)
            # d(m²/(m²-q)) = (2m(m²-q) - m²(2m-2w)) / (m²-q)²
            m_ = mass.unsqueeze(-1)
            quotient = 2 * m_ * (m_ * w - square.unsqueeze(-1)) / (safe**2).unsqueeze(-1)
            to_weight = torch.where(some.unsqueeze(-1), inner + own * quotient, 0.0)
        to_points = -2 * factor[:, None, None] * pull(p, p, outer * weight)
        return to_points, to_weight, factor * (outer * slope).sum((-1, -2))

    grad_x, grad_a, slope_x = within(x, a)
    grad_y, grad_b, slope_y = within(y, b)
    kernel, weight, slope = parts(x, y)
    outer = a.unsqueeze(-1) * b.unsqueeze(-2)
    cross = outer * weight
    return MMDGradient(
        grad_x + 2 * pull(x, y, cross),
        grad_y + 2 * pull(y, x, cross.transpose(-1, -2)),
        grad_a - 2 * torch.einsum("bnm,bm->bn", kernel, b),
        grad_b - 2 * torch.einsum("bnm,bn->bm", kernel, a),
        slope_x + slope_y - 2 * (outer * slope).sum((-1, -2)),
    )


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
        result.append(median.clamp(min=1e-12).sqrt())
    return torch.stack(result)
