r"""The transport gradient: one streaming pass over the plan, which is never stored.

For the rows :math:`i`, with :math:`P_{ij} = a_i b_j \exp((f_i+g_j-C_{ij})/\varepsilon)` and
:math:`C_{ij} = s\,c(x_i,y_j) + \lambda[l_i\ne k_j]`,

.. math::
    r_i = \sum_j P_{ij}/a_i,\quad
    \nabla_i = \sum_j P_{ij}\,\partial_{x_i} C_{ij},\quad
    t_i = \sum_j P_{ij} C_{ij},\quad
    q_i = \sum_j P_{ij}[l_i\ne k_j].

By the envelope theorem :math:`\nabla_i` is the gradient of the optimal value; the other side has
the roles swapped. For the squared distance :math:`\nabla_i = 2s(x_i\sum_j P_{ij} - \sum_j P_{ij}
y_j)`, and for the distance the same with :math:`W_{ij}=P_{ij}/2|x_i-y_j|` (0 where the points
coincide) for :math:`P_{ij}`: one product of the tile with the points. A program owns a block of
rows and a block of the output's coordinates, and computes its scores anew for each of the latter.
With :math:`f=g=0` and :math:`\varepsilon=\infty` the plan is :math:`a\otimes b`, so that
:math:`\sum_i t_i` is the mean cost.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ucmkd.kernels.softmin import (
    COSTS,
    EUCLIDEAN,
    FEW_ROWS,
    L1,
    LOG2E,
    NEAR,
    SQEUCLIDEAN,
    check_points,
    fit_block,
    from_differences,
    kind_of,
    products,
    readable,
    square_distances,
    square_norms,
)


@triton.jit
def near_pairs(
    gradient, weight, x_tile, y_rows, start, column_end, d, output,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Adds sum_j w_ij (x_i - y_j), column by column: exact where x_i and y_j nearly coincide."""
    index = tl.arange(0, BLOCK_N)
    for j in range(start, column_end):
        w = tl.sum(tl.where(index[None, :] == j - start, weight, 0.0), 1)
        y = tl.load(y_rows + j * d + output, mask=output < d, other=0.0).to(tl.float32)
        gradient += w[:, None] * (x_tile - y[None, :])
    return gradient


@triton.jit
def signs(
    gradient, weight, x_rows, y_rows, row_in, column_in, d, first, output,
    BLOCK_O: tl.constexpr,
):  # fmt: skip
    """Adds sum_j w_ij sign(x_ik - y_jk) for the coordinates k of the output block."""
    for k in range(first, tl.minimum(first + BLOCK_O, d)):
        x = tl.load(x_rows + k, mask=row_in, other=0.0).to(tl.float32)
        y = tl.load(y_rows + k, mask=column_in, other=0.0).to(tl.float32)
        step = x[:, None] - y[None, :]
        one = tl.sum(tl.where(step > 0, weight, tl.where(step < 0, -weight, 0.0)), 1)
        gradient += tl.where(output[None, :] == k, one[:, None], 0.0)
    return gradient


