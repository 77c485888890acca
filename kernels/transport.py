r"""The transport gradient: one streaming pass over the plan, which is never stored.

For the rows :math:`i`, with :math:`P_{ij} = a_i b_j \exp((f_i+g_j-C_{ij})/\varepsilon)` and
:math:`C_{ij} = s\,c(x_i,y_j) + \lambda D_{l_ik_j}`,

.. math::
    r_i = \sum_j P_{ij}/a_i,\quad
    \nabla_i = \sum_j P_{ij}\,\partial_{x_i} C_{ij},\quad
    t_i = \sum_j P_{ij} C_{ij},\quad
    q_i = \sum_j P_{ij}D_{l_ik_j}.

By the envelope theorem :math:`\nabla_i` is the gradient of the optimal value; the other side has
the roles swapped. For the squared distance :math:`\nabla_i = 2s(x_i\sum_j P_{ij} - \sum_j P_{ij}
y_j)`, and for the distance the same with :math:`W_{ij}=P_{ij}/2|x_i-y_j|` (0 where the points
coincide) for :math:`P_{ij}`: one product of the tile with the points. A program owns a block of
rows and a block of the output's coordinates, and computes its scores anew for each of the latter.
With :math:`f=g=0` and :math:`\varepsilon=\infty` the plan is :math:`a\otimes b`, so that
:math:`\sum_i t_i` is the mean cost. In place of the gradient the pass can give the mass that each
row sends to each class, the product of the plan with the classes' indicators. Potentials are in
units of :math:`\varepsilon/\log_2e`.
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
    COSTS,
    DISTANCE,
    EUCLIDEAN,
    L1,
    NEAR,
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
    label_distances,
    point_type,
    products,
    readable,
    signature,
    square_distances,
    variants,
)

#: What a pass gives beside the sums.
NOTHING = tl.constexpr(0)
GRADIENT = tl.constexpr(1)
CLASSES = tl.constexpr(2)


@triton.jit
def near_pairs(
    gradient, weight, x_rows, row_in, y_base, start, column_end, d, output,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Adds sum_j w_ij (x_i - y_j), column by column: exact where x_i and y_j nearly coincide."""
    index = tl.arange(0, BLOCK_N)
    x_tile = tl.load(
        x_rows[:, None] + output[None, :], mask=row_in[:, None] & (output[None, :] < d), other=0.0
    ).to(tl.float32)
    for j in range(start, column_end):
        w = tl.sum(tl.where(index[None, :] == j - start, weight, 0.0), 1)
        y = tl.load(y_base + j * d + output, mask=output < d, other=0.0).to(tl.float32)
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


