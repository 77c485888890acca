"""The global batch of an alignment, from the local ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ucmkd.distributed._agree import agree, describe, shown
from ucmkd.distributed._gather import gather
from ucmkd.distributed._group import Group, Ranks
from ucmkd.ops import _check


class Batch(NamedTuple):
    """Student and teacher rows with what belongs to each row; None where nothing was given."""

    student: Tensor
    teacher: Tensor
    student_weight: Tensor | None
    teacher_weight: Tensor | None
    student_label: Tensor | None
    teacher_label: Tensor | None


def _row(points: Tensor) -> Tensor:
    """The points, or one of zeros in place of none: a rank may have an empty batch."""
    if isinstance(points, Tensor) and points.dim() in (2, 3) and points.shape[-2] == 0:
        return points.new_zeros(*points.shape[:-2], 1, points.shape[-1])
    return points


def _rows_of(extra: Any, points: Tensor, name: str) -> int:
    """The dimension of ``extra`` that counts the rows; checks the count."""
    if not isinstance(extra, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor or None; got {type(extra).__name__}")
    _check.dense(extra, name)
    _check.same_device(points, extra, "the points", name)
    n, batched = points.shape[-2], points.dim() == 3
    if name.endswith("_weight") and not batched and tuple(extra.shape) == (1, n):
        return 1  # also for one row, where (n, K) has that shape
    if not batched and extra.dim() in (1, 2) and extra.shape[0] == n:
        return 0
    if extra.dim() in (2, 3) and batched and tuple(extra.shape[:2]) == tuple(points.shape[:2]):
        return 1
    if batched and extra.dim() == 1 and extra.shape[0] == n:
        return 0
    if not batched and extra.dim() == 2 and tuple(extra.shape) == (1, n):
        return 1
    wanted = f"({n},) or ({points.shape[0]}, {n})" if batched else f"({n},)"
    raise ValueError(f"{name} must have shape {wanted}; got {tuple(extra.shape)}")


@torch.compiler.disable
def global_batch(batch: Batch, group: Group, options: dict[str, Any], check_finite: bool) -> Batch:
    """The rows of all ranks by rank; gradients flow back to the rank that they came from.

    Args:
        batch: The local one; a teacher without gradients is detached.
        group: The process group.
        options: By name, what must be equal on all ranks.
        check_finite: Look for NaN and infinite features before they are sent.

    Raises:
        TypeError, ValueError: Bad input of this rank or of another one, on every rank.
    """
    ranks = Ranks(group)
    dims: list[int | None] = []

    def local() -> tuple[Sequence[int], dict[str, str]]:
        points = _row(batch.student), _row(batch.teacher)
        _check.pair(*points, "student", "teacher")
        for tensor, name in zip(points, ("student", "teacher"), strict=True):
            if check_finite:
                _check.finite(tensor, name)
        facts = {}
        sides = (batch.student, batch.teacher)
        for i, (name, value) in enumerate(batch._asdict().items()):
            if i < 2:
                dims.append(value.dim() - 2)
            else:
                dims.append(None if value is None else _rows_of(value, sides[i % 2], name))
            facts[name] = describe(value, rows=dims[-1])
        facts |= {name: shown(value) for name, value in options.items()}
        return [side.shape[-2] for side in sides], facts

    sizes = agree(ranks, local)
    each = tuple(size[0] for size in sizes), tuple(size[1] for size in sizes)
    for name, counts in zip(("student", "teacher"), each, strict=True):
        if not sum(counts):
            raise ValueError(f"{name} must not be empty; got no row on any rank of group")
    if ranks.size == 1:
        return batch
    return Batch(
        *(
            None if value is None or dim is None else gather(value, ranks, each[i % 2], dim)  # type: ignore[arg-type]
            for i, (value, dim) in enumerate(zip(batch, dims, strict=True))
        )
    )
