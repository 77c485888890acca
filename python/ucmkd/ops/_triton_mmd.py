"""The Triton backend of ``ucmkd::mmd``.

Triton and the kernels are imported on first use, so that a machine without them pays nothing.
Nothing here waits for the device.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from ucmkd.ops._mmd_op import Flag, Outputs, Spec
from ucmkd.reference.mmd import pair_counts

_HALF = (torch.bfloat16, torch.float16)


def _columns(masses: Tensor | None, points: Tensor) -> Tensor:
    """Masses ``(B, n, K)`` in float64."""
    if masses is None:
        batch, n = points.shape[:2]
        return points.new_full((batch, n, 1), 1 / n, dtype=torch.float64)
    return (masses if masses.dim() == 3 else masses.unsqueeze(-1)).double()


def _to_masses(
    weight: Tensor, sign: float, within: Tensor, cross: Tensor, factor: Tensor, unbiased: bool
) -> Tensor:
    """The gradient to the masses ``(B, n, K)`` of one side, float64.

    With :math:`s` the signed masses and :math:`f=m^2/(m^2-q)` it is
    :math:`\\pm2(f\\,(Ks)_{own} + (Ks)_{other}) + (s^\\top Ks)_{own}\\,\\partial f`.
    """
    found = 2 * sign * (factor.unsqueeze(1) * within + cross)
    if not unbiased:
        return found
    mass, square = weight.sum(1, keepdim=True), weight.square().sum(1, keepdim=True)
    exists = factor.unsqueeze(1) > 0
    rest = torch.where(exists, mass**2 - square, 1.0)
    slope = torch.where(exists, 2 * mass * (mass * weight - square) / rest**2, 0.0)
    return found + (sign * weight * within).sum(1, keepdim=True) * slope


def compute(
    x: Tensor, y: Tensor, a: Tensor | None, b: Tensor | None, sigma: Tensor, spec: Spec, flags: int
) -> Outputs:
    """Value and wanted gradients, all in float32 but the one to the bandwidth (float64).

    Points ``(n, d)`` or ``(B, n, d)`` in float32, bfloat16 or float16; masses ``(B, n)`` or
    ``(B, n, K)``; ``sigma (B,)`` on the device of the points.
    """
    module: Any = importlib.import_module("ucmkd.kernels.mmd")
    single = x.dim() == 2
    x, y = x.detach(), y.detach()
    left, right = (x.unsqueeze(0), y.unsqueeze(0)) if single else (x, y)
    if left.dtype != right.dtype:
        left, right = left.float(), right.float()
    a, b = (None if w is None else w.detach() for w in (a, b))
    inner, moment = bool(flags & Flag.MASSES), bool(flags & Flag.BANDWIDTH)
    weights = _columns(a, left), _columns(b, right)
    one = two = factor = None
    if spec.unbiased or inner:
        ones = torch.ones_like(weights[0][:, 0])
        one, two = (pair_counts(w)[2] for w in weights) if spec.unbiased else (ones, ones)
        factor = torch.stack([one, two], 1) if spec.unbiased else None
    kernel = spec.kernel
    sums = module.mmd(
        left, right, a, b, sigma, kernel=kernel.name, scales=kernel.scales, degree=kernel.degree,
        gamma=kernel.gamma, coef=kernel.coef, factor=factor,
        want=(bool(flags & Flag.X), bool(flags & Flag.Y)), inner=inner,
        moment=moment and kernel.has_bandwidth,
    )  # fmt: skip
    value = sums.value.float()
    grad_a = grad_b = None
    if inner and one is not None and two is not None:
        n = left.shape[1]
        parts = []
        for weight, sign, multiplier, span in (
            (weights[0], 1.0, one, slice(0, n)),
            (weights[1], -1.0, two, slice(n, None)),
        ):
            parts.append(
                _to_masses(
                    weight, sign, sums.within[:, span].double(), sums.cross[:, span].double(),
                    multiplier, spec.unbiased,
                ).float()
            )  # fmt: skip
        grad_a = parts[0].reshape(left.shape[:2] if a is None else a.shape)
        grad_b = parts[1].reshape(right.shape[:2] if b is None else b.shape)
    return (
        value.reshape(()) if single else value,
        None if sums.x is None else sums.x.reshape(x.shape),
        None if sums.y is None else sums.y.reshape(y.shape),
        grad_a,
        grad_b,
        sums.moment / sigma if moment else None,
    )
