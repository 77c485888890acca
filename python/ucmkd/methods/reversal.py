"""Gradient reversal: what is trained behind it is fought by what is trained before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None


def reverse_gradient(values: Tensor, strength: float = 1.0) -> Tensor:
    """The values themselves; backwards, the gradient times ``-strength``.

    Ganin and Lempitsky 2015 (arXiv 1409.7495). A classifier behind it descends its loss, an encoder
    before it ascends the same loss, in one backward pass.

    Args:
        values: Of any shape.
        strength: λ ≥ 0; 0 cuts the encoder off.
    """
    reversed_: Tensor = _Reverse.apply(values, strength)
    return reversed_
