"""The backward of every operator: a stored gradient times the incoming one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ucmkd import _backend
from ucmkd.ops._plain import transformed

#: Where PyTorch starts to share an elementwise operation among its threads.
_GRAIN = 32768


def scale(gradient: Tensor, factor: Tensor) -> Tensor:
    """``factor (B,)`` times ``gradient (B, ...)``, or a 0-d factor times anything.

    On the CPU in one thread where PyTorch would use its thread pool for these few microseconds: the
    pool's threads go on spinning for milliseconds afterwards, on the processors that the next
    solve needs.
    """
    if factor.dtype != gradient.dtype:
        factor = factor.to(gradient.dtype)
    if factor.dim():
        factor = factor.reshape(-1, *[1] * (gradient.dim() - 1))
    plain = type(gradient) is Tensor and type(factor) is Tensor and gradient.device.type == "cpu"
    if gradient.numel() < _GRAIN or not plain or torch.compiler.is_compiling():
        return factor * gradient
    if _backend.has_rust() and gradient.dtype in (torch.float32, torch.float64):
        whole = gradient.detach().contiguous().numpy()
        return torch.from_numpy(_backend.rust().scaled(whole, factor.detach().numpy()))
    return torch.from_numpy(np.multiply(gradient.detach().numpy(), factor.detach().numpy()))


def saturated(gradient: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """``factor * gradient``, both float64, in ``dtype``: what is too large for it is its largest.

    The derivative to a weight or a parameter may truly be 1e50 at a point without mass; an
    infinity would make NaN of all parameters behind it. ``factor (B,)`` or ``(B, 1)`` is the
    incoming gradient: its infinities stay, and so do those in half precision, because a gradient
    scaler looks for them.
    """
    product = factor * gradient
    if dtype not in (torch.float32, torch.float64):
        return product.to(dtype)
    # One weight may serve all problems, and gets the sum.
    most = torch.full_like(factor, torch.finfo(dtype).max / factor.numel())
    most = most.masked_fill(~torch.isfinite(factor), torch.inf)
    return torch.clamp(product, -most, most).to(dtype)


class _Widen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.double()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        most = torch.finfo(torch.float32).max
        if gradient.dim() > 1:  # weights: all problems may share theirs
            most /= gradient.shape[0]
        return torch.where(torch.isinf(gradient), gradient, gradient.clamp(-most, most)).float()


def cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    """``value.to(dtype)``, whose gradient stays finite in its own type (:func:`saturated`)."""
    narrow = value.dtype == torch.float32 and dtype == torch.float64
    if not narrow or not value.requires_grad or torch.compiler.is_compiling() or transformed():
        return value.to(dtype)
    return _Widen.apply(value)
