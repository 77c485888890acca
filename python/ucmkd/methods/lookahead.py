"""How the weights of a loss should change, by one step of the student that is looked ahead."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ucmkd.models import Student

Predict = Callable[[Tensor], Tensor]


def weight_gradient(
    student: Student,
    base: Tensor,
    parts: Sequence[Tensor],
    weights: Tensor,
    held_out: Callable[[Predict], Tensor],
    *,
    step: float,
) -> Tensor:
    r"""``∂ H(θ') / ∂ w`` for :math:`\theta' = \theta - \eta\nabla(L_0 + \sum_m w_m L_m)`.

    That is :math:`-\eta\,\langle\nabla H(\theta'), \nabla L_m(\theta)\rangle`, exact for this
    step of plain gradient descent, without second derivatives. No ``.grad`` is touched.

    Args:
        student: θ.
        base: L_0, a scalar with a graph to θ, which is kept.
        parts: L_m, M scalars likewise.
        weights: w ``(M,)``, without gradient.
        held_out: H; called with a function from inputs to logits at θ'.
        step: η.

    Returns:
        ``(M,)``.
    """
    named = {k: p for k, p in student.named_parameters() if p.requires_grad}
    originals: list[Tensor] = list(named.values())

    own = _slopes(base, originals)
    each = [_slopes(part, originals) for part in parts]
    ahead: dict[str, Tensor] = {}
    for number, (name, p) in enumerate(named.items()):
        total = own[number] + sum(w * g[number] for w, g in zip(weights, each, strict=True))
        ahead[name] = (p.detach() - step * total).requires_grad_()

    def predict(inputs: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(student, ahead, (inputs,))
        return logits

    there = _slopes(held_out(predict), list(ahead.values()))
    dots = [
        torch.stack([(a * b).sum() for a, b in zip(there, part, strict=True)]).sum()
        for part in each
    ]
    return -step * torch.stack(dots)


def _slopes(value: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """The gradient, zero for what ``value`` does not depend on; the graph is kept."""
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
