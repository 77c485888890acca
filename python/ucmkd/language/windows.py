"""Windows of a token stream: to train on, and to measure perplexity with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ucmkd.identity import digest_of
from ucmkd.language import _check
from ucmkd.language.sampling import LanguageModel
from ucmkd.step_random import generator_of


class TextBatch(NamedTuple):
    """Prompts and their reference responses in one tensor, padded on the right.

    Attributes:
        tokens: ``(B, L)`` int64.
        prompt_lengths: ``(B,)`` int64, in 1…L: so many first tokens are the prompt.
        response: ``(B, L)`` bool, True for the tokens of the reference.
    """

    tokens: Tensor
    prompt_lengths: Tensor
    response: Tensor


Batches = Callable[[int], TextBatch]
"""The batch of a step; the same number gives the same batch, so that a run can be resumed."""


@dataclass(frozen=True)
class RandomWindows:
    """Windows at random places of a stream; what :func:`random_windows` gives.

    Attributes:
        tokens: ``(n,)``.
        prompt, response, batch, seed: As there.
    """

    tokens: Tensor
    prompt: int
    response: int
    batch: int
    seed: int

    def __call__(self, step: int) -> TextBatch:
        """The batch of a step.

        Args:
            step: From 0.
        """
        length, generator = self.prompt + self.response, generator_of(self.seed, step)
        places = len(self.tokens) - length + 1
        place = torch.randint(places, (self.batch,), generator=generator)
        begun = torch.full((self.batch,), self.prompt)
        answered = (torch.arange(length) >= self.prompt).expand(self.batch, length)
        return TextBatch(self.tokens[place[:, None] + torch.arange(length)], begun, answered)

    def identity(self) -> str:
        """Sizes and a digest: what a checkpoint was trained on."""
        size = f"{self.batch} windows of {self.prompt} + {self.response} tokens"
        stream = f"{len(self.tokens)} tokens, digest {digest_of(self.tokens)}"
        return f"{size} of {stream}, seed {self.seed}"


def random_windows(
    tokens: Tensor, *, prompt: int, response: int, batch: int, seed: int
) -> RandomWindows:
    """Windows at random places: ``prompt`` tokens, then ``response`` tokens of reference.

    Args:
        tokens: A stream ``(n,)``.
        prompt: >= 1.
        response: >= 1.
        batch: >= 1.
        seed: Of the places, >= 0.

    Raises:
        ValueError: A number out of range, or a stream shorter than a window.
    """
    for name, value in (("prompt", prompt), ("response", response), ("batch", batch)):
        _check.integer(value, name, 1)
    _check.integer(seed, "seed", 0)
    length = prompt + response
    if tokens.dim() != 1 or len(tokens) < length:
        raise ValueError(
            f"tokens must be (n,) with n at least {length}; got shape {tuple(tokens.shape)}"
        )
    return RandomWindows(tokens, prompt, response, batch, seed)


def identity_of(batches: Batches) -> str:
    """What a checkpoint was trained on: what the batches say of themselves, or their first one.

    Args:
        batches: With ``identity()``, as :class:`RandomWindows` has it, or any others; of those only
            a change that reaches the first batch is noticed.
    """
    if hasattr(batches, "identity"):
        return str(batches.identity())
    first = batches(0)
    return f"batches of {tuple(first.tokens.shape)}, digest {digest_of(*first)} of the first"


@torch.no_grad()
def perplexity(
    model: LanguageModel,
    tokens: Tensor,
    *,
    context: int,
    stride: int | None = None,
    batch: int = 64,
) -> float:
    r""":math:`\exp\left(-\frac1n \sum_i \log p(y_i \mid y_{<i})\right)` over a stream.

    Windows of ``context`` tokens overlap so that only the last ``stride`` of each are counted: all
    have at least ``context - stride`` tokens before them. The first ``context - stride`` of the
    stream are not counted, nor is what is left behind the last window.

    Args:
        model: Called as it is: put modules into eval mode.
        tokens: A stream ``(n,)``.
        context: Length of a window, >= 2.
        stride: In 1…context - 1; None for half of ``context``.
        batch: Windows at a time.

    Raises:
        ValueError: Numbers out of range, or a stream shorter than a window.
    """
    _check.integer(context, "context", 2)
    step = context // 2 if stride is None else _check.integer(stride, "stride", 1)
    if step >= context:
        raise ValueError(f"stride must be at most {context - 1}; got {step}")
    if tokens.dim() != 1 or len(tokens) < context:
        raise ValueError(
            f"tokens must be (n,) with n at least {context}; got shape {tuple(tokens.shape)}"
        )
    total, count = 0.0, 0
    for some in tokens.unfold(0, context, step).split(batch):
        logits = _check.logits(model(some), "model", tuple(some.shape))
        scored = logits[:, -step - 1 : -1].flatten(0, 1).double()
        total += float(F.cross_entropy(scored, some[:, -step:].flatten(), reduction="sum"))
        count += some[:, -step:].numel()
    return math.exp(total / count)
