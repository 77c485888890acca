r"""Sinkhorn iterations on a cost matrix in memory, in the second-level cache where it fits.

The matrix :math:`C` is computed once (:mod:`ucmkd.kernels.cost`), and an iteration reads it once.
A program owns some rows and all columns. With :math:`\kappa=\log_2(e)/\varepsilon`, the old
potential :math:`\gamma` of the columns and :math:`\sigma_i` the softmin of row i,

.. math::
    p_{ij} = \exp_2(\gamma_j+\log_2 b_j-\kappa C_{ij}+\sigma_i)\in[0,1],\qquad \sum_j p_{ij}=1,

and :math:`\phi_i=\tau\sigma_i` is the new potential of the row. The same exponentials give the
new columns, for

.. math::
    c_j=\sum_i a_i\exp_2(\phi_i-\sigma_i)\,p_{ij}
       = b_j\exp_2(\gamma_j)\sum_i a_i\exp_2(\phi_i-\kappa C_{ij}),

so that the change of the potential is :math:`\log_2(b_j/c_j)`: one exponential an entry and an
iteration, and no maximum over a column. The programs' sums are merged in a fixed order. A sum
that leaves the safe range of float32, which happens at the start with a small ε, or where an
unbalanced plan has no mass, is computed again by its program of the merge with a running maximum.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ucmkd.kernels.compilation import Compilation
from ucmkd.kernels.tiles import signature

#: Outside of these bounds the terms of a column sum may have been flushed, or overflown.
LEAST = tl.constexpr(2.0**-80)
GREATEST = tl.constexpr(2.0**100)


@triton.jit(do_not_specialize=["n", "m", "groups", "row_blocks"])
def sweep_kernel(
    cost_ptr, g_ptr, log_a_ptr, log_b_ptr, kappa_ptr, damping_ptr, active_ptr, f_ptr, partial_ptr,
    n, m, stride, groups, row_blocks,
    BLOCK_M: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One program: row_blocks times BLOCK_M rows of one problem, whole rows in registers."""
    batch = (tl.program_id(0) // groups).to(tl.int64)
    group = tl.program_id(0) % groups
    if tl.load(active_ptr + batch) == 0:
        return
    columns = tl.arange(0, WIDTH)
    column_in = columns < m
    kappa = tl.load(kappa_ptr + batch)
    damping = tl.load(damping_ptr + batch)
    u = tl.load(log_b_ptr + batch * m + columns, mask=column_in, other=float("-inf"))
    u += tl.load(g_ptr + batch * m + columns, mask=column_in, other=0.0)
    column = tl.zeros([WIDTH], tl.float32)
    for block in range(group * row_blocks, (group + 1) * row_blocks):
        rows = block * BLOCK_M + tl.arange(0, BLOCK_M)
        row_in = rows < n
        place = (batch * n + rows)[:, None] * stride + columns[None, :]
        cost = tl.load(cost_ptr + place, mask=row_in[:, None] & column_in[None, :], other=0.0)
        score = u[None, :] - kappa * cost
        top = tl.max(score, 1)
        # A row without columns: top = -inf and log2(0) = -inf, hence +inf.
        reference = tl.where(top == float("-inf"), 0.0, top)
        term = tl.exp2(score - reference[:, None])
        total = tl.sum(term, 1)
        sigma = -(top + tl.log2(total))
        f = damping * sigma
        tl.store(f_ptr + batch * n + rows, f, mask=row_in)
        log_a = tl.load(log_a_ptr + batch * n + rows, mask=row_in, other=float("-inf"))
        weight = tl.where(log_a > float("-inf"), tl.exp2(log_a + (f - sigma)) / total, 0.0)
        column += tl.sum(term * weight[:, None], 0)
    tl.store(partial_ptr + tl.program_id(0).to(tl.int64) * m + columns, column, mask=column_in)


@triton.jit(do_not_specialize=["n", "m", "groups"])
def wide_kernel(
    cost_ptr, g_ptr, log_a_ptr, log_b_ptr, kappa_ptr, damping_ptr, active_ptr, f_ptr, partial_ptr,
    n, m, stride, groups,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M rows too wide for the registers, read twice, the second time near by."""
    batch = (tl.program_id(0) // groups).to(tl.int64)
    if tl.load(active_ptr + batch) == 0:
        return
    rows = (tl.program_id(0) % groups) * BLOCK_M + tl.arange(0, BLOCK_M)
    row_in = rows < n
    kappa = tl.load(kappa_ptr + batch)
    cost_rows = cost_ptr + (batch * n + rows) * stride
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    for start in range(0, m, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        column_in = columns < m
        u = tl.load(log_b_ptr + batch * m + columns, mask=column_in, other=float("-inf"))
        u += tl.load(g_ptr + batch * m + columns, mask=column_in, other=0.0)
        cost = tl.load(
            cost_rows[:, None] + columns[None, :],
            mask=row_in[:, None] & column_in[None, :], other=0.0,
        )  # fmt: skip
        score = u[None, :] - kappa * cost
        new_top = tl.maximum(top, tl.max(score, 1))
        reference = tl.where(new_top == float("-inf"), 0.0, new_top)
        total = total * tl.exp2(top - reference) + tl.sum(tl.exp2(score - reference[:, None]), 1)
        top = new_top
    sigma = -(top + tl.log2(total))
    f = tl.load(damping_ptr + batch) * sigma
    tl.store(f_ptr + batch * n + rows, f, mask=row_in)
    log_a = tl.load(log_a_ptr + batch * n + rows, mask=row_in, other=float("-inf"))
    weight = tl.where(log_a > float("-inf"), tl.exp2(log_a + (f - sigma)) / total, 0.0)
    reference = tl.where(top == float("-inf"), 0.0, top)
    partial = partial_ptr + tl.program_id(0).to(tl.int64) * m
    for start in range(0, m, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        column_in = columns < m
        u = tl.load(log_b_ptr + batch * m + columns, mask=column_in, other=float("-inf"))
        u += tl.load(g_ptr + batch * m + columns, mask=column_in, other=0.0)
        cost = tl.load(
            cost_rows[:, None] + columns[None, :],
            mask=row_in[:, None] & column_in[None, :], other=0.0,
        )  # fmt: skip
        term = tl.exp2(u[None, :] - kappa * cost - reference[:, None])
        tl.store(partial + columns, tl.sum(term * weight[:, None], 0), mask=column_in)


@triton.jit(do_not_specialize=["n", "m", "groups"])
def merge_kernel(
    partial_ptr, cost_ptr, f_ptr, g_ptr, log_a_ptr, log_b_ptr, kappa_ptr, active_ptr, change_ptr,
    n, m, stride, groups,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_N columns of one problem, from the sums of all groups of rows."""
    blocks = tl.cdiv(m, BLOCK_N)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    if tl.load(active_ptr + batch) == 0:
        return
    columns = (tl.program_id(0) % blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    column_in = columns < m
    log_b = tl.load(log_b_ptr + batch * m + columns, mask=column_in, other=float("-inf"))
    index = tl.arange(0, BLOCK_M)
    parts = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, groups, BLOCK_M):
        place = (batch * groups + start + index)[:, None] * m + columns[None, :]
        inside = (start + index < groups)[:, None] & column_in[None, :]
        parts += tl.load(partial_ptr + place, mask=inside, other=0.0)
    column = tl.sum(parts, 0)
    # Nothing depends on the potential of a masked column while the loop runs. NaN is not safe.
    counts = log_b > float("-inf")
    safe = (column >= LEAST) & (column <= GREATEST)
    change = tl.where(counts, log_b - tl.log2(tl.where(safe, column, 1.0)), 0.0)
    if tl.max((counts & (safe == 0)).to(tl.int32), 0) > 0:
        kappa = tl.load(kappa_ptr + batch)
        top = tl.full([BLOCK_N], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_N], tl.float32)
        for start in range(0, n, BLOCK_M):
            rows = start + index
            row_in = rows < n
            u = tl.load(log_a_ptr + batch * n + rows, mask=row_in, other=float("-inf"))
            f = tl.load(f_ptr + batch * n + rows, mask=row_in, other=0.0)
            u = tl.where(u > float("-inf"), u + f, u)
            place = (batch * n + rows)[:, None] * stride + columns[None, :]
            inside = row_in[:, None] & column_in[None, :]
            cost = tl.load(cost_ptr + place, mask=inside, other=0.0)
            score = u[:, None] - kappa * cost
            new_top = tl.maximum(top, tl.max(score, 0))
            reference = tl.where(new_top == float("-inf"), 0.0, new_top)
            part = tl.sum(tl.exp2(score - reference[None, :]), 0)
            total = total * tl.exp2(top - reference) + part
            top = new_top
        g = tl.load(g_ptr + batch * m + columns, mask=column_in, other=0.0)
        change = tl.where(counts & (safe == 0), -(top + tl.log2(total)) - g, change)
    tl.store(change_ptr + batch * m + columns, change, mask=column_in)


class TileLaunch(NamedTuple):
    """Tile of rows and columns, warps, pipeline stages."""

    block_m: int
    block_n: int
    warps: int
    stages: int


class SweepLaunch(NamedTuple):
    """Rows at a time, warps, and programs a multiprocessor that the rows are shared among."""

    block_m: int
    warps: int
    programs: int


#: Rows held in registers by their width, a power of 2: 32 entries a thread.
SWEEP_TABLE = {
    128: SweepLaunch(32, 4, 4),
    256: SweepLaunch(16, 4, 4),
    512: SweepLaunch(8, 4, 4),
    1024: SweepLaunch(4, 4, 4),
    2048: SweepLaunch(4, 8, 2),
    4096: SweepLaunch(2, 8, 2),
    8192: SweepLaunch(1, 8, 2),
}
#: Wider rows: tile, warps, pipeline stages.
WIDE = TileLaunch(8, 128, 4, 2)
#: Tile of the merge.
MERGE = TileLaunch(64, 32, 4, 2)


class Sweep(NamedTuple):
    """How the rows of a problem are shared among programs."""

    groups: int  #: programs a problem
    row_blocks: int  #: blocks of rows a program; 0: rows too wide for the registers
    width: int
    launch: SweepLaunch | None


def plan_sweep(batch: int, n: int, m: int, processors: int) -> Sweep:
    """The shares for a batch of problems on a GPU with so many multiprocessors."""
    width = max(min(SWEEP_TABLE), triton.next_power_of_2(m))
    if width not in SWEEP_TABLE:
        return Sweep(triton.cdiv(n, WIDE.block_m), 0, width, None)
    launch = SWEEP_TABLE[width]
    blocks = triton.cdiv(n, launch.block_m)
    row_blocks = max(1, batch * blocks // (launch.programs * processors))
    return Sweep(triton.cdiv(blocks, row_blocks), row_blocks, width, launch)


def iterate(
    cost: Tensor,
    g: Tensor,
    log_a: Tensor,
    log_b: Tensor,
    kappa: Tensor,
    damping: Tensor,
    f: Tensor,
    change: Tensor,
    *,
    active: Tensor,
    partial: Tensor,
    sweep: Sweep,
) -> None:
    """One iteration: the rows' new potential into ``f``, and the change of the columns'.

    Args:
        cost: ``(B, n, m)``, float32, from :func:`ucmkd.kernels.cost.cost_matrix` or contiguous.
        g: Potential of the columns ``(B, m)``, in units of ε/log2(e).
        log_a: log2 of the rows' weights ``(B, n)``.
        log_b: log2 of the columns' weights ``(B, m)``.
        kappa: log2(e)/ε ``(B,)``.
        damping: τ of the rows ``(B,)``.
        f: ``(B, n)``, float32.
        change: ``(B, m)``, float32; 0 for a masked column.
        active: ``(B,)`` int32; a problem with 0 is left as it is.
        partial: Room for ``(B, sweep.groups, m)`` float32.
        sweep: From :func:`plan_sweep`.
    """
    batch, n, m = cost.shape
    arguments = (cost, g, log_a, log_b, kappa, damping, active, f, partial, n, m)
    numbers = (cost.stride(1), sweep.groups)
    grid = (batch * sweep.groups,)
    if sweep.launch is not None:
        sweep_kernel[grid](
            *arguments, *numbers, sweep.row_blocks, BLOCK_M=sweep.launch.block_m, WIDTH=sweep.width,
            num_warps=sweep.launch.warps, num_stages=1, enable_fp_fusion=True,
        )  # fmt: skip
    else:
        wide_kernel[grid](
            *arguments, *numbers, BLOCK_M=WIDE.block_m, BLOCK_N=WIDE.block_n,
            num_warps=WIDE.warps, num_stages=WIDE.stages, enable_fp_fusion=True,
        )  # fmt: skip
    merge_kernel[(batch * triton.cdiv(m, MERGE.block_n),)](
        partial, cost, f, g, log_a, log_b, kappa, active, change, n, m, *numbers,
        BLOCK_M=MERGE.block_m, BLOCK_N=MERGE.block_n,
        num_warps=MERGE.warps, num_stages=MERGE.stages, enable_fp_fusion=True,
    )  # fmt: skip


def compilations() -> Iterator[Compilation]:
    """Every tabled configuration."""
    for width, launch in SWEEP_TABLE.items():
        yield Compilation(
            f"cached/sweep/{width}", sweep_kernel, signature(sweep_kernel),
            {"BLOCK_M": launch.block_m, "WIDTH": width}, launch.warps, 1, False, True,
        )  # fmt: skip
    for name, kernel, config in (("wide", wide_kernel, WIDE), ("merge", merge_kernel, MERGE)):
        yield Compilation(
            f"cached/{name}", kernel, signature(kernel),
            {"BLOCK_M": config.block_m, "BLOCK_N": config.block_n},
            config.warps, config.stages, False, True,
        )  # fmt: skip
