"""First derivatives only: a second one is an error, never a silently missing term."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Tensor:
        raise RuntimeError(
            "the operators of ucmkd are differentiable once; a second derivative (create_graph=True"
            " and a further backward through it) is not available"
        )


class _OnceThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return once(gradients[0])


def once_through(value: Tensor) -> Tensor:
    """The value itself, whose gradient cannot be differentiated again."""
    return _OnceThrough.apply(value) if value.requires_grad else value


def once(gradient: Tensor) -> Tensor:
    """Marks a gradient so that differentiating it again raises."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return gradient
    return _Once.apply(gradient.detach().requires_grad_())
