"""Maximum mean discrepancy and its derivatives."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .cost import centre_of
from .kernels import Kernel, argument, kernel_slope, kernel_value

GAUSSIAN = Kernel()


def _columns(weight: Tensor) -> Tensor:
    """Masses ``(B, n, K)``, one class if there is no last dimension."""
    return weight.unsqueeze(-1) if weight.dim() == 2 else weight


def pair_counts(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mass, sum of squares and multiplier of the U-statistic, each ``(B, K)`` in float64."""
    wide = weight.double()
    mass, square = wide.sum(1), (wide * wide).sum(1)
    rest = mass**2 - square
    some = rest > 1e-14 * mass**2
    return mass, square, torch.where(some, mass**2 / torch.where(some, rest, 1.0), 0.0)


def mmd(
    x: Tensor,
    y: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    bandwidth: Tensor,
    kernel: Kernel = GAUSSIAN,
    unbiased: bool = False,
) -> Tensor:
    r"""Squared maximum mean discrepancy (Gretton et al. 2012, eq. 3 and 5).

    .. math:: \mathrm{MMD}^2 = a^\top K_{xx} a + b^\top K_{yy} b - 2 a^\top K_{xy} b.

    ``unbiased`` leaves the diagonal out of the first two and rescales each by
    :math:`m^2/(m^2-\sum a_i^2)`, which is the U-statistic for uniform weights; a single point has
    no pairs, and its term is 0. With several masses for each point the result is the sum over
    these classes. Differentiable any number of times, with memory ``O(B n m d)``.

    Args:
        x: ``(B, n, d)``.
        y: ``(B, m, d)``.
        a: Masses ``(B, n)`` or ``(B, n, K)``.
        b: Masses ``(B, m)`` or ``(B, m, K)``.
        bandwidth: :math:`\sigma`, ``(B,)``.
        kernel: The kernel.
        unbiased: U- instead of V-statistic.

    Returns:
        ``(B,)``.
    """
    a, b = _columns(a), _columns(b)
    sigma = bandwidth[:, None, None]

    def within(points: Tensor, weight: Tensor) -> Tensor:
        values = kernel_value(kernel, argument(kernel, points, points), sigma)
        if unbiased:
            values = values * (1 - torch.eye(points.shape[1], dtype=x.dtype, device=x.device))
        full = (weight * (values @ weight)).sum(1)
        return full * pair_counts(weight)[2].to(x.dtype) if unbiased else full

    cross = (a * (kernel_value(kernel, argument(kernel, x, y), sigma) @ b)).sum(1)
    return (within(x, a) + within(y, b) - 2 * cross).sum(-1)


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
    kernel: Kernel = GAUSSIAN,
    unbiased: bool = False,
) -> MMDGradient:
    """The derivatives of :func:`mmd`, written out with those of :mod:`.kernels`."""
    shapes = a.shape, b.shape
    a, b = _columns(a), _columns(b)
    sigma = bandwidth[:, None, None]
    if kernel.invariant:  # far from the origin the two terms of `pull` would be large
        centre = centre_of(y, (b != 0).any(-1)).detach()
        x, y = x - centre, y - centre

    def parts(p: Tensor, q: Tensor, diagonal: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The kernel, its coefficient, and this times the squared distance."""
        square = argument(kernel, p, q)
        values = kernel_value(kernel, square, sigma)
        slope = kernel_slope(kernel, square, sigma)
        if diagonal and unbiased:
            hollow = 1 - torch.eye(p.shape[1], dtype=p.dtype, device=p.device)
            values, slope = values * hollow, slope * hollow
        return values, slope, slope * square if kernel.has_bandwidth else torch.zeros_like(square)

    def pull(p: Tensor, q: Tensor, weights: Tensor) -> Tensor:
        own = weights.sum(-1, keepdim=True) * p if kernel.invariant else 0.0
        return own - weights @ q

    def within(p: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values, slope, moment = parts(p, p, True)
        inner = values @ w
        to_weight, factor = 2 * inner, torch.ones_like(w[:, 0])
        if unbiased:
            mass, square, exact = pair_counts(w)
            factor = exact.to(w.dtype)
            rest = torch.where(exact > 0, mass**2 - square, 1.0)
            # d(m²/(m²-q)) = (2m(m²-q) - m²(2m-2w)) / (m²-q)²
            quotient = 2 * mass[:, None] * (mass[:, None] * w - square[:, None])
            quotient = torch.where(exact[:, None] > 0, quotient / rest[:, None] ** 2, 0.0)
            own = (w * inner).sum(1, keepdim=True)
            to_weight = to_weight * factor[:, None] + own * quotient.to(w.dtype)
        weights = (w * factor[:, None]) @ w.transpose(-1, -2)
        return -2 * pull(p, p, weights * slope), to_weight, (weights * moment).sum((-1, -2))

    grad_x, grad_a, moment_x = within(x, a)
    grad_y, grad_b, moment_y = within(y, b)
    values, slope, moment = parts(x, y, False)
    weights = a @ b.transpose(-1, -2)
    cross = weights * slope
    total = moment_x + moment_y - 2 * (weights * moment).sum((-1, -2))
    return MMDGradient(
        grad_x + 2 * pull(x, y, cross),
        grad_y + 2 * pull(y, x, cross.transpose(-1, -2)),
        (grad_a - 2 * values @ b).reshape(shapes[0]),
        (grad_b - 2 * values.transpose(-1, -2) @ a).reshape(shapes[1]),
        total / bandwidth if kernel.has_bandwidth else total,
    )
