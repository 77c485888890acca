"""Checked shares of a global batch: what the sharded losses begin with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ucmkd.distributed._agree import agree, describe, shown
from ucmkd.distributed._group import Group, Ranks
from ucmkd.ops import _check


class Side(NamedTuple):
    """One side: this rank's masses, those of all rows, their sum, the rows of every rank."""

    own: Tensor
    all: Tensor
    total: float
    sizes: tuple[int, ...]
    own_label: Tensor | None
    label: Tensor | None


class Shares(NamedTuple):
    """The group, the type of the computation, and both sides."""

    ranks: Ranks
    dtype: torch.dtype
    student: Side
    teacher: Side


def _extra(value: Any, points: Tensor, name: str, floating: bool) -> None:
    if value is None:
        return
    if not isinstance(value, Tensor) or value.is_floating_point() is not floating:
        kind = "a floating" if floating else "an integer"
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be {kind} torch.Tensor or None; got {got}")
    _check.dense(value, name)
    if tuple(value.shape) != (len(points),):
        raise ValueError(f"{name} must have shape ({len(points)},); got {tuple(value.shape)}")
    _check.same_device(points, value, "the points", name)
    if floating and value.requires_grad:
        raise ValueError(f"{name} must not need a gradient: the sharded losses have none to masses")
    if floating and not bool((value >= 0).all() and value.isfinite().all()):
        raise ValueError(f"{name} must be finite and non-negative; got {value.min()} in it")


def shares(
    group: Group,
    points: tuple[Tensor, Tensor],
    weights: tuple[Tensor | None, Tensor | None],
    labels: tuple[Tensor | None, Tensor | None],
    options: dict[str, Any],
    check_finite: bool,
) -> Shares:
    """Checks this rank's rows, waits for all ranks to agree, and tells each what it must know.

    Every rank gets the masses and labels of all rows, ``(n,)`` and ``(m,)``, and no points.
    """
    ranks = Ranks(group)
    names = ("student", "teacher")

    def local() -> tuple[Sequence[int], dict[str, str]]:
        facts: dict[str, str] = {}
        probes = []
        for side, name in zip(points, names, strict=True):
            if isinstance(side, Tensor) and side.dim() == 3:
                raise ValueError(f"{name} must have shape (n, d); got {tuple(side.shape)}")
            empty = isinstance(side, Tensor) and side.dim() == 2 and not len(side)
            probes.append(side.new_zeros(1, side.shape[1]) if empty else side)
        _check.pair(probes[0], probes[1], *names)
        for i, name in enumerate(names):
            if check_finite:
                _check.finite(probes[i], name)
            _extra(weights[i], points[i], f"{name}_weight", True)
            _extra(labels[i], points[i], f"{name}_label", False)
            facts[name] = describe(points[i], rows=0)
            facts[f"{name}_weight"] = describe(weights[i], rows=0)
            facts[f"{name}_label"] = describe(labels[i], rows=0)
        facts |= {name: shown(value) for name, value in options.items()}
        return [len(side) for side in points], facts

    counts = agree(ranks, local)
    dtype = _check.compute_dtype(*points)
    sides = []
    for i, name in enumerate(names):
        sizes = tuple(count[i] for count in counts)
        if not sum(sizes):
            raise ValueError(f"{name} must not be empty; got no row on any rank of group")
        weight, label = weights[i], labels[i]
        if weight is None:
            own = points[i].new_full((len(points[i]),), 1 / sum(sizes), dtype=dtype)
            whole = own.new_full((sum(sizes),), 1 / sum(sizes))
        else:
            own = weight.to(dtype)
            whole = torch.cat(ranks.gather_rows(own, sizes, 0))
        total = float(whole.double().sum())
        if total <= 0:
            raise ValueError(f"{name}_weight must have a positive sum over the ranks; got {total}")
        every = None if label is None else torch.cat(ranks.gather_rows(label.long(), sizes, 0))
        sides.append(
            Side(own, whole, total, sizes, None if label is None else label.long(), every)
        )  # fmt: skip
    return Shares(ranks, dtype, *sides)