@triton.jit(do_not_specialize=["n", "m", "classes"])
def transport_kernel(
    x_ptr, y_ptr, f_ptr, g_ptr, a_ptr, b_ptr, x_norm_ptr, y_norm_ptr, x_label_ptr, y_label_ptr,
    distance_ptr, kappa_ptr, price_ptr, row_ptr, transport_ptr, mismatch_ptr, output_ptr,
    n, m, d, scale, classes, width,
    COST: tl.constexpr, LABEL: tl.constexpr, SAME: tl.constexpr, OUTPUT: tl.constexpr,
    ONE_BLOCK: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M rows of one problem, BLOCK_O coordinates or classes of their output."""
    blocks = tl.cdiv(n, BLOCK_M)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    rows = (tl.program_id(0) % blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    first = tl.program_id(1) * BLOCK_O
    output = first + tl.arange(0, BLOCK_O)
    row_in = rows < n
    x_rows = x_ptr + batch * n * d + rows * d
    y_base = y_ptr + batch * m * d
    kappa = tl.load(kappa_ptr + batch)
    f = tl.load(f_ptr + batch * n + rows, mask=row_in, other=0.0)
    k = tl.arange(0, BLOCK_D)
    x_first = tl.zeros([BLOCK_M, BLOCK_D], x_ptr.dtype.element_ty)
    if ONE_BLOCK and COST != L1:
        x_first = tl.load(
            x_rows[:, None] + k[None, :], mask=row_in[:, None] & (k[None, :] < d), other=0.0
        )
    x_norm = tl.zeros([BLOCK_M], tl.float32)
    if COST != L1:
        x_norm = tl.load(x_norm_ptr + batch * n + rows, mask=row_in, other=0.0)
    if LABEL != NO_LABEL:
        x_label = tl.load(x_label_ptr + batch * n + rows, mask=row_in, other=0)
        price = tl.load(price_ptr + batch)

    row = tl.zeros([BLOCK_M], tl.float32)
    transport = tl.zeros([BLOCK_M], tl.float32)
    mismatch = tl.zeros([BLOCK_M], tl.float32)
    weights = tl.zeros([BLOCK_M], tl.float32)
    out = tl.zeros([BLOCK_M, BLOCK_O], tl.float32)
    for start in range(0, m, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        column_in = columns < m
        y_rows = y_base + columns * d
        g = tl.load(g_ptr + batch * m + columns, mask=column_in, other=0.0)
        b = tl.load(b_ptr + batch * m + columns, mask=column_in, other=0.0)
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
        if LABEL != NO_LABEL:
            y_label = tl.load(y_label_ptr + batch * m + columns, mask=column_in, other=0)
            cost += label_costs(x_label, y_label, distance_ptr, classes, price, LABEL)
        # A masked column has b = 0 whatever its potential.
        density = tl.exp2((f[:, None] + g[None, :]) - kappa * cost)
        plan = tl.where(b[None, :] > 0, b[None, :] * density, 0.0)
        if OUTPUT == CLASSES:
            member = (y_label[:, None] == output[None, :]).to(tl.float32)
            out = tl.dot(plan, member, out, input_precision=PRECISION)
        else:
            row += tl.sum(plan, 1)
            transport += tl.sum(tl.where(plan > 0, plan * cost, 0.0), 1)
            if LABEL != NO_LABEL:
                apart = label_distances(x_label, y_label, distance_ptr, classes, LABEL)
                mismatch += tl.sum(plan * apart, 1)
        if OUTPUT == GRADIENT:
            if COST == L1:
                out = signs(out, plan, x_rows, y_rows, row_in, column_in, d, first, output, BLOCK_O)
            else:
                weight = plan
                if COST == EUCLIDEAN:
                    weight = tl.where(distance > 0, plan / tl.where(distance > 0, distance, 1.0), 0)
                    near = distance * distance < NEAR * (x_norm[:, None] + y_norm[None, :])
                    near = near & (weight > 0)
                    if tl.max(tl.max(near.to(tl.int32), 1), 0) > 0:
                        out = near_pairs(
                            out, tl.where(near, weight, 0.0), x_rows, row_in, y_base, start,
                            tl.minimum(start + BLOCK_N, m), d, output, BLOCK_N,
                        )  # fmt: skip
                        weight = tl.where(near, 0.0, weight)
                weights += tl.sum(weight, 1)
                y_tile = tl.load(
                    y_rows[:, None] + output[None, :],
                    mask=column_in[:, None] & (output[None, :] < d), other=0.0,
                ).to(tl.float32)  # fmt: skip
                out = tl.dot(-weight, y_tile, out, input_precision=PRECISION)

    a = tl.load(a_ptr + batch * n + rows, mask=row_in, other=0.0)
    if OUTPUT != CLASSES and tl.program_id(1) == 0:
        tl.store(row_ptr + batch * n + rows, row, mask=row_in)
        tl.store(transport_ptr + batch * n + rows, a * transport, mask=row_in)
        if LABEL != NO_LABEL:
            tl.store(mismatch_ptr + batch * n + rows, a * mismatch, mask=row_in)
    if OUTPUT != NOTHING:
        inside = row_in[:, None] & (output[None, :] < width)
        if OUTPUT == GRADIENT:
            if COST != L1:
                x_tile = tl.load(x_rows[:, None] + output[None, :], mask=inside, other=0.0)
                out += weights[:, None] * x_tile.to(tl.float32)
            out *= 2.0 * scale if COST == SQEUCLIDEAN else scale
        place = output_ptr + batch * n * width + rows.to(tl.int64)[:, None] * width
        tl.store(place + output[None, :], a[:, None] * out, mask=inside)


class TransportLaunch(NamedTuple):
    """A launch configuration; ``block_o`` is the block of the output's coordinates."""

    block_m: int
    block_n: int
    block_d: int
    block_o: int
    warps: int
    stages: int


#: Fixed configurations by (kind of arithmetic, number of rows), as in ``softmin``.
TABLE = {
    ("half", "few"): TransportLaunch(16, 64, 64, 64, 4, 1),
    ("half", "many"): TransportLaunch(64, 32, 64, 64, 8, 1),
    ("half/root", "few"): TransportLaunch(16, 32, 64, 64, 4, 2),
    ("half/root", "many"): TransportLaunch(32, 32, 64, 64, 4, 1),
    ("float", "few"): TransportLaunch(16, 64, 32, 64, 4, 2),
    ("float", "many"): TransportLaunch(64, 32, 32, 64, 8, 1),
    ("float/root", "few"): TransportLaunch(16, 64, 32, 32, 4, 2),
    ("float/root", "many"): TransportLaunch(64, 32, 16, 32, 8, 1),
    ("l1", "few"): TransportLaunch(16, 64, 16, 64, 4, 1),
    ("l1", "many"): TransportLaunch(32, 64, 16, 64, 4, 1),
}
#: The same when the output is the mass between classes, for any number of rows.
CLASS_TABLE = {
    "half": TransportLaunch(16, 64, 64, 32, 4, 2),
    "half/root": TransportLaunch(16, 64, 64, 32, 4, 1),
    "float": TransportLaunch(16, 64, 32, 32, 4, 2),
    "float/root": TransportLaunch(16, 64, 32, 32, 4, 1),
    "l1": TransportLaunch(16, 64, 16, 32, 4, 1),
}
#: Up to this many rows in the whole batch the small tiles fill a GPU better than the large ones.
FEW_ROWS = 8192


def columns_of(config: TransportLaunch, kind: str, label: int, output: int) -> int:
    """The tile's columns: half of them where the gradient and the distances' addresses are many."""
    halved = kind in ("half/root", "l1") and label == DISTANCE.value and output != CLASSES.value
    return config.block_n // 2 if halved else config.block_n


class Transport(NamedTuple):
    """Sums over the columns of the plan; ``output`` is empty when it was not wanted."""

    row: Tensor
    transport: Tensor
    mismatch: Tensor
    output: Tensor


def transport(
    rows: Cloud,
    columns: Cloud,
    problem: Problem,
    f: Tensor,
    g: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    gradient: bool = True,
    classes: int = 0,
) -> Transport:
    """Row sums of the plan and the gradient to the rows; see the head of this file.

    Args:
        rows: The points that the gradient is for.
        columns: Those summed over.
        problem: Cost, κ (0 for an infinite ε) and label cost.
        f: Potential of the rows ``(B, n)``, float32, in units of ε/log2(e).
        g: Potential of the columns ``(B, m)``.
        a: Weights of the rows ``(B, n)``, float32.
        b: Weights of the columns ``(B, m)``; a zero masks a point.
        gradient: Emit the gradient to the rows ``(B, n, d)``.
        classes: Emit the mass that each row sends to each of so many classes ``(B, n, classes)``
            in its place; the other results are then 0.

    Returns:
        ``row``, ``transport``, ``mismatch`` ``(B, n)`` and ``output``, all float32.

    Raises:
        ValueError: The points are of different or other types, not contiguous, or too many.
    """
    x, y = rows.points, columns.points
    check_points(x, y)
    (batch, n, d), m = x.shape, y.shape[1]
    arithmetic = kind_of(problem.cost, x.dtype)
    size = "few" if batch * n <= FEW_ROWS else "many"
    config = CLASS_TABLE[arithmetic] if classes else TABLE[arithmetic, size]
    kind = CLASSES.value if classes else GRADIENT.value if gradient else NOTHING.value
    width = classes or (d if gradient else 0)
    block_d, block_o = fit_block(config.block_d, d), fit_block(config.block_o, max(width, 1))
    labelled = problem.label_kind > 0
    row, moved, mismatch = torch.zeros((3, batch, n), dtype=torch.float32, device=x.device)
    output = torch.empty((batch, n, width) if width else (0,), dtype=torch.float32, device=x.device)
    grid = (batch * triton.cdiv(n, config.block_m), max(1, triton.cdiv(width, block_o)))
    transport_kernel[grid](
        readable(x), readable(y), f.contiguous(), g.contiguous(), a, b, rows.norm, columns.norm,
        rows.label if labelled else None, columns.label if labelled else None, problem.distance,
        problem.kappa, problem.price, row, moved, mismatch, output,
        n, m, d, problem.scale, problem.classes, width,
        COST=COSTS[problem.cost], LABEL=problem.label_kind, SAME=problem.same, OUTPUT=kind,
        ONE_BLOCK=d <= block_d, PRECISION=PRECISION,
        BLOCK_M=config.block_m, BLOCK_N=columns_of(config, arithmetic, problem.label_kind, kind),
        BLOCK_D=block_d, BLOCK_O=block_o,
        num_warps=config.warps, num_stages=config.stages, enable_fp_fusion=True,
    )  # fmt: skip
    return Transport(row, moved, mismatch, output)


def compilations() -> Iterator[Compilation]:
    """Every tabled configuration, with every kind of label cost."""
    tabled = [(f"{kind}/{rows}", kind, launch, GRADIENT) for (kind, rows), launch in TABLE.items()]
    tabled += [(f"{kind}/classes", kind, launch, CLASSES) for kind, launch in CLASS_TABLE.items()]
    for name, kind, launch, output in tabled:
        for variant, cost, label, one in variants(kind):
            if output is CLASSES and label != DISTANCE.value:
                continue
            absent = absent_arguments(kind, label)
            yield Compilation(
                f"transport/{name}/{variant}", transport_kernel,
                signature(transport_kernel, point_type(kind), absent),
                {
                    "COST": COSTS[cost], "LABEL": label, "SAME": True, "OUTPUT": output.value,
                    "ONE_BLOCK": one, "PRECISION": PRECISION,
                    "BLOCK_M": launch.block_m,
                    "BLOCK_N": columns_of(launch, kind, label, output.value),
                    "BLOCK_D": launch.block_d, "BLOCK_O": launch.block_o, **dict.fromkeys(absent),
                },
                launch.warps, launch.stages, kind != "l1" or output is CLASSES, True,
            )  # fmt: skip
