r"""The matrix of costs in memory, for the iterations of :mod:`ucmkd.kernels.cached`.

.. math:: C_{ij} = s\,c(x_i, y_j) + \lambda\,D_{l_ik_j}

by products on tensor cores, in float32.
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
from ucmkd.kernels.tiles import (
    ALIGNMENT,
    COSTS,
    L1,
    NO_LABEL,
    PRECISION,
    SQEUCLIDEAN,
    Cloud,
    Problem,
    absent_arguments,
    check_points,
    fit_block,
    from_differences,
    kind_of,
    label_costs,
    point_type,
    products,
    readable,
    signature,
    square_distances,
    variants,
)


@triton.jit(do_not_specialize=["n", "m", "classes"])
def cost_kernel(
    x_ptr, y_ptr, x_norm_ptr, y_norm_ptr, x_label_ptr, y_label_ptr, distance_ptr, price_ptr,
    cost_ptr, n, m, d, stride, scale, classes,
    COST: tl.constexpr, LABEL: tl.constexpr, SAME: tl.constexpr, ONE_BLOCK: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One program: a tile of one problem's cost matrix."""
    blocks = tl.cdiv(n, BLOCK_M)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    rows = (tl.program_id(0) % blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_in, column_in = rows < n, columns < m
    x_rows = x_ptr + batch * n * d + rows * d
    y_rows = y_ptr + batch * m * d + columns * d
    if COST == L1:
        cost = from_differences(x_rows, y_rows, row_in, column_in, d, False, BLOCK_M, BLOCK_N)
    else:
        x_norm = tl.load(x_norm_ptr + batch * n + rows, mask=row_in, other=0.0)
        y_norm = tl.load(y_norm_ptr + batch * m + columns, mask=column_in, other=0.0)
        k = tl.arange(0, BLOCK_D)
        x_first = tl.zeros([BLOCK_M, BLOCK_D], x_ptr.dtype.element_ty)
        if ONE_BLOCK:
            x_first = tl.load(
                x_rows[:, None] + k[None, :], mask=row_in[:, None] & (k[None, :] < d), other=0.0
            )
        product = products(
            x_rows, y_rows, row_in, column_in, x_first, d,
            PRECISION, ONE_BLOCK, BLOCK_M, BLOCK_N, BLOCK_D,
        )  # fmt: skip
        if SAME:  # the distance of a point to itself is exactly 0
            product = tl.where(rows[:, None] == columns[None, :], y_norm[None, :], product)
        if COST == SQEUCLIDEAN:
            cost = tl.maximum(x_norm[:, None] + y_norm[None, :] - 2.0 * product, 0.0)
        else:
            cost = tl.sqrt(
                square_distances(
                    product, x_norm, y_norm, x_rows, y_rows, row_in, column_in, d, BLOCK_M, BLOCK_N
                )
            )
    cost *= scale
    if LABEL != NO_LABEL:
        x_label = tl.load(x_label_ptr + batch * n + rows, mask=row_in, other=0)
        y_label = tl.load(y_label_ptr + batch * m + columns, mask=column_in, other=0)
        price = tl.load(price_ptr + batch)
        cost += label_costs(x_label, y_label, distance_ptr, classes, price, LABEL)
    place = (batch * n + rows)[:, None] * stride + columns[None, :]
    tl.store(cost_ptr + place, cost, mask=row_in[:, None] & column_in[None, :])


class CostLaunch(NamedTuple):
    """Tile of rows, columns and coordinates, warps, pipeline stages."""

    block_m: int
    block_n: int
    block_d: int
    warps: int
    stages: int


#: By kind of arithmetic; no register spills on compute capability 8.0, 9.0 and 10.0.
TABLE = {
    "half": CostLaunch(64, 64, 64, 4, 3),
    "half/root": CostLaunch(64, 32, 64, 4, 2),
    "float": CostLaunch(64, 64, 32, 4, 3),
    "float/root": CostLaunch(64, 32, 32, 4, 2),
    "l1": CostLaunch(32, 64, 16, 4, 1),
}


def cost_matrix(rows: Cloud, columns: Cloud, problem: Problem) -> Tensor:
    """The cost ``(B, n, m)`` with its label term, float32.

    Raises:
        ValueError: The points are of different or other types, not contiguous, or too many.
    """
    x, y = rows.points, columns.points
    check_points(x, y)
    batch, n, d = x.shape
    m = y.shape[1]
    config = TABLE[kind_of(problem.cost, x.dtype)]
    block_d = fit_block(config.block_d, d)
    labelled = problem.label_kind > 0
    # Rows that begin at a multiple of 16 numbers are read in whole vectors.
    stride = triton.cdiv(m, ALIGNMENT) * ALIGNMENT
    out = torch.empty((batch, n, stride), dtype=torch.float32, device=x.device)[..., :m]
    cost_kernel[(batch * triton.cdiv(n, config.block_m), triton.cdiv(m, config.block_n))](
        readable(x), readable(y), rows.norm, columns.norm, rows.label if labelled else None,
        columns.label if labelled else None, problem.distance, problem.price, out,
        n, m, d, stride, problem.scale, problem.classes,
        COST=COSTS[problem.cost], LABEL=problem.label_kind, SAME=problem.same,
        ONE_BLOCK=d <= block_d, PRECISION=PRECISION,
        BLOCK_M=config.block_m, BLOCK_N=config.block_n, BLOCK_D=block_d,
        num_warps=config.warps, num_stages=config.stages, enable_fp_fusion=True,
    )  # fmt: skip
    return out


def compilations() -> Iterator[Compilation]:
    """Every tabled configuration, with every kind of label cost."""
    for kind, config in TABLE.items():
        for variant, cost, label, one in variants(kind):
            absent = absent_arguments(kind, label)
            yield Compilation(
                f"cost/{kind}/{variant}",
                cost_kernel,
                signature(cost_kernel, point_type(kind), absent),
                {
                    "COST": COSTS[cost], "LABEL": label, "SAME": True, "ONE_BLOCK": one,
                    "PRECISION": PRECISION, "BLOCK_M": config.block_m, "BLOCK_N": config.block_n,
                    "BLOCK_D": config.block_d, **dict.fromkeys(absent),
                },
                config.warps, config.stages, kind != "l1", False,
            )  # fmt: skip
