r"""The transport plan applied to values: one streaming pass, no plan in memory.

For the rows :math:`i`, with :math:`K_{ij} = b_j \exp((f_i+g_j-C_{ij})/\varepsilon)` and
:math:`C_{ij} = s\,c(x_i,y_j) + \lambda D_{l_ik_j}`,

.. math:: o_i = \sum_j K_{ij}\,v_j,\qquad r_i = \sum_j K_{ij}

for values :math:`v_j\in\mathbb R^k`; the plan is :math:`P_{ij}=a_iK_{ij}`, and the other direction
has the roles swapped. The conditional variant gives :math:`\sum_j K_{ij}v_j/\sum_j K_{ij}`, which
needs no :math:`f`, with the running maximum of an attention kernel. The weighted one has
:math:`K_{ij}(p_i\cdot q_j + \alpha_i + \beta_j)` for :math:`K_{ij}`, with :math:`p_i,q_j\in
\mathbb R^r`, as the second derivative of the cost has it (:mod:`ucmkd.ops._streaming`); it is for
float32 points and the squared distance. A single column of values is summed elementwise, wider ones
are a product of the tile with the values on tensor cores, with float32 sums. A program owns a block
of rows and a block of the values' columns, and computes its part of the plan anew for each of the
latter. Potentials are in units of :math:`\varepsilon/\log_2e`.
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
    L1,
    MISMATCH,
    NO_LABEL,
    PRECISION,
    SQEUCLIDEAN,
    Cloud,
    Problem,
    check_points,
    fit_block,
    from_differences,
    kind_of,
    label_costs,
    pad_points,
    point_type,
    products,
    readable,
    signature,
    square_distances,
)

#: What a pass computes.
PLAIN = tl.constexpr(0)
CONDITIONAL = tl.constexpr(1)
WEIGHTED = tl.constexpr(2)


@triton.jit(do_not_specialize=["classes"])
def plan_kernel(
    x_ptr, y_ptr, f_ptr, g_ptr, b_ptr, x_norm_ptr, y_norm_ptr, x_label_ptr, y_label_ptr,
    distance_ptr, kappa_ptr, price_ptr, left_ptr, right_ptr, alpha_ptr, beta_ptr, value_ptr,
    active_ptr, sum_ptr, output_ptr, n, m, d, stride, stride_r, scale, classes,
    COST: tl.constexpr, LABEL: tl.constexpr, SAME: tl.constexpr, MODE: tl.constexpr,
    VECTOR: tl.constexpr, ONE_BLOCK: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M rows of one problem, BLOCK_O columns of their values.

    ``b_ptr`` holds the weights, their log2 for the conditional variant.
    """
    blocks = tl.cdiv(n, BLOCK_M)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    if tl.load(active_ptr + batch) == 0:
        return
    rows = (tl.program_id(0) % blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    row_in = rows < n
    x_rows = x_ptr + batch * n * d + rows * d
    kappa = tl.load(kappa_ptr + batch)
    k = tl.arange(0, BLOCK_D)
    x_first = tl.zeros([BLOCK_M, BLOCK_D], x_ptr.dtype.element_ty)
    if ONE_BLOCK and COST != L1:
        x_first = tl.load(
            x_rows[:, None] + k[None, :], mask=row_in[:, None] & (k[None, :] < d), other=0.0
        )
    if COST != L1:
        x_norm = tl.load(x_norm_ptr + batch * n + rows, mask=row_in, other=0.0)
    if LABEL != NO_LABEL:
        x_label = tl.load(x_label_ptr + batch * n + rows, mask=row_in, other=0)
        price = tl.load(price_ptr + batch)
    if MODE != CONDITIONAL:
        f = tl.load(f_ptr + batch * n + rows, mask=row_in, other=0.0)
    if MODE == WEIGHTED:
        alpha = tl.load(alpha_ptr + batch * n + rows, mask=row_in, other=0.0)
        left = left_ptr + (batch * n + rows) * stride_r
        left_first = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    if VECTOR:
        out = tl.zeros([BLOCK_M], tl.float32)
    else:
        output = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
        out = tl.zeros([BLOCK_M, BLOCK_O], tl.float32)
    for start in range(0, m, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        column_in = columns < m
        place = batch * m + columns
        y_rows = y_ptr + batch * m * d + columns * d
        g = tl.load(g_ptr + place, mask=column_in, other=0.0)
        if COST == L1:
            cost = scale * from_differences(
                x_rows, y_rows, row_in, column_in, d, False, BLOCK_M, BLOCK_N
            )
        else:
            y_norm = tl.load(y_norm_ptr + place, mask=column_in, other=0.0)
            product = products(
                x_rows, y_rows, row_in, column_in, x_first, d,
                PRECISION, ONE_BLOCK, BLOCK_M, BLOCK_N, BLOCK_D,
            )  # fmt: skip
            if SAME:
                product = tl.where(rows[:, None] == columns[None, :], y_norm[None, :], product)
            if COST == SQEUCLIDEAN:
                cost = tl.maximum(x_norm[:, None] + y_norm[None, :] - 2.0 * product, 0.0)
            else:
                cost = tl.sqrt(
                    square_distances(
                        product, x_norm, y_norm, x_rows, y_rows, row_in, column_in, d,
                        BLOCK_M, BLOCK_N,
                    )
                )  # fmt: skip
            cost = scale * cost
        if LABEL != NO_LABEL:
            y_label = tl.load(y_label_ptr + place, mask=column_in, other=0)
            cost += label_costs(x_label, y_label, distance_ptr, classes, price, LABEL)
        if MODE == CONDITIONAL:
            log_b = tl.load(b_ptr + place, mask=column_in, other=float("-inf"))
            u = tl.where(log_b > float("-inf"), g + log_b, float("-inf"))
            score = u[None, :] - kappa * cost
            new_top = tl.maximum(top, tl.max(score, 1))
            # A row without columns so far: -inf - -inf would be NaN.
            reference = tl.where(new_top == float("-inf"), 0.0, new_top)
            plan = tl.exp2(score - reference[:, None])
            rescale = tl.exp2(top - reference)
            total = total * rescale + tl.sum(plan, 1)
            top = new_top
            if VECTOR:
                out *= rescale
            else:
                out *= rescale[:, None]
        else:
            # A masked column has b = 0 whatever its potential.
            b = tl.load(b_ptr + place, mask=column_in, other=0.0)
            density = tl.exp2((f[:, None] + g[None, :]) - kappa * cost)
            plan = tl.where(b[None, :] > 0, b[None, :] * density, 0.0)
            if MODE == WEIGHTED:
                weight = products(
                    left, right_ptr + place * stride_r, row_in, column_in, left_first, stride_r,
                    PRECISION, False, BLOCK_M, BLOCK_N, BLOCK_D,
                )  # fmt: skip
                beta = tl.load(beta_ptr + place, mask=column_in, other=0.0)
                plan *= weight + (alpha[:, None] + beta[None, :])
            if not VECTOR:
                total += tl.sum(plan, 1)
        if VECTOR:
            value = tl.load(value_ptr + place, mask=column_in, other=0.0)
            out += tl.sum(plan * value[None, :], 1)
        else:
            values = tl.load(
                value_ptr + place[:, None] * stride + output[None, :],
                mask=column_in[:, None] & (output[None, :] < stride), other=0.0,
            )  # fmt: skip
            out = tl.dot(plan, values, out, input_precision=PRECISION)

    own = batch * n + rows
    if MODE == CONDITIONAL:
        inverse = 1.0 / tl.where(total > 0, total, 1.0)
        if VECTOR:
            out *= inverse
        else:
            out *= inverse[:, None]
    elif not VECTOR and tl.program_id(1) == 0:
        tl.store(sum_ptr + own, total, mask=row_in)
    if VECTOR:
        tl.store(output_ptr + own, out, mask=row_in)
    else:
        inside = row_in[:, None] & (output[None, :] < stride)
        tl.store(output_ptr + own[:, None] * stride + output[None, :], out, mask=inside)


class PlanLaunch(NamedTuple):
    """A launch configuration; ``block_o`` is the block of the values' columns."""

    block_m: int
    block_n: int
    block_d: int
    block_o: int
    warps: int
    stages: int


#: Fixed configurations by (kind of arithmetic, values, number of rows); no register spills on
#: compute capability 8.0, 9.0 and 10.0.
TABLE = {
    ("half", "vector", "few"): PlanLaunch(16, 64, 64, 1, 4, 3),
    ("half", "vector", "many"): PlanLaunch(64, 64, 64, 1, 8, 3),
    ("half", "wide", "few"): PlanLaunch(16, 64, 64, 64, 4, 2),
    ("half", "wide", "many"): PlanLaunch(32, 32, 64, 64, 4, 2),
    ("half/root", "vector", "few"): PlanLaunch(16, 64, 64, 1, 4, 2),
    ("half/root", "vector", "many"): PlanLaunch(64, 32, 64, 1, 8, 2),
    ("half/root", "wide", "few"): PlanLaunch(16, 64, 64, 64, 4, 2),
    ("half/root", "wide", "many"): PlanLaunch(32, 32, 64, 32, 4, 1),
    ("float", "vector", "few"): PlanLaunch(16, 64, 32, 1, 4, 2),
    ("float", "vector", "many"): PlanLaunch(64, 32, 32, 1, 8, 2),
    ("float", "wide", "few"): PlanLaunch(16, 64, 32, 64, 4, 2),
    ("float", "wide", "many"): PlanLaunch(64, 32, 32, 64, 8, 1),
    ("float/root", "vector", "few"): PlanLaunch(16, 64, 32, 1, 4, 2),
    ("float/root", "vector", "many"): PlanLaunch(32, 32, 32, 1, 4, 2),
    ("float/root", "wide", "few"): PlanLaunch(16, 64, 32, 64, 4, 2),
    ("float/root", "wide", "many"): PlanLaunch(32, 32, 32, 32, 4, 1),
    ("l1", "vector", "few"): PlanLaunch(16, 64, 16, 1, 4, 1),
    ("l1", "vector", "many"): PlanLaunch(32, 64, 16, 1, 4, 1),
    ("l1", "wide", "few"): PlanLaunch(16, 64, 16, 64, 4, 1),
    ("l1", "wide", "many"): PlanLaunch(32, 32, 16, 64, 4, 1),
    ("float", "weighted", "few"): PlanLaunch(16, 64, 32, 64, 4, 2),
    ("float", "weighted", "many"): PlanLaunch(64, 32, 32, 32, 8, 1),
}
#: Up to this many rows in the whole batch the small tiles fill a GPU better than the large ones.
FEW_ROWS = 8192


class Weight(NamedTuple):
    """The factor :math:`p_i\\cdot q_j+\\alpha_i+\\beta_j` of the weighted variant, in float32."""

    left: Tensor  #: p ``(B, n, r)``
    right: Tensor  #: q ``(B, m, r)``
    alpha: Tensor  #: ``(B, n)``
    beta: Tensor  #: ``(B, m)``


class Applied(NamedTuple):
    """What a pass gives, float32: the sums of each row, and the values' weighted sums."""

    total: Tensor  #: ``(B, n)``; empty in the conditional variant and for vectors
    output: Tensor  #: ``(B, n, k)``, or ``(B, n)`` for vectors


def apply(
    rows: Cloud,
    columns: Cloud,
    problem: Problem,
    g: Tensor,
    values: Tensor,
    *,
    f: Tensor | None = None,
    b: Tensor | None = None,
    weight: Weight | None = None,
    active: Tensor | None = None,
) -> Applied:
    """The plan, relative to the rows' weights, applied to values; see the head of this file.

    Args:
        rows: The points of the result.
        columns: The points of the values, with their log-weights.
        problem: Cost, κ and label cost.
        g: Potential of the columns ``(B, m)``, float32, in units of ε/log2(e).
        values: ``(B, m, k)``, or ``(B, m)`` for a single column; float32.
        f: Potential of the rows ``(B, n)``; None is the conditional variant.
        b: Weights of the columns ``(B, m)``, float32; needed with ``f``.
        weight: That of the weighted variant.
        active: ``(B,)`` int32; the results of a problem with 0 are not computed, and anything.

    Raises:
        ValueError: The points are of different or other types, not contiguous, or too many; ``f``
            without ``b``; a weight with other points, costs or values.
    """
    x, y = rows.points, columns.points
    check_points(x, y)
    (batch, n, d), m = x.shape, y.shape[1]
    kind = kind_of(problem.cost, x.dtype)
    vector = values.dim() == 2
    mode = CONDITIONAL if f is None else PLAIN if weight is None else WEIGHTED
    if f is not None and b is None:
        raise ValueError("b must be given with f; got None")
    if weight is not None and (f is None or vector or kind != "float"):
        raise ValueError(
            "weight needs f, values (B, m, k), float32 points and the squared distance; got "
            f"f={f is not None}, values {tuple(values.shape)}, {x.dtype} and {problem.cost!r}"
        )
    shape = "weighted" if weight is not None else "vector" if vector else "wide"
    config = TABLE[kind, shape, "few" if batch * n <= FEW_ROWS else "many"]
    width = 1 if vector else values.shape[2]
    values = values.contiguous() if vector else pad_points(values)
    stride = 1 if vector else values.shape[2]
    block_d = fit_block(config.block_d, d)
    block_o = 1 if vector else fit_block(config.block_o, stride)
    if active is None:
        active = torch.ones(batch, dtype=torch.int32, device=x.device)
    left = right = alpha = beta = None
    if weight is not None:
        left, right = pad_points(weight.left), pad_points(weight.right)
        alpha, beta = weight.alpha.contiguous(), weight.beta.contiguous()
        block_d = config.block_d
    stride_r = 0 if left is None else left.shape[2]
    labelled = problem.label_kind > 0
    size = (batch, n) if vector else (batch, n, stride)
    output = torch.empty(size, dtype=torch.float32, device=x.device)
    total = output.new_empty((0,) if vector or f is None else (batch, n))
    grid = (batch * triton.cdiv(n, config.block_m), triton.cdiv(stride, block_o))
    plan_kernel[grid](
        readable(x), readable(y), None if f is None else f.contiguous(), g.contiguous(),
        columns.log_weight if b is None or f is None else b, rows.norm, columns.norm,
        rows.label if labelled else None, columns.label if labelled else None, problem.distance,
        problem.kappa, problem.price, left, right, alpha, beta, values, active, total, output,
        n, m, d, stride, stride_r, problem.scale, problem.classes,
        COST=COSTS[problem.cost], LABEL=problem.label_kind, SAME=problem.same, MODE=mode.value,
        VECTOR=vector, ONE_BLOCK=d <= block_d, PRECISION=PRECISION,
        BLOCK_M=config.block_m, BLOCK_N=config.block_n, BLOCK_D=block_d, BLOCK_O=block_o,
        num_warps=config.warps, num_stages=config.stages, enable_fp_fusion=True,
    )  # fmt: skip
    return Applied(total, output if vector else output[..., :width])


#: The cost to compile for each kind, and whether one block of coordinates holds them all.
_COMPILED = {
    "half": ("sqeuclidean", True),
    "half/root": ("euclidean", False),
    "float": ("sqeuclidean", True),
    "float/root": ("euclidean", False),
    "l1": ("l1", False),
}


def compilations() -> Iterator[Compilation]:
    """Every tabled configuration, the plain and the conditional variant of each."""
    for (kind, shape, rows), launch in TABLE.items():
        cost, one = _COMPILED[kind]
        modes = (WEIGHTED,) if shape == "weighted" else (PLAIN, CONDITIONAL)
        for mode in modes:
            label = MISMATCH.value if mode is WEIGHTED else DISTANCE.value
            absent = ("distance_ptr",) * (label == MISMATCH.value)
            absent += ("x_norm_ptr", "y_norm_ptr") * (kind == "l1")
            absent += ("f_ptr",) * (mode is CONDITIONAL)
            if mode is not WEIGHTED:
                absent += ("left_ptr", "right_ptr", "alpha_ptr", "beta_ptr")
            yield Compilation(
                f"plan/{kind}/{shape}/{rows}/{('plain', 'conditional', 'weighted')[mode.value]}",
                plan_kernel,
                signature(plan_kernel, point_type(kind), absent),
                {
                    "COST": COSTS[cost], "LABEL": label, "SAME": mode is not CONDITIONAL,
                    "MODE": mode.value, "VECTOR": shape == "vector", "ONE_BLOCK": one,
                    "PRECISION": PRECISION, "BLOCK_M": launch.block_m, "BLOCK_N": launch.block_n,
                    "BLOCK_D": launch.block_d, "BLOCK_O": launch.block_o,
                    **dict.fromkeys(absent),
                },
                launch.warps, launch.stages, kind != "l1" or shape != "vector", True,
            )  # fmt: skip
