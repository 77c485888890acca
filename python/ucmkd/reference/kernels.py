r"""The kernels of the maximum mean discrepancy, as functions of the squared distance.

Each but the polynomial one is a function of :math:`d=|x-y|`, and each with a bandwidth a function
of :math:`d/\sigma`. With :math:`c=-2\,\partial k/\partial d^2`

.. math:: \partial_x k = -c\,(x-y),\qquad \partial_\sigma k = c\,d^2/\sigma.

For the polynomial kernel :math:`c` is the derivative with respect to the scalar product, and
:math:`\partial_x k = c\,y`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .cost import cost_matrix

KERNELS = ("gaussian", "laplace", "energy", "rational_quadratic", "polynomial")


class Kernel(NamedTuple):
    """A kernel and its constants; what a kernel does not have it ignores."""

    name: str = "gaussian"
    scales: tuple[float, ...] = (1.0,)
    degree: int = 3
    gamma: float = 1.0
    coef: float = 1.0

    @property
    def invariant(self) -> bool:
        """It depends on the distance, not on the scalar product."""
        return self.name != "polynomial"

    @property
    def has_bandwidth(self) -> bool:
        """It depends on a bandwidth."""
        return self.name not in ("energy", "polynomial")


def argument(kernel: Kernel, x: Tensor, y: Tensor) -> Tensor:
    """Squared distances, or scalar products, ``(B, n, m)``; differentiable."""
    return cost_matrix(x, y, "sqeuclidean") if kernel.invariant else x @ y.transpose(-1, -2)


def safe_root(square: Tensor) -> Tensor:
    """The square root, with derivatives of 0 at 0."""
    apart = square > 0
    return torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0)


def floor(bandwidth: Tensor) -> Tensor:
    """At least so large that the inverse of its square is finite."""
    least = 1e-15 if bandwidth.dtype == torch.float32 else 1e-140
    return bandwidth.clamp(min=least)


def kernel_value(kernel: Kernel, argument: Tensor, bandwidth: Tensor) -> Tensor:
    """The kernel at squared distances (or scalar products), differentiable any number of times.

    Args:
        kernel: Which.
        argument: Of any shape that ``bandwidth`` broadcasts to.
        bandwidth: :math:`\\sigma > 0`.
    """
    if kernel.name == "polynomial":
        return (kernel.gamma * argument + kernel.coef) ** kernel.degree
    if kernel.name == "energy":
        return -safe_root(argument)
    sigma = floor(bandwidth)
    total = torch.zeros_like(argument)
    root = safe_root(argument) if kernel.name == "laplace" else argument
    for scale in kernel.scales:
        if kernel.name == "gaussian":
            total = total + torch.exp(-argument / (2 * (scale * sigma) ** 2))
        elif kernel.name == "laplace":
            total = total + torch.exp(-root / (scale * sigma))
        else:
            total = total + (1 + argument / (2 * scale * sigma**2)) ** -scale
    return total / len(kernel.scales)


def kernel_slope(kernel: Kernel, argument: Tensor, bandwidth: Tensor) -> Tensor:
    """The coefficient :math:`c` of the derivatives, written out."""
    if kernel.name == "polynomial":
        base = kernel.gamma * argument + kernel.coef
        return kernel.degree * kernel.gamma * base ** (kernel.degree - 1)
    if kernel.name in ("energy", "laplace"):
        root = safe_root(argument)
        inverse = torch.where(root > 0, 1 / torch.where(root > 0, root, 1.0), 0.0)
        if kernel.name == "energy":
            return inverse
    sigma = floor(bandwidth)
    total = torch.zeros_like(argument)
    for scale in kernel.scales:
        if kernel.name == "gaussian":
            width = (scale * sigma) ** 2
            total = total + torch.exp(-argument / (2 * width)) / width
        elif kernel.name == "laplace":
            width = scale * sigma
            total = total + torch.exp(-root / width) * inverse / width
        else:
            base = 1 + argument / (2 * scale * sigma**2)
            total = total + base ** (-scale - 1) / sigma**2
    return total / len(kernel.scales)
