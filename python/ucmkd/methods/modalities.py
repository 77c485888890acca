"""Inputs of several modalities beside each other, and what is left of them under a mask."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

#: What to use where a side has one modality.
OTHERS = (
    "methods for a teacher and a student of one modality each: vanilla_kd, dkd, dml, pkdot (with "
    "pairs), joint_alignment, class_soft_labels (without)"
)


def checked(
    method: str, name: str, given: Mapping[str, int] | None, width: int | None = None
) -> dict[str, int]:
    """Columns of each modality, in their order.

    Args:
        method: Who asks.
        name: Of the argument.
        given: Name to number of columns.
        width: Of the inputs, where it is known.

    Raises:
        ValueError: Fewer than two modalities (says how to give them, and which methods need but
            one), a modality without columns, or columns that do not add up to ``width``.
    """
    if given is None or len(given) < 2:
        raise ValueError(
            f"{method} needs {name}, the columns of each of at least two modalities (in a recipe "
            f"two views joined by '+', such as view: rna+meth), got "
            f"{None if given is None else dict(given)}; {OTHERS}"
        )
    if min(given.values()) < 1 or (width is not None and sum(given.values()) != width):
        total = "" if width is None else f", {width} columns in all"
        raise ValueError(f"{name} must have positive columns{total}, got {dict(given)}")
    return dict(given)


def alone(inputs: Tensor, modalities: Mapping[str, int]) -> Tensor:
    """``x^m`` for every modality m: all columns but its own are zero, the mean where standardised.

    Args:
        inputs: ``(n, d)``.
        modalities: Columns of each, d in all.

    Returns:
        ``(M, n, d)``.
    """
    return inputs * _masks(inputs, modalities)[:, None]


def without(inputs: Tensor, modalities: Mapping[str, int]) -> Tensor:
    """``x^{-m}`` for every modality m: its own columns are zero; ``(M, n, d)``."""
    return inputs * (1 - _masks(inputs, modalities))[:, None]


def _masks(inputs: Tensor, modalities: Mapping[str, int]) -> Tensor:
    """One row per modality, 1 at its columns; ``(M, d)``."""
    widths = torch.tensor(list(modalities.values()))
    member = torch.repeat_interleave(torch.arange(len(widths)), widths)
    return (member == torch.arange(len(widths))[:, None]).to(inputs)
