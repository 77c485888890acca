"""Language models of Hugging Face as callables: tokens to logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ucmkd.language import _check


class HuggingFaceLM(nn.Module):
    """``model(input_ids=tokens).logits``, with the interface of this package.

    Rows are padded on the right and no attention mask is passed: a causal model's logits do not
    depend on what is further right, and its positions count from the first token.

    Args:
        model: An ``AutoModelForCausalLM`` or another module that is called with ``input_ids`` and
            ``use_cache`` and returns an object with ``logits``. It stays where it is; its
            parameters are this module's.
        vocabulary: Keep the first so many logits; None for all. Models that pad their tables to
            different sizes over one tokenizer need it.

    Raises:
        TypeError: ``model`` is no module, or it returns no logits.
        ValueError: More than the model's logits are wanted.
    """

    def __init__(self, model: nn.Module, *, vocabulary: int | None = None) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
        self.model = model
        self.vocabulary = (
            None if vocabulary is None else _check.integer(vocabulary, "vocabulary", 1)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``(B, L, V)`` of tokens ``(B, L)``."""
        output: Any = self.model(input_ids=tokens, use_cache=False)
        logits = getattr(output, "logits", None)
        if not isinstance(logits, Tensor):
            raise TypeError(
                "model must return an object with logits, as causal language models of "
                f"transformers do; got {type(output).__name__}"
            )
        if self.vocabulary is None:
            return logits
        if self.vocabulary > logits.shape[-1]:
            raise ValueError(
                f"vocabulary must be at most the model's {logits.shape[-1]}; got {self.vocabulary}"
            )
        return logits[..., : self.vocabulary]


def pad_right(rows: Sequence[Sequence[int]], *, pad: int = 0) -> tuple[Tensor, Tensor]:
    """Token lists of any lengths as prompts ``(B, P)`` and prompt_lengths ``(B,)``.

    For instance ``pad_right([tokenizer(text)["input_ids"] for text in texts])``: tokenizers may pad
    on the left, or have no token to do it with.

    Args:
        rows: One list per prompt, none empty.
        pad: What stands behind the shorter ones.

    Raises:
        ValueError: No rows, or an empty one.
    """
    sizes = [len(row) for row in rows]
    if not sizes or min(sizes) == 0:
        raise ValueError(f"rows must be lists of at least one token; got lengths {sizes}")
    prompts = torch.full((len(rows), max(sizes)), pad, dtype=torch.int64)
    for index, row in enumerate(rows):
        prompts[index, : len(row)] = torch.tensor(list(row), dtype=torch.int64)
    return prompts, torch.tensor(sizes)
