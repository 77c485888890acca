"""A small causal transformer, for studies and tests."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ucmkd.language import _check


class Block(nn.Module):
    """Causal self-attention, then a perceptron; each normalised before and added to its input."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, L, width)`` to the same."""
        heads = self.query_key_value(self.before_attention(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.mlp(self.before_mlp(x)))


class SmallTransformer(nn.Module):
    """Decoder-only: tokens ``(B, L)`` to logits ``(B, L, V)``; input and output tables are one.

    Args:
        vocabulary: V >= 1.
        width: Of the residual stream, a multiple of ``heads``.
        layers: >= 1.
        heads: >= 1.
        context: Largest L.
        dropout: Of what is added to the residual stream.

    Raises:
        ValueError: Sizes that do not fit; at a call, more than ``context`` tokens.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        context: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = dict(
            vocabulary=vocabulary, width=width, layers=layers, heads=heads, context=context
        )
        for name, size in sizes.items():
            _check.integer(size, name, 1)
        if width % heads:
            raise ValueError(f"width must be a multiple of heads; got {width} and {heads}")
        self.context = context
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(layers)))
        self.last = nn.LayerNorm(width)
        for table in (self.tokens, self.places):  # else the first logits are some √width wide
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token at every place, ``(B, L, V)``.

        Args:
            tokens: ``(B, L)``, L at most ``context``.

        Raises:
            ValueError: More tokens than that.
        """
        if tokens.shape[1] > self.context:
            raise ValueError(f"tokens must be at most {self.context} long; got {tokens.shape[1]}")
        places = self.places(torch.arange(tokens.shape[1], device=tokens.device))
        return F.linear(self.last(self.blocks(self.tokens(tokens) + places)), self.tokens.weight)
