r"""Passes over a cost matrix in memory, whose two sides are told apart by strides.

The half-step of :mod:`ucmkd.kernels.softmin`,

.. math::
    \sigma_i = -\log_2\sum_j \exp_2(\gamma_j + \log_2 b_j - \kappa C_{ij}),

with a running maximum: exact whatever the potentials are. And the plan at the end, with
:math:`\phi=f\kappa`,

.. math::
    P_{ij} = a_i b_j\exp_2(\phi_i+\gamma_j-\kappa C_{ij}),\qquad
    r_i = \sum_j P_{ij}/a_i,\qquad t_i = \sum_j P_{ij}C_{ij},

where :math:`r_i` is defined for :math:`a_i=0` too.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ucmkd.kernels.compilation import Compilation
from ucmkd.kernels.tiles import signature

#: A density of a pair of masked points means nothing, but must stay finite.
MOST = tl.constexpr(115.0)


@triton.jit(do_not_specialize=["n", "m", "change"])
def matrix_softmin_kernel(
    cost_ptr, potential_ptr, log_weight_ptr, own_ptr, kappa_ptr, damping_ptr, active_ptr, out_ptr,
    n, m, stride_b, stride_i, stride_j, change,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M rows of one problem; rows and columns by their strides."""
    blocks = tl.cdiv(n, BLOCK_M)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    if tl.load(active_ptr + batch) == 0:
        return
    rows = (tl.program_id(0) % blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    row_in = rows < n
    cost_rows = cost_ptr + batch * stride_b + rows.to(tl.int64) * stride_i
    kappa = tl.load(kappa_ptr + batch)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    for start in range(0, m, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        column_in = columns < m
        u = tl.load(log_weight_ptr + batch * m + columns, mask=column_in, other=float("-inf"))
        u += tl.load(potential_ptr + batch * m + columns, mask=column_in, other=0.0)
        cost = tl.load(
            cost_rows[:, None] + columns[None, :].to(tl.int64) * stride_j,
            mask=row_in[:, None] & column_in[None, :], other=0.0,
        )  # fmt: skip
        score = u[None, :] - kappa * cost
        new_top = tl.maximum(top, tl.max(score, 1))
        reference = tl.where(new_top == float("-inf"), 0.0, new_top)
        total = total * tl.exp2(top - reference) + tl.sum(tl.exp2(score - reference[:, None]), 1)
        top = new_top
    out = -(top + tl.log2(total))
    if change != 0:
        out -= tl.load(own_ptr + batch * n + rows, mask=row_in, other=0.0)
    else:
        out *= tl.load(damping_ptr + batch)
    tl.store(out_ptr + batch * n + rows, out, mask=row_in)


@triton.jit(do_not_specialize=["n", "m"])
def plan_kernel(
    cost_ptr, f_ptr, g_ptr, a_ptr, b_ptr, kappa_ptr, row_ptr, transport_ptr, plan_ptr,
    n, m, stride_b, stride_i, stride_j,
    PLAN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M rows of one problem's plan, its sums and, if wanted, itself."""
    blocks = tl.cdiv(n, BLOCK_M)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    rows = (tl.program_id(0) % blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    row_in = rows < n
    base = batch * stride_b + rows.to(tl.int64) * stride_i
    kappa = tl.load(kappa_ptr + batch)
    f = tl.load(f_ptr + batch * n + rows, mask=row_in, other=0.0)
    a = tl.load(a_ptr + batch * n + rows, mask=row_in, other=0.0)
    row = tl.zeros([BLOCK_M], tl.float32)
    transport = tl.zeros([BLOCK_M], tl.float32)
    for start in range(0, m, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        column_in = columns < m
        g = tl.load(g_ptr + batch * m + columns, mask=column_in, other=0.0)
        b = tl.load(b_ptr + batch * m + columns, mask=column_in, other=0.0)
        place = base[:, None] + columns[None, :].to(tl.int64) * stride_j
        inside = row_in[:, None] & column_in[None, :]
        cost = tl.load(cost_ptr + place, mask=inside, other=0.0)
        exponent = (f[:, None] + g[None, :]) - kappa * cost
        exponent = tl.where(a[:, None] > 0, exponent, tl.minimum(exponent, MOST))
        density = tl.where(b[None, :] > 0, b[None, :] * tl.exp2(exponent), 0.0)
        plan = tl.where(a[:, None] > 0, a[:, None] * density, 0.0)
        row += tl.sum(density, 1)
        transport += tl.sum(plan * cost, 1)
        if PLAN:
            tl.store(plan_ptr + place, plan, mask=inside)
    tl.store(row_ptr + batch * n + rows, row, mask=row_in)
    tl.store(transport_ptr + batch * n + rows, transport, mask=row_in)


class MatrixLaunch(NamedTuple):
    """A launch configuration: tile of rows and columns, warps, pipeline stages."""

    block_m: int
    block_n: int
    warps: int
    stages: int


#: By the side that lies contiguously in memory, whose tiles are the longer ones, and the number
#: of rows in the whole batch.
TABLE = {
    ("rows", "few"): MatrixLaunch(4, 512, 4, 2),
    ("rows", "many"): MatrixLaunch(8, 256, 4, 2),
    ("columns", "few"): MatrixLaunch(32, 64, 4, 2),
    ("columns", "many"): MatrixLaunch(64, 32, 4, 2),
}
#: Up to this many rows the small tiles fill a GPU better than the large ones.
FEW_ROWS = 8192


def config_of(batch: int, n: int, transposed: bool) -> MatrixLaunch:
    """The row of the table."""
    size = "few" if batch * n <= FEW_ROWS else "many"
    return TABLE["columns" if transposed else "rows", size]


def matrix_half_step(
    cost: Tensor,
    log_weight: Tensor,
    kappa: Tensor,
    potential: Tensor,
    out: Tensor,
    *,
    active: Tensor,
    transposed: bool = False,
    damping: Tensor | None = None,
    own: Tensor | None = None,
) -> None:
    """Softmin over the last dimension of ``cost`` (the first one if ``transposed``).

    Args:
        cost: ``(B, n, m)``, float32, by its strides.
        log_weight: log2 of the weights that are summed over ``(B, m)``, or ``(B, n)``.
        kappa: log2(e)/ε ``(B,)``.
        potential: Their potential, in units of ε/log2(e).
        out: τσ, or the change σ - ``own``.
        active: ``(B,)`` int32; a problem with 0 is left as it is.
        transposed: Sum over the rows.
        damping: τ ``(B,)``; needed unless ``own`` is given.
        own: The potential of the other side.
    """
    batch, n, m = cost.shape
    strides = cost.stride()
    if transposed:
        n, m, strides = m, n, (strides[0], strides[2], strides[1])
    config = config_of(batch, n, transposed)
    # One compilation serves both ends: what one does not read is stood for by another tensor.
    matrix_softmin_kernel[(batch * triton.cdiv(n, config.block_m),)](
        cost, potential, log_weight, out if own is None else own, kappa,
        kappa if damping is None else damping, active, out, n, m, *strides, int(own is not None),
        BLOCK_M=config.block_m, BLOCK_N=config.block_n,
        num_warps=config.warps, num_stages=config.stages, enable_fp_fusion=True,
    )  # fmt: skip


class Sums(NamedTuple):
    """Sums over the columns of the plan; ``plan`` is empty when it was not wanted."""

    row: Tensor
    transport: Tensor
    plan: Tensor


def plan(
    cost: Tensor,
    f: Tensor,
    g: Tensor,
    a: Tensor,
    b: Tensor,
    kappa: Tensor,
    *,
    transposed: bool = False,
    want_plan: bool = False,
) -> Sums:
    """The plan and its sums over the columns, over the rows if ``transposed``.

    Args:
        cost: ``(B, n, m)``, float32, contiguous.
        f: Potential of the side that is kept, in units of ε/log2(e); ``(B, n)``.
        g: Potential of the side that is summed over ``(B, m)``.
        a: Weights of the first.
        b: Weights of the second.
        kappa: log2(e)/ε ``(B,)``.
        transposed: ``f`` and ``a`` belong to the columns, ``g`` and ``b`` to the rows.
        want_plan: Emit the plan ``(B, n, m)``.
    """
    batch, n, m = cost.shape
    strides = cost.stride()
    if transposed:
        n, m, strides = m, n, (strides[0], strides[2], strides[1])
    config = config_of(batch, n, transposed)
    row, transport = torch.empty((2, batch, n), dtype=torch.float32, device=cost.device)
    found = torch.empty_like(cost) if want_plan else cost.new_empty(0)
    plan_kernel[(batch * triton.cdiv(n, config.block_m),)](
        cost, f, g, a, b, kappa, row, transport, found, n, m, *strides,
        PLAN=want_plan, BLOCK_M=config.block_m, BLOCK_N=config.block_n,
        num_warps=config.warps, num_stages=config.stages, enable_fp_fusion=True,
    )  # fmt: skip
    return Sums(row, transport, found)


def compilations() -> Iterator[Compilation]:
    """Every tabled configuration."""
    for (side, rows), launch in TABLE.items():
        sizes = {"BLOCK_M": launch.block_m, "BLOCK_N": launch.block_n}
        one = "stride_j" if side == "rows" else "stride_i"  # a stride of 1 is a constant
        yield Compilation(
            f"matrix/softmin/{side}/{rows}", matrix_softmin_kernel,
            signature(matrix_softmin_kernel, absent=(one,)), {one: 1, **sizes},
            launch.warps, launch.stages, False, True,
        )  # fmt: skip
        for want_plan in (False, True):
            yield Compilation(
                f"matrix/plan/{side}/{rows}/{'plan' if want_plan else 'sums'}",
                plan_kernel,
                signature(plan_kernel, absent=(one,)),
                {"PLAN": want_plan, one: 1, **sizes},
                launch.warps, launch.stages, False, True,
            )  # fmt: skip
