"""The class frequencies of the unlabelled pool, estimated while a student is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ucmkd.methods import checks
from ucmkd.methods.base import Method
from ucmkd.priors import estimate_prior_em

Prior: TypeAlias = "str | Sequence[float] | Tensor"


class PoolPrior(nn.Module):
    """Remembers a student's logits on unlabelled samples; estimates their class frequencies.

    By expectation maximisation (:func:`ucmkd.priors.estimate_prior_em`) under label shift, with π
    the class frequencies of the labelled samples, a class without a sample counting as one; with
    label smoothing s mixed with the uniform ones, ``(1 - s) π + s/C``, which is what the targets
    contain. It holds for a student trained on those labels alone, and is as good as its
    probabilities are calibrated.

    Args:
        counts: Labelled samples per class ``(C,)``.
        label_smoothing: s.
        memory: Number of unlabelled samples to estimate from, the last ones seen.
    """

    label_prior: Tensor
    memory: Tensor
    seen: Tensor

    def __init__(self, counts: Tensor, label_smoothing: float, memory: int = 512) -> None:
        super().__init__()
        share = counts.clamp_min(1).to(torch.get_default_dtype())
        smooth = (1 - label_smoothing) * share / share.sum() + label_smoothing / len(counts)
        self.register_buffer("label_prior", smooth)
        # A ring of logits, and how many were ever written.
        self.register_buffer("memory", torch.zeros(memory, len(counts)))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def observe(self, logits: Tensor) -> None:
        """Remember logits ``(n, C)`` of unlabelled samples."""
        new = logits.detach().to(self.memory.dtype)[-len(self.memory) :]
        place = (self.seen + torch.arange(len(new), device=new.device)) % len(self.memory)
        self.memory[place] = new
        self.seen += len(new)

    def estimate(self) -> Tensor:
        """Frequencies ``(C,)``; those of the labelled samples where nothing was observed."""
        kept = min(int(self.seen), len(self.memory))
        if kept == 0:
            return self.label_prior
        return estimate_prior_em(self.memory[:kept], self.label_prior).to(self.label_prior.dtype)


def is_estimated(prior: object) -> bool:
    """Whether the option ``prior`` asks for an estimate."""
    return isinstance(prior, str) and prior == "estimated"


def pool_prior(method: Method, prior: Prior, steps: int) -> tuple[PoolPrior | None, int, Prior]:
    """What a method needs for its option ``prior``.

    Returns:
        The memory and the steps of the estimate (None and 0 without one), and the prior to start
        from: the uniform one until it is estimated.
    """
    checks.integer("estimate_steps", steps, minimum=1)
    if not is_estimated(prior):
        return None, 0, prior
    assert method.label_counts is not None
    return PoolPrior(method.label_counts, method.label_smoothing), steps, "uniform"


def estimated(pool: PoolPrior, logits: Tensor, mass: Tensor, step: int, steps: int) -> Tensor:
    """The class masses to use at this step: observed during ``steps``, estimated once, then kept.

    After that the student is trained towards the estimate, and a new one would only confirm it.
    """
    if step < steps:
        pool.observe(logits)
    return pool.estimate() if step == steps - 1 else mass
