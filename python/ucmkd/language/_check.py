"""Checks of prompts and logits: every error names the argument, what came, what is accepted."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor


def integer(value: int, name: str, least: int) -> int:
    """A whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer; got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be >= {least}; got {value}")
    return int(value)


def tokens(value: Tensor, name: str) -> Tensor:
    """Integers ``(B, L)``, not empty."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(value).__name__}")
    if value.is_floating_point() or value.is_complex() or value.dtype is torch.bool:
        raise TypeError(f"{name} must be an integer tensor; got {value.dtype}")
    if value.dim() != 2 or 0 in value.shape:
        raise ValueError(f"{name} must have shape (B, L), not empty; got {tuple(value.shape)}")
    return value


def lengths(value: Tensor | None, like: Tensor, name: str) -> Tensor:
    """One length in 1…L for each row of ``like`` ``(B, L)``; None for L."""
    rows, width = like.shape
    if value is None:
        return torch.full((rows,), width, dtype=torch.int64, device=like.device)
    if not isinstance(value, Tensor) or value.is_floating_point():
        raise TypeError(f"{name} must be an integer torch.Tensor or None; got {value!r}")
    if value.shape != (rows,):
        raise ValueError(f"{name} must have shape ({rows},); got {tuple(value.shape)}")
    if int(value.min()) < 1 or int(value.max()) > width:
        raise ValueError(
            f"{name} must lie in 1…{width}; got {int(value.min())} to {int(value.max())}"
        )
    return value.to(like.device, torch.int64)


def prompts(
    value: Tensor, prompt_lengths: Tensor | None, length: int, end: int | None, pad: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Room for prompts and responses ``(B, P + length)``, where those begin, and where they end."""
    tokens(value, "prompts")
    start = lengths(prompt_lengths, value, "prompt_lengths")
    integer(length, "length", 1)
    integer(pad, "pad", 0)
    if end is not None:
        integer(end, "end", 0)
    room = torch.full(
        (len(value), value.shape[1] + length), pad, dtype=torch.int64, device=value.device
    )
    column = torch.arange(value.shape[1], device=value.device)
    inside = column < start[:, None]
    room[:, : value.shape[1]] = torch.where(inside, value.long(), pad)
    return room, start, start + length


def logits(value: Tensor, name: str, shape: tuple[int, int]) -> Tensor:
    """Floating ``(B, L, V)`` for the tokens ``(B, L)`` that a model was given."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must give a floating torch.Tensor of logits; got {kind}")
    if value.dim() != 3 or value.shape[:2] != shape or not value.shape[2]:
        raise ValueError(
            f"{name} must give logits (B, L, V) with (B, L) = {shape}; got {tuple(value.shape)}"
        )
    return value


def same_vocabulary(student: Tensor, teacher: Tensor) -> None:
    """As many tokens for the one as for the other."""
    if student.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            "student and teacher must have the same vocabulary; got logits of "
            f"{student.shape[-1]} and {teacher.shape[-1]} tokens"
        )
