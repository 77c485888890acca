"""The value of all ranks as one autograd node on each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ucmkd.distributed._group import Ranks

#: Computes value and the gradients to this rank's rows of both sides, those that are wanted.
Work = Callable[[Tensor, Tensor, bool, bool], tuple[Tensor, Tensor | None, Tensor | None]]


class _Global(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, work: Work, ranks: Ranks) -> Tensor:
        need = ctx.needs_input_grad
        value, *ctx.gradients = work(student.detach(), teacher.detach(), need[0], need[1])
        ctx.ranks, ctx.types = ranks, (student.dtype, teacher.dtype)
        return value

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "the sharded losses have first derivatives only (no create_graph=True); "
                "sinkhorn_align and mmd_align of ucmkd.losses with group= have second ones"
            )
        # All ranks have the same value: its derivative is that of the sum of their losses.
        common = ctx.ranks.add(factor.double().reshape(1)).squeeze(0)
        out = (
            None if g is None else (common.to(g.dtype) * g).to(dtype)
            for g, dtype in zip(ctx.gradients, ctx.types, strict=True)
        )  # fmt: skip
        return (*out, None, None)


def value_of(student: Tensor, teacher: Tensor, work: Work, ranks: Ranks) -> Tensor:
    """A 0-d value that every rank has, with the convention of :mod:`ucmkd.distributed`."""
    with torch.autocast(student.device.type, enabled=False):
        result: Tensor = _Global.apply(student, teacher, work, ranks)
    return result
