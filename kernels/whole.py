r"""The whole Sinkhorn problem in one launch: one program a problem, and one for each self-term.

The program computes its cost tile once, leaves it in memory that only it uses (and that stays in
the caches), and runs all iterations in registers: the stopping test, the acceleration, the value,
the marginals and the gradients included. Nothing waits for the host. It works in units of
:math:`\varepsilon/\log_2 e`.

The loop is in ``iterate.py``, gradients in ``emission.py``.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import triton
import triton.language as tl

from ucmkd.kernels.compilation import Compilation
from ucmkd.kernels.emission import class_masses, emit
from ucmkd.kernels.ground import MATRIX, ground_cost, label_tile, matrix_tile
from ucmkd.kernels.iterate import iterate
from ucmkd.kernels.logarithms import CAP, log_sum, relaxed
from ucmkd.kernels.softmin import COSTS, LOG2E

LN2 = tl.constexpr(0.6931471805599453)
EPSILON = tl.constexpr(1.1920929e-07)
#: Below this a mean cost is no scale: the root of the smallest normal number.
NO_SCALE = tl.constexpr(1.0842022e-19)


@triton.jit
def pick(term, cross, first, second, TERMS: tl.constexpr):
    """What belongs to this program's term."""
    if TERMS > 1:
        if term == 1:
            cross = first
        elif term == 2:
            cross = second
    return cross


