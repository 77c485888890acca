"""The one training loop: Adam, one cycle of the learning rate, batches that the seed decides."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ucmkd.data import InfiniteSampler

BATCH = 64


def descend(
    parameters: list[nn.Parameter],
    loss: Callable[[Tensor, float], Tensor],
    train: Tensor,
    *,
    seed: int,
    steps: int,
    rate: float,
) -> None:
    """Minimise a loss of training rows and of the progress in [0, 1).

    Args:
        parameters: What is trained.
        loss: From rows ``(64,)`` and the share of the steps that is over.
        train: Rows to draw from.
        seed: Of the batches: every method sees the same.
        steps: Their number.
        rate: Largest learning rate.
    """
    sampler = InfiniteSampler(len(train), BATCH, seed)
    adam = torch.optim.Adam(parameters, lr=rate)
    cycle = torch.optim.lr_scheduler.OneCycleLR(adam, rate, total_steps=max(steps, 2))
    for step in range(steps):
        value = loss(train[next(sampler)], step / steps)
        adam.zero_grad(set_to_none=True)
        value.backward()
        adam.step()
        cycle.step()
