"""How a next token is drawn: temperature, nucleus, and inversion of the distribution function."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

LanguageModel = Callable[[Tensor], Tensor]
"""Any causal language model: tokens ``(B, L)`` int64 to logits ``(B, L, V)`` of the next token."""


@dataclass(frozen=True)
class Sampling:
    r"""Draw from ``softmax(logits / temperature)`` restricted to its nucleus.

    The nucleus is the smallest set of most probable tokens that holds at least ``top_p`` of the
    mass; it always has the most probable one. Temperature 0 is greedy decoding.

    Args:
        temperature: >= 0.
        top_p: In (0, 1]; 1 keeps all tokens.

    Raises:
        TypeError: Not a number.
        ValueError: Out of range.

    Source: Holtzman et al., ICLR 2020, section 3.1.
    """

    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real):
                raise TypeError(f"{name} must be a number; got {type(value).__name__}")
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature must be >= 0 and finite; got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1]; got {self.top_p}")

    def probabilities(self, logits: Tensor) -> Tensor:
        """The distribution that is drawn from, ``(..., V)`` float64, of logits ``(..., V)``."""
        if self.temperature == 0:
            best = logits.argmax(-1, keepdim=True)
            return torch.zeros_like(logits, dtype=torch.float64).scatter_(-1, best, 1.0)
        kept = torch.softmax(logits.double() / self.temperature, dim=-1)
        if self.top_p < 1:
            ranked, order = kept.sort(dim=-1, descending=True, stable=True)
            before = ranked.cumsum(-1) - ranked  # the mass of what is more probable
            outside = torch.zeros_like(kept, dtype=torch.bool)
            outside = outside.scatter(-1, order, before >= self.top_p)
            kept = kept.masked_fill(outside, 0.0)
        return kept / kept.sum(-1, keepdim=True)


def invert(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the distribution function first exceeds ``uniform``.

    Args:
        probabilities: ``(..., V)``, not negative, not all zero.
        uniform: ``(...)`` in [0, 1).

    Returns:
        Tokens ``(...)`` int64, each of positive probability.
    """
    cumulative = probabilities.cumsum(-1)
    total = cumulative[..., -1:]
    # Rounding may lift u·total to the total, behind the last token.
    level = torch.minimum(
        uniform[..., None] * total, torch.nextafter(total, torch.zeros_like(total))
    )
    return torch.searchsorted(cumulative, level, right=True).squeeze(-1)
