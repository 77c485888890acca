"""The backward of every operator: a stored gradient times the incoming one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

#: Where PyTorch starts to share an elementwise operation among its threads.
_GRAIN = 32768


def scale(gradient: Tensor, factor: Tensor) -> Tensor:
    """``factor (B,)`` times ``gradient (B, ...)``, or a 0-d factor times anything.

    On the CPU by NumPy where PyTorch would use its thread pool for these few microseconds: the
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
    return torch.from_numpy(np.multiply(gradient.detach().numpy(), factor.detach().numpy()))