@triton.jit(do_not_specialize=["batch", "n", "m", "classes_x", "classes_y", "max_iter"])
def whole_kernel(
    x_ptr, y_ptr, a_ptr, b_ptr, x_label_ptr, y_label_ptr, distance_ptr,
    start_ptr, x_start_ptr, y_start_ptr,
    epsilon_ptr, reach_x_ptr, reach_y_ptr, label_cost_ptr,
    f_ptr, g_ptr, row_ptr, column_ptr, x_gradient_ptr, y_gradient_ptr,
    f1_ptr, g1_ptr, row1_ptr, column1_ptr, gradient1_ptr,
    f2_ptr, g2_ptr, row2_ptr, column2_ptr, gradient2_ptr,
    numbers_ptr,  # [terms, 5, batch]: value, residual, scale, transport, mismatch
    iterations_ptr, converged_ptr,  # [terms, batch]
    class_mass_ptr,  # [terms, batch, classes_x, classes_y]
    scratch_ptr,  # [terms * batch, 2 BLOCK² + 14 BLOCK]
    batch, n, m, d, classes_x, classes_y, stride_b, stride_i, stride_j, tol, max_iter,
    COST: tl.constexpr, NORMALISED: tl.constexpr, CENTRED: tl.constexpr, TERMS: tl.constexpr,
    HAS_LABEL: tl.constexpr, HAS_DISTANCE: tl.constexpr, WANT_CLASSES: tl.constexpr,
    WANT_X: tl.constexpr, WANT_Y: tl.constexpr, RELATIVE: tl.constexpr, WARM: tl.constexpr,
    X_WARM: tl.constexpr, Y_WARM: tl.constexpr, ACCELERATE: tl.constexpr,
    FIRST: tl.constexpr, SECOND: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: one problem of one term. Terms: the cross one, then those of FIRST, SECOND
    (1 is x with itself, 2 is y with itself)."""
    program = tl.program_id(0)
    problem = (program % batch).to(tl.int64)
    place = program // batch
    term = 0
    if TERMS == 2:
        term = tl.where(place == 1, FIRST, 0)
    if TERMS == 3:
        term = place
    own = term > 0

    index = tl.arange(0, BLOCK)
    x_ptr += problem * (stride_b if COST == MATRIX else n.to(tl.int64) * d)
    y_ptr += problem * m.to(tl.int64) * d
    a_ptr += problem * n
    b_ptr += problem * m
    epsilon = tl.load(epsilon_ptr + problem)
    reach_x = tl.load(reach_x_ptr + problem)
    reach_y = tl.load(reach_y_ptr + problem)
    price = 0.0
    if HAS_LABEL:
        price = tl.load(label_cost_ptr + problem)
        x_label_ptr += problem * n
        y_label_ptr += problem * m

    scratch_ptr += program.to(tl.int64) * (2 * BLOCK * BLOCK + 14 * BLOCK)
    norm_ptr = scratch_ptr + 2 * BLOCK * BLOCK
    memory_ptr = norm_ptr + 6 * BLOCK
    # The cost tile: rows q (x, or the cloud of a self-term), columns p, whose potential is the
    # state: a thread holds few columns. A self-term in units of the mean cross cost computes the
    # cross tile first.
    scale = 1.0
    tile = tl.zeros([BLOCK, BLOCK], tl.float32)
    first_pass = 0
    passes = 1
    if TERMS > 1:
        passes = tl.where(own, 2, 1)
        if not RELATIVE:
            first_pass = tl.where(own, 1, 0)
    p_ptr, q_ptr, pw_ptr, qw_ptr, p_count, q_count = y_ptr, x_ptr, b_ptr, a_ptr, m, n
    for step in range(first_pass, passes):
        if TERMS > 1:
            if (step == 1) & (term == 1):
                p_ptr, pw_ptr, p_count = x_ptr, a_ptr, n
            if (step == 1) & (term == 2):
                q_ptr, qw_ptr, q_count = y_ptr, b_ptr, m
        pw = tl.load(pw_ptr + index, mask=index < p_count, other=0.0)
        qw = tl.load(qw_ptr + index, mask=index < q_count, other=0.0)
        if COST == MATRIX:
            tile = matrix_tile(
                q_ptr, index, index, index < q_count, index < p_count, stride_i, stride_j
            )
        else:
            tile, q_norm, p_norm = ground_cost(
                q_ptr, p_ptr, index, index, index < q_count, index < p_count, qw, pw, d,
                step == 1, COST, NORMALISED, CENTRED, BLOCK, BLOCK_D,
            )  # fmt: skip
            tl.store(norm_ptr + index, q_norm)
            tl.store(norm_ptr + BLOCK + index, p_norm)
        if RELATIVE:  # noqa: SIM102 (one constant, one number of the device)
            if step == 0:
                both = tl.sum(pw, 0) * tl.sum(qw, 0)
                mean = tl.sum(qw * tl.sum(tile * pw[None, :], 1), 0) / both
                # Written so that a NaN stays one.
                scale = tl.where(mean < NO_SCALE, 1.0, mean)
    p_in = index < p_count
    q_in = index < q_count
    pw = tl.load(pw_ptr + index, mask=p_in, other=0.0)
    qw = tl.load(qw_ptr + index, mask=q_in, other=0.0)
    epsilon *= scale
    reach_x *= scale
    reach_y *= scale
    price *= scale
    p_reach = reach_y
    q_reach = reach_x
    if TERMS > 1:
        p_reach = tl.where(term == 1, reach_x, reach_y)
        q_reach = tl.where(term == 2, reach_y, reach_x)
    kappa = LOG2E / epsilon
    if HAS_LABEL:
        p_label_ptr = pick(term, y_label_ptr, x_label_ptr, y_label_ptr, TERMS)
        q_label_ptr = pick(term, x_label_ptr, x_label_ptr, y_label_ptr, TERMS)
        p_label = tl.load(p_label_ptr + index, mask=p_in, other=0)
        q_label = tl.load(q_label_ptr + index, mask=q_in, other=0)
        tile += price * label_tile(q_label, p_label, distance_ptr, classes_y, HAS_DISTANCE, BLOCK)
    cells = scratch_ptr + index[:, None] * BLOCK + index[None, :]
    tl.store(cells, kappa * tile)
    tl.debug_barrier()

    # The iteration.
    p_mass, q_mass = tl.sum(pw, 0), tl.sum(qw, 0)
    p_rate, q_rate = epsilon / p_reach, epsilon / q_reach
    # 1 - τ = ε/(ρ+ε)
    p_rest, q_rest = epsilon / (p_reach + epsilon), epsilon / (q_reach + epsilon)
    stiffness = p_rate + q_rate
    base = tl.zeros([BLOCK], tl.float32)
    if WARM or X_WARM or Y_WARM:
        if term == 0:
            if WARM:
                base = kappa * tl.load(start_ptr + problem * m + index, mask=p_in, other=0.0)
                mean = tl.sum(pw * base, 0) / p_mass
                base -= tl.where(stiffness == 0, mean, 0.0)
                far = LN2 * tl.max(tl.where(pw > 0, tl.abs(base), 0.0), 0)
                # A start that would drown the cost in rounding error is none.
                base = tl.where(far * EPSILON < 0.01, base, 0.0)
        elif term == 1:
            if X_WARM:
                base = kappa * tl.load(x_start_ptr + problem * n + index, mask=p_in, other=0.0)
        else:
            if Y_WARM:
                base = kappa * tl.load(y_start_ptr + problem * m + index, mask=p_in, other=0.0)
    g, f, mass, residual, iterations = iterate(
        base, pw, qw, pw_ptr, qw_ptr, cells, memory_ptr, p_count, q_count, p_rate, q_rate,
        p_rest, q_rest, own, tol, max_iter, ACCELERATE, BLOCK,
    )  # fmt: skip
    if own:
        f = g
    else:
        # Balanced: f and g are known up to a constant; share it equally.
        gauge = (tl.sum(pw * g, 0) / p_mass - tl.sum(qw * f, 0) / q_mass) / 2
        gauge = tl.where(stiffness > 0, 0.0, gauge)
        f += gauge
        g -= gauge
    # Nothing depends on the potential of a masked point: it gets that of the other side's end.
    masked = tl.max((p_in & (pw == 0)).to(tl.int32), 0) + tl.max((q_in & (qw == 0)).to(tl.int32), 0)
    tile = tl.load(cells)
    if masked > 0:
        p_log, q_log = tl.log2(pw), tl.log2(qw)
        ends = -(1.0 - q_rest) * log_sum((g + p_log)[None, :] - tile, 1)
        f = tl.where(qw > 0, f, ends)
        ends = -(1.0 - p_rest) * log_sum((f + q_log)[:, None] - tile, 0)
        g = tl.where(pw > 0, g, ends)

    # The plan, and what is said of it. Between masked points nothing depends on the density.
    density = tl.exp2(tl.minimum((f[:, None] + g[None, :]) - tile, CAP))
    density = tl.where((qw > 0)[:, None] | (pw > 0)[None, :], density, 0.0)
    q_sum = tl.sum(density * pw[None, :], 1)
    p_sum = tl.sum(density * qw[:, None], 0)
    plan = qw[:, None] * density * pw[None, :]
    tl.debug_barrier()
    transport = tl.sum(tl.sum(plan * tl.load(cells), 1), 0) / kappa
    # By way of memory from here on: several tiles at once would not fit the registers.
    plan_cells = cells + BLOCK * BLOCK
    tl.store(plan_cells, plan)
    tl.debug_barrier()
    mismatch = 0.0
    if HAS_LABEL:
        p_label = tl.load(p_label_ptr + index, mask=p_in, other=0)
        q_label = tl.load(q_label_ptr + index, mask=q_in, other=0)
        different = label_tile(q_label, p_label, distance_ptr, classes_y, HAS_DISTANCE, BLOCK)
        mismatch = tl.sum(tl.sum(tl.load(plan_cells) * different, 1), 0)
    f /= kappa
    g /= kappa
    p_term = tl.where(pw > 0, pw * relaxed(g, p_reach), 0.0)
    q_term = tl.where(qw > 0, qw * relaxed(f, q_reach), 0.0)
    value = tl.sum(p_term, 0) + tl.sum(q_term, 0) - epsilon * (mass - p_mass * q_mass)
    to_f = pick(term, f_ptr, f1_ptr, f2_ptr, TERMS) + problem * q_count
    to_g = pick(term, g_ptr, g1_ptr, g2_ptr, TERMS) + problem * p_count
    to_row = pick(term, row_ptr, row1_ptr, row2_ptr, TERMS) + problem * q_count
    to_column = pick(term, column_ptr, column1_ptr, column2_ptr, TERMS) + problem * p_count
    tl.store(to_f + index, f, mask=q_in)
    tl.store(to_g + index, g, mask=p_in)
    tl.store(to_row + index, q_sum, mask=q_in)
    tl.store(to_column + index, p_sum, mask=p_in)
    numbers_ptr += place * 5 * batch + problem
    tl.store(numbers_ptr, value)
    tl.store(numbers_ptr + batch, residual)
    tl.store(numbers_ptr + 2 * batch, scale)
    tl.store(numbers_ptr + 3 * batch, transport)
    tl.store(numbers_ptr + 4 * batch, mismatch)
    tl.store(iterations_ptr + program, iterations.to(tl.int64))
    tl.store(converged_ptr + program, residual <= tol)

    if WANT_CLASSES:
        class_masses(
            scratch_ptr + BLOCK * BLOCK, index, p_label_ptr, p_count, q_label,
            class_mass_ptr + program.to(tl.int64) * classes_x * classes_y, classes_x, classes_y,
            BLOCK, BLOCK_K,
        )  # fmt: skip
    if COST == MATRIX:
        if WANT_X:
            tl.store(
                x_gradient_ptr + problem * n * m + index[:, None] * m + index[None, :],
                plan, mask=q_in[:, None] & p_in[None, :],
            )  # fmt: skip
    elif WANT_X or WANT_Y:
        first_side = 0 if WANT_X else 1
        last_side = 2 if WANT_Y else 1
        if TERMS > 1:
            wanted_own = ((term == 1) & WANT_X) | ((term == 2) & WANT_Y)
            first_side = tl.where(own, tl.where(wanted_own, 0, 1), first_side)
            last_side = tl.where(own, 1, last_side)
        q_out = pick(term, x_gradient_ptr, gradient1_ptr, gradient2_ptr, TERMS)
        distance = tl.load(cells) / kappa
        if HAS_LABEL:
            different = label_tile(q_label, p_label, distance_ptr, classes_y, HAS_DISTANCE, BLOCK)
            distance -= price * different
        emit(
            tl.load(plan_cells), distance, q_ptr, p_ptr,
            q_out + problem * q_count * d, y_gradient_ptr + problem * m * d, norm_ptr, scratch_ptr,
            q_count, p_count, qw_ptr, pw_ptr, d, own, first_side, last_side,
            COST, NORMALISED, CENTRED, BLOCK, BLOCK_O, BLOCK_K,
        )  # fmt: skip


class Launch(NamedTuple):
    """A launch configuration: block of coordinates of the cost and of the gradient, block of
    points in the gradient's sum, warps, pipeline stages."""

    block_d: int
    block_o: int
    block_k: int
    warps: int
    stages: int


#: Fixed configurations by (kind of arithmetic, block of points).
TABLE = {
    ("half", 16): Launch(32, 32, 16, 1, 1),
    ("half", 32): Launch(32, 32, 16, 4, 1),
    ("half", 64): Launch(32, 32, 16, 8, 1),
    ("half", 128): Launch(32, 32, 16, 8, 1),
    ("float", 16): Launch(32, 32, 16, 1, 1),
    ("float", 32): Launch(32, 32, 16, 4, 1),
    ("float", 64): Launch(16, 16, 16, 8, 1),
    ("float", 128): Launch(16, 16, 16, 8, 1),
    ("l1", 16): Launch(16, 32, 16, 1, 1),
    ("l1", 32): Launch(16, 32, 16, 2, 1),
    ("l1", 64): Launch(16, 32, 16, 4, 1),
    ("l1", 128): Launch(16, 32, 16, 8, 1),
    ("matrix", 16): Launch(16, 16, 16, 1, 1),
    ("matrix", 32): Launch(16, 16, 16, 2, 1),
    ("matrix", 64): Launch(16, 16, 16, 4, 1),
    ("matrix", 128): Launch(16, 16, 16, 8, 1),
}
#: Blocks of points, ascending.
BLOCKS = (16, 32, 64, 128)


def block_of(points: int) -> int:
    """The smallest block that holds so many points."""
    return next(block for block in BLOCKS if points <= block)


def scratch_size(block: int) -> int:
    """Numbers of working memory for each program: two tiles and fourteen vectors."""
    return 2 * block * block + 14 * block


POINTERS = {
    "x_label_ptr": "*i64", "y_label_ptr": "*i64", "iterations_ptr": "*i64", "converged_ptr": "*i1",
}  # fmt: skip
NUMBERS = {"tol": "fp32", "stride_b": "i64", "stride_i": "i64", "stride_j": "i64"}


def compilations() -> Iterator[Compilation]:
    """Every tabled configuration, with all there is to compute switched on."""
    costs = {
        "half": ("sqeuclidean", "euclidean"), "float": ("sqeuclidean", "euclidean"),
        "l1": ("l1",), "matrix": ("matrix",),
    }  # fmt: skip
    for (kind, block), launch in TABLE.items():
        points = "*bf16" if kind == "half" else "*fp32"
        signature = {
            name: POINTERS.get(name, points if name in ("x_ptr", "y_ptr") else "*fp32")
            if name.endswith("_ptr") else NUMBERS.get(name, "i32")
            for name in whole_kernel.arg_names if not name.isupper()
        }  # fmt: skip
        for cost, normalised in product(costs[kind], (False, True)):
            if normalised and kind in ("l1", "matrix"):
                continue
            matrix = kind == "matrix"
            constants: dict[str, Any] = dict(
                COST=MATRIX if matrix else COSTS[cost], NORMALISED=normalised,
                CENTRED=kind == "float" and not normalised, TERMS=1 if matrix else 3,
                HAS_LABEL=not matrix, HAS_DISTANCE=not matrix, WANT_CLASSES=not matrix,
                WANT_X=True, WANT_Y=not matrix, RELATIVE=True, WARM=True, X_WARM=not matrix,
                Y_WARM=not matrix, ACCELERATE=True, FIRST=1, SECOND=2, BLOCK=block,
                BLOCK_D=launch.block_d, BLOCK_O=launch.block_o, BLOCK_K=launch.block_k,
            )  # fmt: skip
            yield Compilation(
                f"whole/{kind}/{cost}{'-normalised' if normalised else ''}/{block}", whole_kernel,
                signature, constants, launch.warps, launch.stages,
                tensor_cores=kind in ("half", "float"), exponentials=True,
            )  # fmt: skip
