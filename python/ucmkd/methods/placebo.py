"""The placebo teacher: right about everything except which class is which."""

from __future__ import annotations

import torch
from torch import Tensor


def derangement(num_classes: int, seed: int = 0) -> Tensor:
    """A random permutation ``(C,)`` of the classes that leaves none in its place.

    Class c becomes class ``permutation[c]``. The draw depends on the seed alone.

    Raises:
        ValueError: Fewer than two classes.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2 for a placebo, got {num_classes}")
    generator = torch.Generator().manual_seed(seed)
    place = torch.arange(num_classes)
    while True:  # about e draws on average
        permutation = torch.randperm(num_classes, generator=generator)
        if not bool((permutation == place).any()):
            return permutation


def permute_columns(logits: Tensor, permutation: Tensor) -> Tensor:
    """Logits ``(..., C)`` with column c moved to column ``permutation[c]``."""
    return logits[..., torch.argsort(permutation)]