@triton.jit
def transport_kernel(
    x_ptr, y_ptr, f_ptr, g_ptr, a_ptr, b_ptr, x_norm_ptr, y_norm_ptr, x_label_ptr, y_label_ptr,
    epsilon_ptr, label_cost_ptr, row_ptr, transport_ptr, mismatch_ptr, gradient_ptr,
    n, m, d, scale,
    COST: tl.constexpr, HAS_LABEL: tl.constexpr, SAME: tl.constexpr, GRADIENT: tl.constexpr,
    ONE_BLOCK: tl.constexpr, PRECISION: tl.constexpr, PLAN_PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M rows of one problem, BLOCK_O coordinates of their gradient."""
    blocks = tl.cdiv(n, BLOCK_M)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    rows = (tl.program_id(0) % blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    first = tl.program_id(1) * BLOCK_O
    output = first + tl.arange(0, BLOCK_O)
    row_in = rows < n
    x_rows = x_ptr + batch * n * d + rows * d
    y_base = y_ptr + batch * m * d
    kappa = LOG2E / tl.load(epsilon_ptr + batch)
    f = tl.load(f_ptr + batch * n + rows, mask=row_in, other=0.0)
    a = tl.load(a_ptr + batch * n + rows, mask=row_in, other=0.0)
    k = tl.arange(0, BLOCK_D)
    x_first = tl.zeros([BLOCK_M, BLOCK_D], x_ptr.dtype.element_ty)
    if ONE_BLOCK and COST != L1:
        x_first = tl.load(
            x_rows[:, None] + k[None, :], mask=row_in[:, None] & (k[None, :] < d), other=0.0
        )
    x_norm = tl.zeros([BLOCK_M], tl.float32)
    if COST != L1:
        x_norm = tl.load(x_norm_ptr + batch * n + rows, mask=row_in, other=0.0)
    label_cost = 0.0
    if HAS_LABEL:
        x_label = tl.load(x_label_ptr + batch * n + rows, mask=row_in, other=0)
        label_cost = tl.load(label_cost_ptr + batch)
    if GRADIENT and COST != L1:
        x_tile = tl.load(
            x_rows[:, None] + output[None, :],
            mask=row_in[:, None] & (output[None, :] < d), other=0.0,
        ).to(tl.float32)  # fmt: skip

    row = tl.zeros([BLOCK_M], tl.float32)
    transport = tl.zeros([BLOCK_M], tl.float32)
    mismatch = tl.zeros([BLOCK_M], tl.float32)
    weights = tl.zeros([BLOCK_M], tl.float32)
    gradient = tl.zeros([BLOCK_M, BLOCK_O], tl.float32)
    for start in range(0, m, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        column_in = columns < m
        y_rows = y_base + columns * d
        g = tl.load(g_ptr + batch * m + columns, mask=column_in, other=0.0)
        b = tl.load(b_ptr + batch * m + columns, mask=column_in, other=0.0)
        y_norm = tl.zeros([BLOCK_N], tl.float32)
        if COST == L1:
            cost = scale * from_differences(
                x_rows, y_rows, row_in, column_in, d, False, BLOCK_M, BLOCK_N
            )
        else:
            y_norm = tl.load(y_norm_ptr + batch * m + columns, mask=column_in, other=0.0)
            product = products(
                x_rows, y_rows, row_in, column_in, x_first, d,
                PRECISION, ONE_BLOCK, BLOCK_M, BLOCK_N, BLOCK_D,
            )  # fmt: skip
            if SAME:
                product = tl.where(rows[:, None] == columns[None, :], y_norm[None, :], product)
            if COST == SQEUCLIDEAN:
                cost = tl.maximum(x_norm[:, None] + y_norm[None, :] - 2.0 * product, 0.0)
                cost = scale * cost
            else:
                distance = tl.sqrt(
                    square_distances(
                        product, x_norm, y_norm, x_rows, y_rows, row_in, column_in, d,
                        BLOCK_M, BLOCK_N,
                    )
                )  # fmt: skip
                cost = scale * distance
        full = cost
        if HAS_LABEL:
            y_label = tl.load(y_label_ptr + batch * m + columns, mask=column_in, other=0)
            different = x_label[:, None] != y_label[None, :]
            full += tl.where(different, label_cost, 0.0)
        # A masked column has b = 0 whatever its potential.
        density = tl.exp2(kappa * ((f[:, None] + g[None, :]) - full))
        plan = tl.where(b[None, :] > 0, b[None, :] * density, 0.0)
        row += tl.sum(plan, 1)
        transport += tl.sum(plan * full, 1)
        if HAS_LABEL:
            mismatch += tl.sum(tl.where(different, plan, 0.0), 1)
        if GRADIENT:
            if COST == L1:
                gradient = signs(
                    gradient, plan, x_rows, y_rows, row_in, column_in, d, first, output, BLOCK_O
                )
            else:
                weight = plan
                if COST == EUCLIDEAN:
                    weight = tl.where(distance > 0, plan / tl.where(distance > 0, distance, 1.0), 0)
                    near = distance * distance < NEAR * (x_norm[:, None] + y_norm[None, :])
                    near = near & (weight > 0)
                    if tl.max(tl.max(near.to(tl.int32), 1), 0) > 0:
                        gradient = near_pairs(
                            gradient, tl.where(near, weight, 0.0), x_tile, y_base, start,
                            tl.minimum(start + BLOCK_N, m), d, output, BLOCK_N,
                        )  # fmt: skip
                        weight = tl.where(near, 0.0, weight)
                weights += tl.sum(weight, 1)
                y_tile = tl.load(
                    y_rows[:, None] + output[None, :],
                    mask=column_in[:, None] & (output[None, :] < d), other=0.0,
                ).to(tl.float32)  # fmt: skip
                gradient = tl.dot(-weight, y_tile, gradient, input_precision=PLAN_PRECISION)

    if tl.program_id(1) == 0:
        tl.store(row_ptr + batch * n + rows, row, mask=row_in)
        tl.store(transport_ptr + batch * n + rows, a * transport, mask=row_in)
        if HAS_LABEL:
            tl.store(mismatch_ptr + batch * n + rows, a * mismatch, mask=row_in)
    if GRADIENT:
        if COST != L1:
            gradient += weights[:, None] * x_tile
        factor = 2.0 * scale if COST == SQEUCLIDEAN else scale
        tl.store(
            gradient_ptr + batch * n * d + rows[:, None] * d + output[None, :],
            factor * a[:, None] * gradient, mask=row_in[:, None] & (output[None, :] < d),
        )  # fmt: skip


class TransportLaunch(NamedTuple):
    """A launch configuration; ``block_o`` is the block of the gradient's coordinates."""

    block_m: int
    block_n: int
    block_d: int
    block_o: int
    warps: int
    stages: int


#: Fixed configurations by (kind of arithmetic, number of rows), as in ``softmin``. No register
#: spills on compute capability 9.0; on 8.0 the large tiles for 16-bit points spill a few hundred
#: bytes, in a pass that runs once a solve.
TABLE = {
    ("half", "few"): TransportLaunch(16, 64, 64, 64, 4, 2),
    ("half", "many"): TransportLaunch(64, 32, 64, 64, 4, 2),
    ("float", "few"): TransportLaunch(16, 32, 32, 64, 4, 2),
    ("float", "many"): TransportLaunch(64, 32, 32, 64, 8, 2),
    ("l1", "few"): TransportLaunch(16, 64, 16, 64, 4, 1),
    ("l1", "many"): TransportLaunch(32, 64, 16, 64, 4, 1),
}


class Transport(NamedTuple):
    """Sums over the columns of the plan; ``gradient`` is empty when it was not wanted."""

    row: Tensor
    transport: Tensor
    mismatch: Tensor
    gradient: Tensor


def transport(
    x: Tensor,
    y: Tensor,
    f: Tensor,
    g: Tensor,
    a: Tensor,
    b: Tensor,
    epsilon: Tensor,
    *,
    cost: str = "sqeuclidean",
    scale: float = 1.0,
    x_norm: Tensor | None = None,
    y_norm: Tensor | None = None,
    x_label: Tensor | None = None,
    y_label: Tensor | None = None,
    label_cost: Tensor | None = None,
    same: bool = False,
    gradient: bool = True,
) -> Transport:
    """Row sums of the plan and the gradient to ``x``; see the head of this file.

    Args:
        x: ``(B, n, d)``, contiguous; float32, bfloat16 or float16.
        y: ``(B, m, d)``, contiguous, of the same type.
        f: Potential of ``x`` ``(B, n)``, float32.
        g: Potential of ``y`` ``(B, m)``, float32.
        a: Weights of ``x`` ``(B, n)``, float32.
        b: Weights of ``y`` ``(B, m)``, float32; a zero masks a point.
        epsilon: ``(B,)``, float32; infinity is allowed.
        cost: ``sqeuclidean``, ``euclidean`` or ``l1``.
        scale: Factor of the cost.
        x_norm: Squared norms of ``x`` ``(B, n)`` if at hand.
        y_norm: The same for ``y``.
        x_label: Integers ``(B, n)``.
        y_label: Integers ``(B, m)``.
        label_cost: Price of a label mismatch ``(B,)``, float32.
        same: ``x`` and ``y`` are the same points.
        gradient: Whether the gradient is wanted.

    Returns:
        ``row``, ``transport``, ``mismatch`` ``(B, n)`` and ``gradient (B, n, d)``, all float32.

    Raises:
        ValueError: The points are of different or other types, not contiguous, or too many.
    """
    check_points(x, y)
    batch, n, d = x.shape
    m = y.shape[1]
    config = TABLE[kind_of(cost, x.dtype), "few" if batch * n <= FEW_ROWS else "many"]
    block_d, block_o = fit_block(config.block_d, d), fit_block(config.block_o, d)
    labelled = x_label is not None and y_label is not None and label_cost is not None
    if cost != "l1":
        x_norm = square_norms(x) if x_norm is None else x_norm
        y_norm = square_norms(y) if y_norm is None else y_norm
    row, moved, mismatch = torch.zeros((3, batch, n), dtype=torch.float32, device=x.device)
    slope = torch.empty((batch, n, d) if gradient else (0,), dtype=torch.float32, device=x.device)
    grid = (batch * triton.cdiv(n, config.block_m), triton.cdiv(d, block_o) if gradient else 1)
    transport_kernel[grid](
        readable(x), readable(y), f.contiguous(), g.contiguous(), a.contiguous(), b.contiguous(),
        x_norm, y_norm,
        x_label if labelled else None, y_label if labelled else None,
        epsilon, label_cost if labelled else None, row, moved, mismatch, slope, n, m, d, scale,
        COST=COSTS[cost], HAS_LABEL=labelled, SAME=same, GRADIENT=gradient,
        ONE_BLOCK=d <= block_d, PRECISION="ieee",
        PLAN_PRECISION="ieee" if x.dtype == torch.float32 else "tf32x3",
        BLOCK_M=config.block_m, BLOCK_N=config.block_n, BLOCK_D=block_d, BLOCK_O=block_o,
        num_warps=config.warps, num_stages=config.stages, enable_fp_fusion=True,
    )  # fmt: skip
    return Transport(row, moved, mismatch, slope)
