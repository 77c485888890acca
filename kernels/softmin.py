r"""Streaming softmin: one half-iteration of Sinkhorn without a cost matrix in memory.

For potentials :math:`\gamma=g\kappa` in units of :math:`\varepsilon/\log_2 e`, i.e. with
:math:`\kappa=\log_2(e)/\varepsilon`,

.. math::
    \sigma_i = -\log_2\sum_j \exp_2(\gamma_j + \log_2 b_j - \kappa C_{ij}),\qquad
    C_{ij} = s\,c(x_i, y_j) + \lambda\,D_{l_ik_j};

a weight of 0 masks a point, and a row whose columns are all masked gives :math:`+\infty`. For the
squared distance the norms and the log-weights fold into one term a column,

.. math::
    \gamma_j+\log_2 b_j - \kappa s|x_i-y_j|^2 = u_j + 2\kappa s\,x_i\cdot y_j - \kappa s|x_i|^2,
    \qquad u_j = \gamma_j+\log_2 b_j - \kappa s|y_j|^2,

where the last term leaves the sum. The running maximum and sum (Milakov, Gimelshein 2018) are
always float32. A pass ends either in the damped potential :math:`\tau\sigma_i`, or in the change
:math:`\sigma_i-\gamma'_i` of the rows' own potential. With too few rows to fill a GPU the columns
are split among programs, whose maxima and sums a second kernel merges in a fixed order.

The tiles (I, J) and (J, I) of a self-term are each other's transpose, yet both are computed. By
the roofline model a sweep that computes one, with the columns' maxima and sums as partial results,
takes half the time where the products bound it: for float32 beyond the budget of
:mod:`ucmkd.ops._triton_tier`. It gains nothing where exponentials do, as for 16-bit points up to
about 128 coordinates. The model counts no reductions across warps, of which such a sweep has one
more a tile; without a measurement it was left out.
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
    DISTANCE,
    EUCLIDEAN,
    L1,
    LOG2E,
    MISMATCH,
    NEAR,
    NO_LABEL,
    PRECISION,
    SQEUCLIDEAN,
    Cloud,
    Problem,
    absent_arguments,
    check_points,
    cloud,
    fit_block,
    from_differences,
    kind_of,
    label_costs,
    label_distances,
    pad_points,
    point_type,
    products,
    readable,
    signature,
    square_distances,
    square_norms,
    variants,
)

__all__ = [
    "ALIGNMENT", "COSTS", "DISTANCE", "EUCLIDEAN", "L1", "LOG2E", "MISMATCH", "NEAR", "NO_LABEL",
    "PRECISION", "SQEUCLIDEAN", "TABLE", "Cloud", "Launch", "Problem", "check_points", "cloud",
    "compilations", "fit_block", "from_differences", "half_step", "kind_of", "label_costs",
    "label_distances", "pad_points", "products", "readable", "square_distances", "square_norms",
]  # fmt: skip


@triton.jit(do_not_specialize=["n", "m", "classes", "total_rows", "change"])
def softmin_kernel(
    x_ptr, y_ptr, potential_ptr, log_weight_ptr, own_ptr, x_norm_ptr, y_norm_ptr,
    x_label_ptr, y_label_ptr, distance_ptr, kappa_ptr, price_ptr, damping_ptr, active_ptr,
    out_ptr, partial_ptr, n, m, d, scale, classes, total_rows, change,
    COST: tl.constexpr, LABEL: tl.constexpr, SAME: tl.constexpr, ONE_BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M rows of one problem against all its columns, or one split of them.

    How a pass ends (``change``, splits) is decided at run time: one compilation serves all ends.
    """
    blocks = tl.cdiv(n, BLOCK_M)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    if tl.load(active_ptr + batch) == 0:
        return
    rows = (tl.program_id(0) % blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    row_in = rows < n
    x_rows = x_ptr + batch * n * d + rows * d
    kappa = tl.load(kappa_ptr + batch)
    coefficient = kappa * scale
    k = tl.arange(0, BLOCK_D)
    x_first = tl.zeros([BLOCK_M, BLOCK_D], x_ptr.dtype.element_ty)
    if ONE_BLOCK and COST != L1:  # stays in registers for the whole pass
        x_first = tl.load(
            x_rows[:, None] + k[None, :], mask=row_in[:, None] & (k[None, :] < d), other=0.0
        )
    x_norm = tl.zeros([BLOCK_M], tl.float32)
    if COST != L1:
        x_norm = tl.load(x_norm_ptr + batch * n + rows, mask=row_in, other=0.0)
    if LABEL != NO_LABEL:
        x_label = tl.load(x_label_ptr + batch * n + rows, mask=row_in, other=0)
        penalty = kappa * tl.load(price_ptr + batch)

    splits = tl.num_programs(1)
    share = tl.cdiv(tl.cdiv(m, BLOCK_N), splits) * BLOCK_N
    first = tl.program_id(1) * share
    end = tl.minimum(first + share, m)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    for start in range(first, end, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        column_in = columns < m
        y_rows = y_ptr + batch * m * d + columns * d
        place = batch * m + columns
        u = tl.load(log_weight_ptr + place, mask=column_in, other=float("-inf"))
        u += tl.load(potential_ptr + place, mask=column_in, other=0.0)
        if COST == L1:
            distance = from_differences(
                x_rows, y_rows, row_in, column_in, d, False, BLOCK_M, BLOCK_N
            )
            score = u[None, :] - coefficient * distance
        else:
            y_norm = tl.load(y_norm_ptr + place, mask=column_in, other=0.0)
            product = products(
                x_rows, y_rows, row_in, column_in, x_first, d,
                PRECISION, ONE_BLOCK, BLOCK_M, BLOCK_N, BLOCK_D,
            )  # fmt: skip
            if SAME:  # the distance of a point to itself is exactly 0
                product = tl.where(rows[:, None] == columns[None, :], y_norm[None, :], product)
            if COST == SQEUCLIDEAN:
                score = (u - coefficient * y_norm)[None, :] + (2.0 * coefficient) * product
            else:
                square = square_distances(
                    product, x_norm, y_norm, x_rows, y_rows, row_in, column_in, d, BLOCK_M, BLOCK_N
                )
                score = u[None, :] - coefficient * tl.sqrt(square)
        if LABEL != NO_LABEL:
            y_label = tl.load(y_label_ptr + place, mask=column_in, other=0)
            score -= label_costs(x_label, y_label, distance_ptr, classes, penalty, LABEL)
        new_top = tl.maximum(top, tl.max(score, 1))
        # Nothing but masked columns so far: any finite reference will do, and -inf would give NaN.
        reference = tl.where(new_top == float("-inf"), 0.0, new_top)
        total = total * tl.exp2(top - reference) + tl.sum(tl.exp2(score - reference[:, None]), 1)
        top = new_top
    if COST == SQEUCLIDEAN:
        top -= coefficient * x_norm
    if splits > 1:
        partial = partial_ptr + 2 * tl.program_id(1).to(tl.int64) * total_rows + batch * n + rows
        tl.store(partial, top, mask=row_in)
        tl.store(partial + total_rows, total, mask=row_in)
    else:
        # A row without columns: top = -inf and log2(0) = -inf, hence +inf.
        out = -(top + tl.log2(total))
        if change != 0:
            out -= tl.load(own_ptr + batch * n + rows, mask=row_in, other=0.0)
        else:
            out *= tl.load(damping_ptr + batch)
        tl.store(out_ptr + batch * n + rows, out, mask=row_in)


@triton.jit(do_not_specialize=["n", "total_rows", "splits", "change"])
def softmin_merge_kernel(
    partial_ptr, own_ptr, damping_ptr, active_ptr, out_ptr, n, total_rows, splits, change,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK rows of one problem, from the maxima and sums of all splits."""
    blocks = tl.cdiv(n, BLOCK)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    if tl.load(active_ptr + batch) == 0:
        return
    rows = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    row_in = rows < n
    top = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    partial = partial_ptr + batch * n + rows
    for _ in range(0, splits):
        one = tl.load(partial, mask=row_in, other=float("-inf"))
        new_top = tl.maximum(top, one)
        reference = tl.where(new_top == float("-inf"), 0.0, new_top)
        part = tl.load(partial + total_rows, mask=row_in, other=0.0)
        total = total * tl.exp2(top - reference) + part * tl.exp2(one - reference)
        top = new_top
        partial += 2 * total_rows
    out = -(top + tl.log2(total))
    if change != 0:
        out -= tl.load(own_ptr + batch * n + rows, mask=row_in, other=0.0)
    else:
        out *= tl.load(damping_ptr + batch)
    tl.store(out_ptr + batch * n + rows, out, mask=row_in)


class Launch(NamedTuple):
    """A launch configuration: tile of rows, columns and coordinates, warps, pipeline stages."""

    block_m: int
    block_n: int
    block_d: int
    warps: int
    stages: int


#: Fixed configurations by (kind of arithmetic, number of rows): nothing is tuned at run time, so
#: a new batch size never stalls a training step. Chosen so that no register spills on compute
#: capability 8.0, 9.0 and 10.0 when d is a multiple of :data:`ALIGNMENT`.
TABLE = {
    ("half", "few"): Launch(16, 128, 64, 4, 3),
    ("half", "many"): Launch(128, 64, 64, 8, 3),
    ("half/root", "few"): Launch(16, 128, 64, 4, 2),
    ("half/root", "many"): Launch(64, 64, 64, 8, 3),
    ("float", "few"): Launch(16, 64, 32, 4, 2),
    ("float", "many"): Launch(64, 64, 32, 8, 2),
    ("float/root", "few"): Launch(16, 32, 32, 4, 2),
    ("float/root", "many"): Launch(64, 32, 32, 4, 2),
    ("l1", "few"): Launch(16, 64, 16, 4, 1),
    ("l1", "many"): Launch(32, 64, 16, 8, 1),
}
#: Up to this many rows in the whole batch the small tiles fill a GPU better than the large ones.
FEW_ROWS = 2048
#: Columns are split so that there are about this many programs a multiprocessor, but at least so
#: many tiles a split.
PROGRAMS = 2
TILES = 4
MERGE_BLOCK = 256


def size_of(rows: int) -> str:
    """The size bucket of the tables for so many rows in the whole batch."""
    return "few" if rows <= FEW_ROWS else "many"


def columns_of(config: Launch, label: int) -> int:
    """The tile's columns: half of them where class distances are gathered, for their addresses."""
    return config.block_n // 2 if label == DISTANCE.value else config.block_n


def count_splits(programs: int, tiles: int, processors: int) -> int:
    """Into how many parts the columns are split, 1 where the rows alone fill the GPU."""
    if programs >= processors:
        return 1
    return max(1, min(PROGRAMS * processors // programs, tiles // TILES))


def half_step(
    rows: Cloud,
    columns: Cloud,
    problem: Problem,
    potential: Tensor,
    out: Tensor,
    *,
    active: Tensor,
    damping: Tensor | None = None,
    own: Tensor | None = None,
    processors: int = 1,
    splits: int | None = None,
) -> None:
    """Softmin of every row over the columns' potentials, into ``out``; see the head of this file.

    Args:
        rows: The points whose potential is computed.
        columns: The points summed over.
        problem: Cost, κ and label cost.
        potential: Potential of the columns ``(B, m)``, float32, in units of ε/log2(e).
        out: ``(B, n)``, float32: τσ, or the change σ - ``own``.
        active: ``(B,)`` int32; the rows of a problem with 0 are left as they are.
        damping: τ ``(B,)``; needed unless ``own`` is given.
        own: The rows' own potential ``(B, n)``.
        processors: Multiprocessors of the GPU.
        splits: Number of parts of the columns, instead of what ``processors`` suggests.

    Raises:
        ValueError: The points are of different or other types, not contiguous, or too many.
    """
    x, y = rows.points, columns.points
    check_points(x, y)
    batch, n, d = x.shape
    m = y.shape[1]
    config = TABLE[kind_of(problem.cost, x.dtype), size_of(batch * n)]
    block_d = fit_block(config.block_d, d)
    block_n = columns_of(config, problem.label_kind)
    programs = batch * triton.cdiv(n, config.block_m)
    if splits is None:
        splits = count_splits(programs, triton.cdiv(m, block_n), processors)
    change = int(own is not None)
    # A tensor that this end of the pass does not read is stood for by another one: an argument
    # None would be a compilation of its own.
    partial, own = out, out if own is None else own
    damping = problem.kappa if damping is None else damping
    if splits > 1:
        partial = torch.empty((splits, 2, batch, n), dtype=torch.float32, device=x.device)
    labelled = problem.label_kind > 0
    softmin_kernel[(programs, splits)](
        readable(x), readable(y), potential, columns.log_weight, own, rows.norm, columns.norm,
        rows.label if labelled else None, columns.label if labelled else None, problem.distance,
        problem.kappa, problem.price, damping, active, out, partial,
        n, m, d, problem.scale, problem.classes, batch * n, change,
        COST=COSTS[problem.cost], LABEL=problem.label_kind, SAME=problem.same,
        ONE_BLOCK=d <= block_d, PRECISION=PRECISION,
        BLOCK_M=config.block_m, BLOCK_N=block_n, BLOCK_D=block_d,
        num_warps=config.warps, num_stages=config.stages, enable_fp_fusion=True,
    )  # fmt: skip
    if splits > 1:
        softmin_merge_kernel[(batch * triton.cdiv(n, MERGE_BLOCK),)](
            partial, own, damping, active, out, n, batch * n, splits, change,
            BLOCK=MERGE_BLOCK, num_warps=4,
        )  # fmt: skip


def compilations() -> Iterator[Compilation]:
    """Every tabled configuration, with every kind of label cost."""
    for (kind, rows), launch in TABLE.items():
        for variant, cost, label, one in variants(kind):
            absent = absent_arguments(kind, label)
            yield Compilation(
                f"softmin/{kind}/{rows}/{variant}",
                softmin_kernel,
                signature(softmin_kernel, point_type(kind), absent),
                {
                    "COST": COSTS[cost], "LABEL": label, "SAME": label == DISTANCE.value,
                    "ONE_BLOCK": one, "PRECISION": PRECISION,
                    "BLOCK_M": launch.block_m, "BLOCK_N": columns_of(launch, label),
                    "BLOCK_D": launch.block_d, **dict.fromkeys(absent),
                },
                launch.warps, launch.stages, kind != "l1", True,
            )  # fmt: skip
    yield Compilation(
        "softmin_merge", softmin_merge_kernel, signature(softmin_merge_kernel),
        {"BLOCK": MERGE_BLOCK}, 4, 3, False, True,
    )  # fmt: skip
