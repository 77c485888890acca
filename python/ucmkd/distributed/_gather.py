r"""Rows of all ranks, differentiable any number of times.

With :math:`Z=(z_1,\dots,z_W)` on every rank the derivative of :math:`\sum_r L_r(Z)` to
:math:`z_r` is :math:`\sum_s \partial_{z_r}L_s`: the backward of an all-gather sums over the ranks,
and that of this sum gathers again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ucmkd.distributed._group import Ranks


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, ranks: Ranks, sizes: tuple[int, ...], dim: int) -> Tensor:
        ctx.how = (ranks, sizes, dim)
        return torch.cat(ranks.gather_rows(part, sizes, dim), dim)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _Share.apply(gradients[0], *ctx.how), None, None, None


class _Share(torch.autograd.Function):
    """This rank's rows of the sum over the ranks."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, ranks: Ranks, sizes: tuple[int, ...], dim: int) -> Tensor:
        ctx.how = (ranks, sizes, dim)
        wide = torch.promote_types(whole.dtype, torch.float32)
        # A copy: the incoming gradient may belong to somebody else.
        total = ranks.add(whole.detach().to(wide, copy=True, memory_format=torch.contiguous_format))
        first = sum(sizes[: ranks.rank])
        return total.narrow(dim, first, sizes[ranks.rank]).to(whole.dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _Gather.apply(gradients[0], *ctx.how), None, None, None


def gather(part: Tensor, ranks: Ranks, sizes: tuple[int, ...], dim: int = 0) -> Tensor:
    """The rows of all ranks one behind the other, by rank.

    Args:
        part: This rank's, with ``sizes[rank]`` rows in dimension ``dim``.
        ranks: The group.
        sizes: Rows of every rank.
        dim: Which dimension.
    """
    if part.requires_grad and torch.is_grad_enabled():
        return _Gather.apply(part, ranks, sizes, dim)
    return torch.cat(ranks.gather_rows(part, sizes, dim), dim)
