"""Where derivatives end: one more is an error, never a silently missing term."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ucmkd.ops._plain import tracked

_SECOND = (
    "the sharp value is differentiable once; a second derivative (create_graph=True and a further"
    " backward through it) is not available"
)
_THIRD = "the operators of ucmkd are differentiable twice; a third derivative is not available"


class _End(torch.autograd.Function):
    """The identity, whose backward raises. It hangs on all that the gradient depends on: autograd
    runs only the nodes that lie on a path to what it differentiates to."""

    @staticmethod
    def forward(ctx: Any, message: str, gradient: Tensor, *sources: Tensor) -> Tensor:
        ctx.message = message
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(ctx.message)


class _OnceThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.save_for_backward(*tracked(value))
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return once(gradients[0], *ctx.saved_tensors)


def once_through(value: Tensor) -> Tensor:
    """The value itself, whose gradient cannot be differentiated again."""
    return _OnceThrough.apply(value) if value.requires_grad else value


def once(gradient: Tensor, *sources: Tensor) -> Tensor:
    """Marks a gradient so that differentiating it again, also to ``sources``, raises."""
    return _end(_SECOND, gradient, sources)


def twice(gradient: Tensor, *sources: Tensor) -> Tensor:
    """As :func:`once`, for a second derivative."""
    return _end(_THIRD, gradient, sources)


def _end(message: str, gradient: Tensor, sources: tuple[Tensor, ...]) -> Tensor:
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return gradient
    return _End.apply(message, gradient.detach().requires_grad_(), *sources)
