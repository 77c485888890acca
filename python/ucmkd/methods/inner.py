"""Inner steps of a bilevel method: gradients taken at the outputs, and optimisers as functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Parameters = dict[str, Tensor]

OPTIMIZERS = ("sgd", "adamw")

#: AdamW's own constants, those of torch.
BETAS, DELTA = (0.9, 0.999), 1e-8


def seen(output: Tensor) -> Tensor:
    """An output as a loss shall see it: the same value, of which a gradient can be asked alone."""
    return output.view_as(output) if output.requires_grad else output.detach().requires_grad_()


def pull(
    loss: Tensor,
    views: Sequence[Tensor],
    outputs: Sequence[Tensor],
    parameters: Sequence[Parameters],
    *,
    own: Sequence[Tensor] = (),
    create_graph: bool = False,
) -> tuple[Parameters, list[Tensor | None]]:
    r"""Gradients of ``loss`` to ``parameters``, through ``views`` of ``outputs`` alone.

    The chain rule in two steps, :math:`g = \partial L/\partial z` and
    :math:`(\partial z/\partial w)^\top g`. What else of the loss depends on the outputs (κ, the
    mean cost in ε) is thus a constant of this gradient, and still a function of the parameters
    when the gradient itself is differentiated: the second derivative is that of the step taken.

    Args:
        loss: 0-d.
        views: The outputs as :func:`seen`, from which the loss was computed.
        outputs: The outputs, functions of the parameters.
        parameters: For each output what to differentiate it to, by name; one name may stand for
            different tensors of equal value, and their gradients are added.
        own: Further leaves, of which the loss is a function directly.
        create_graph: Keep a graph of the gradients.

    Returns:
        The gradients by name, without those that do not exist; and those of ``own``, or None.
    """
    found = torch.autograd.grad(loss, [*views, *own], create_graph=create_graph, allow_unused=True)
    gradients: Parameters = {}
    for group in {id(p): p for p in parameters}.values():
        pairs = [
            (output, g)
            for output, g, p in zip(outputs, found, parameters, strict=False)
            if p is group and g is not None and output.requires_grad
        ]
        if not pairs:
            continue
        grads = torch.autograd.grad(
            [output for output, _ in pairs],
            list(group.values()),
            [g for _, g in pairs],
            create_graph=create_graph,
            allow_unused=True,
        )
        for name, g in zip(group, grads, strict=True):
            if g is not None:
                gradients[name] = gradients[name] + g if name in gradients else g
    return gradients, list(found[len(views) :])


class InnerOptimizer:
    r"""Steps that return new parameters, differentiable on demand.

    ``"sgd"``: :math:`w \leftarrow (1 - \eta\omega) w - \eta g`; ``"adamw"``: Loshchilov and Hutter
    (arXiv 1711.05101) with torch's constants. Parameters without a gradient are left alone, as in
    torch. One optimiser serves the inner steps of one outer step.

    Args:
        kind: ``"sgd"`` or ``"adamw"``.
        lr: η > 0.
        weight_decay: ω ≥ 0, decoupled.
        differentiable: Keep the graph of every step.
    """

    def __init__(
        self, kind: str, *, lr: float, weight_decay: float = 0.0, differentiable: bool = False
    ) -> None:
        self.kind = kind
        self.lr = lr
        self.weight_decay = weight_decay
        self.differentiable = differentiable
        self._moments: dict[str, tuple[Tensor, Tensor, int]] = {}

    def step(self, parameters: Parameters, gradients: Parameters) -> Parameters:
        """The parameters after one step; those without a gradient are passed on."""
        with torch.set_grad_enabled(self.differentiable):
            new = {
                name: w * (1 - self.lr * self.weight_decay)
                - self.lr * self._direction(name, gradients[name])
                if name in gradients
                else w
                for name, w in parameters.items()
            }
        if self.differentiable:
            return new
        return {k: w.detach().requires_grad_() if k in gradients else w for k, w in new.items()}

    def _direction(self, name: str, gradient: Tensor) -> Tensor:
        if self.kind == "sgd":
            return gradient
        zero = torch.zeros_like(gradient)
        first, second, count = self._moments.get(name, (zero, zero, 0))
        count += 1
        first = BETAS[0] * first + (1 - BETAS[0]) * gradient
        second = BETAS[1] * second + (1 - BETAS[1]) * gradient.square()
        self._moments[name] = (first, second, count)
        variance = second / (1 - BETAS[1] ** count)
        # The root has no derivative at 0, where the direction is 0 too.
        some = variance > 0
        root = torch.where(some, torch.where(some, variance, 1.0).sqrt(), 0.0)
        return first / (1 - BETAS[0] ** count) / (root + DELTA)
