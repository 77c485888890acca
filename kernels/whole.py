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
from enum import IntFlag
from itertools import product
from typing import Any, NamedTuple

import triton
import triton.language as tl

from ucmkd.kernels.compilation import Compilation
from ucmkd.kernels.emission import class_masses, emit, fill_masked, plan_of
from ucmkd.kernels.ground import MATRIX, ground_cost, label_tile, matrix_tile
from ucmkd.kernels.iterate import iterate
from ucmkd.kernels.logarithms import places, relaxed
from ucmkd.kernels.term import label_pointers, parameters, pick, sides
from ucmkd.kernels.tiles import COSTS, DISTANCE, LOG2E, NO_LABEL, PRECISION

LN2 = tl.constexpr(0.6931471805599453)
EPSILON = tl.constexpr(1.1920929e-07)
#: Below this a mean cost is no scale: the root of the smallest normal number.
NO_SCALE = tl.constexpr(1.0842022e-19)


@triton.jit(
    do_not_specialize=[
        "batch", "n", "m", "classes_x", "classes_y", "stride_b", "stride_i", "stride_j", "max_iter",
        "terms", "flags",
    ]
)  # fmt: skip
def whole_kernel(
    x_ptr, y_ptr, a_ptr, b_ptr, x_label_ptr, y_label_ptr, distance_ptr,
    start_ptr, x_start_ptr, y_start_ptr,
    epsilon_ptr, reach_x_ptr, reach_y_ptr, label_cost_ptr,
    f_ptr, g_ptr, row_ptr, column_ptr,  # one term after the other
    x_gradient_ptr, y_gradient_ptr, own_x_gradient_ptr, own_y_gradient_ptr,
    value_ptr, residual_ptr, scale_ptr, transport_ptr, mismatch_ptr,  # [terms, batch]
    iterations_ptr, converged_ptr,  # [terms, batch]
    class_mass_ptr,  # [terms, batch, classes_x, classes_y]
    scratch_ptr,  # [terms * batch, 2 BLOCK² + 18 BLOCK]
    batch, n, m, d, classes_x, classes_y, stride_b, stride_i, stride_j, tol, max_iter, terms, flags,
    COST: tl.constexpr, NORMALISED: tl.constexpr, CENTRED: tl.constexpr, LABEL: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_O: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: one problem of one term, which ``terms`` has as a digit of base 4: 0 is the
    cross term, 1 is x with itself, 2 is y with itself. ``flags``: see :class:`Flag`; less than 256,
    which only the caller knows."""
    program = tl.program_id(0)
    problem = (program % batch).to(tl.int64)
    place = program // batch
    term = (terms >> (2 * place)) & 3
    own = term > 0

    # Not known to be 0: so no loop over blocks of rows is unrolled.
    nothing = flags >> 8
    index = tl.arange(0, BLOCK)
    scratch_ptr += program.to(tl.int64) * (2 * BLOCK * BLOCK + 18 * BLOCK)
    vector_ptr = scratch_ptr + 2 * BLOCK * BLOCK
    potential_ptr = vector_ptr + 6 * BLOCK
    scale_slot = vector_ptr + 16 * BLOCK
    # Rows q (x, or the cloud of a self-term), columns p, whose potential is the state: a thread
    # holds few columns. A self-term in units of the mean cross cost computes the cross tile first.
    scale = tl.full([], 1.0, tl.float32)
    relative = (flags & 4) != 0
    first_pass = tl.where(own & (relative == 0), 1, 0)
    passes = tl.where(own, 2, 1)
    for step in range(first_pass, passes):
        p_ptr, pw_ptr, p_count, q_ptr, qw_ptr, q_count = sides(
            tl.where(step == 1, term, 0), problem, x_ptr, y_ptr, a_ptr, b_ptr, n, m, d, stride_b,
            COST,
        )  # fmt: skip
        pw = tl.load(pw_ptr + index, mask=index < p_count, other=0.0)
        same = own & ((step == 1) | (place == 0))
        total = tl.zeros([BLOCK], tl.float32)
        for first in range(0, BLOCK + nothing, ROWS):
            rows = first + tl.arange(0, ROWS)
            row_in = rows < q_count
            if COST == MATRIX:
                cost = matrix_tile(q_ptr, rows, index, row_in, index < p_count, stride_i, stride_j)
            else:
                cost, q_norm, p_norm = ground_cost(
                    q_ptr, p_ptr, rows, index, row_in, index < p_count, pw, d, same,
                    COST, NORMALISED, CENTRED, PRECISION, ROWS, BLOCK, BLOCK_D,
                )  # fmt: skip
                tl.store(vector_ptr + rows, q_norm)
                tl.store(vector_ptr + BLOCK + index, p_norm)
            weight = tl.load(qw_ptr + rows, mask=row_in, other=0.0)
            total += tl.sum(weight[:, None] * cost, 0)
            tl.store(scratch_ptr + BLOCK * BLOCK + rows[:, None] * BLOCK + index[None, :], cost)
        if relative & (step == 0):
            qw = tl.load(qw_ptr + index, mask=index < q_count, other=0.0)
            mean = tl.sum(pw * total, 0) / (tl.sum(pw, 0) * tl.sum(qw, 0))
            # Written so that a NaN stays one.
            scale = tl.where(mean < NO_SCALE, 1.0, mean)
        tl.debug_barrier()
    tl.store(scale_slot, scale)
    p_ptr, pw_ptr, p_count, q_ptr, qw_ptr, q_count = sides(
        term, problem, x_ptr, y_ptr, a_ptr, b_ptr, n, m, d, stride_b, COST
    )
    p_in = index < p_count
    q_in = index < q_count
    pw = tl.load(pw_ptr + index, mask=p_in, other=0.0)
    qw = tl.load(qw_ptr + index, mask=q_in, other=0.0)
    epsilon, p_reach, q_reach = parameters(
        term, problem, scale, epsilon_ptr, reach_x_ptr, reach_y_ptr
    )
    kappa = LOG2E / epsilon
    price = 0.0
    if LABEL != NO_LABEL:
        price = scale * tl.load(label_cost_ptr + problem)
        p_label_ptr, q_label_ptr = label_pointers(term, problem, x_label_ptr, y_label_ptr, n, m)
    for first in range(0, BLOCK + nothing, ROWS):
        rows = first + tl.arange(0, ROWS)
        cells = scratch_ptr + rows[:, None] * BLOCK + index[None, :]
        cost = tl.load(cells + BLOCK * BLOCK)
        if LABEL != NO_LABEL:
            q_label = tl.load(q_label_ptr + rows, mask=rows < q_count, other=0)
            p_label = tl.load(p_label_ptr + index, mask=p_in, other=0)
            cost += price * label_tile(q_label, p_label, distance_ptr, classes_y, LABEL)
        tl.store(cells, kappa * cost)
    tl.debug_barrier()

    # The iteration.
    p_mass, q_mass = tl.sum(pw, 0), tl.sum(qw, 0)
    p_rate, q_rate = epsilon / p_reach, epsilon / q_reach
    # 1 - τ = ε/(ρ+ε)
    p_rest, q_rest = epsilon / (p_reach + epsilon), epsilon / (q_reach + epsilon)
    stiffness = p_rate + q_rate
    base = tl.zeros([BLOCK], tl.float32)
    if ((flags >> (4 + term)) & 1) != 0:
        from_ptr = pick(
            term, start_ptr + problem * m, x_start_ptr + problem * n, y_start_ptr + problem * m
        )
        base = kappa * tl.load(from_ptr + index, mask=p_in, other=0.0)
        mean = tl.sum(pw * base, 0) / p_mass
        base -= tl.where((own == 0) & (stiffness == 0), mean, 0.0)
        far = LN2 * tl.max(tl.where(pw > 0, tl.abs(base), 0.0), 0)
        # A start that would drown the cost in rounding error is none.
        base = tl.where(far * EPSILON < 0.01, base, 0.0)
    g, mass, residual, iterations = iterate(
        base, pw, q_mass, pw_ptr, qw_ptr, scratch_ptr, potential_ptr, vector_ptr + 17 * BLOCK,
        potential_ptr + 2 * BLOCK, scale_slot + 1, p_count, q_count, p_rate, q_rate,
        p_rest, q_rest, own, tol, max_iter, (flags & 8) != 0, nothing, ROWS, BLOCK,
    )  # fmt: skip
    # All that was computed before the loop is computed once more: registers hold none of it.
    late = iterations * nothing
    program += late
    problem = (program % batch).to(tl.int64)
    place = program // batch
    term = (terms >> (2 * place)) & 3
    own = term > 0
    scale = tl.load(scale_slot)
    p_ptr, pw_ptr, p_count, q_ptr, qw_ptr, q_count = sides(
        term, problem, x_ptr, y_ptr, a_ptr, b_ptr, n, m, d, stride_b, COST
    )
    epsilon, p_reach, q_reach = parameters(
        term, problem, scale, epsilon_ptr, reach_x_ptr, reach_y_ptr
    )
    kappa = LOG2E / epsilon
    p_label_ptr, q_label_ptr = y_label_ptr, x_label_ptr
    if LABEL != NO_LABEL:
        p_label_ptr, q_label_ptr = label_pointers(term, problem, x_label_ptr, y_label_ptr, n, m)
    index = places(late, BLOCK)
    p_in = index < p_count
    q_in = index < q_count
    pw = tl.load(pw_ptr + index, mask=p_in, other=0.0)
    qw = tl.load(qw_ptr + index, mask=q_in, other=0.0)
    p_mass, q_mass = tl.sum(pw, 0), tl.sum(qw, 0)
    p_rest, q_rest = epsilon / (p_reach + epsilon), epsilon / (q_reach + epsilon)
    f = g
    if own == 0:
        f = tl.load(vector_ptr + 17 * BLOCK + index)
        # Balanced: f and g are known up to a constant; share it equally.
        gauge = (tl.sum(pw * g, 0) / p_mass - tl.sum(qw * f, 0) / q_mass) / 2
        gauge = tl.where(epsilon / p_reach + epsilon / q_reach > 0, 0.0, gauge)
        f += gauge
        g -= gauge
    p_term = tl.where(pw > 0, pw * relaxed(g / kappa, p_reach), 0.0)
    q_term = tl.where(qw > 0, qw * relaxed(f / kappa, q_reach), 0.0)
    value = tl.sum(p_term, 0) + tl.sum(q_term, 0) - epsilon * (mass - p_mass * q_mass)
    tl.store(potential_ptr + index, f)
    tl.store(potential_ptr + BLOCK + index, g)
    tl.debug_barrier()
    masked = tl.max((p_in & (pw == 0)).to(tl.int32), 0) + tl.max((q_in & (qw == 0)).to(tl.int32), 0)
    if masked > 0:
        fill_masked(
            scratch_ptr, potential_ptr, qw_ptr, pw_ptr, q_count, p_count, q_rest, p_rest,
            late, ROWS, BLOCK,
        )  # fmt: skip

    # Where the results of this term lie: the terms before it have so many rows and columns.
    q_place = problem * q_count
    p_place = problem * p_count
    for before in range(0, place):
        other = (terms >> (2 * before)) & 3
        q_place += batch.to(tl.int64) * tl.where(other == 2, m, n)
        p_place += batch.to(tl.int64) * tl.where(other == 1, n, m)
    p_sum, transport, mismatch = plan_of(
        scratch_ptr, potential_ptr, qw_ptr, pw_ptr, q_count, p_count, kappa,
        q_label_ptr, p_label_ptr, distance_ptr, classes_y, f_ptr + q_place, row_ptr + q_place,
        x_gradient_ptr + problem * n * m, tl.where((flags & 1) != 0, q_count, 0),
        late,        COST, LABEL, ROWS, BLOCK,
    )  # fmt: skip
    tl.store(g_ptr + p_place + index, tl.load(potential_ptr + BLOCK + index) / kappa, mask=p_in)
    tl.store(column_ptr + p_place + index, p_sum, mask=p_in)
    tl.store(value_ptr + program, value.to(tl.float64))
    tl.store(residual_ptr + program, residual.to(tl.float64))
    tl.store(scale_ptr + program, scale.to(tl.float64))
    tl.store(transport_ptr + program, transport.to(tl.float64))
    tl.store(mismatch_ptr + program, mismatch.to(tl.float64))
    tl.store(iterations_ptr + program, iterations.to(tl.int64))
    tl.store(converged_ptr + program, residual <= tol)

    if LABEL == DISTANCE:  # noqa: SIM102 (one constant, one number of the device)
        if (flags & 128) != 0:
            class_masses(
                scratch_ptr, q_label_ptr, p_label_ptr, q_count, p_count,
                class_mass_ptr + program.to(tl.int64) * classes_x * classes_y,
                classes_x, classes_y, late, PRECISION, BLOCK, BLOCK_K,
            )  # fmt: skip
            tl.debug_barrier()
    if COST != MATRIX:
        # The gradient to a side if it is wanted; of a self-term that to the rows.
        first_side = tl.where(own, 0, 1 - (flags & 1))
        last_side = tl.where(own, (flags >> tl.where(own, term - 1, 0)) & 1, 1 + ((flags >> 1) & 1))
        if first_side < last_side:
            q_out = pick(term, x_gradient_ptr, own_x_gradient_ptr, own_y_gradient_ptr)
            emit(
                scratch_ptr, vector_ptr, q_ptr, p_ptr, q_out + problem * q_count * d,
                y_gradient_ptr + problem * m * d, qw_ptr, pw_ptr, q_count, p_count, d, late,
                own, first_side, last_side,
                COST, NORMALISED, CENTRED, PRECISION, ROWS, BLOCK, BLOCK_O, BLOCK_K,
            )  # fmt: skip


class Flag(IntFlag):
    """What a launch computes; the kernel has the numbers."""

    X = 1  #: the gradients to x
    Y = 2  #: the gradients to y
    RELATIVE = 4  #: parameters in units of the mean cost
    ACCELERATE = 8
    START = 16  #: a start of the cross term
    X_START = 32
    Y_START = 64
    CLASSES = 128  #: the plan's mass between the classes


class Launch(NamedTuple):
    """A launch configuration: rows of the cost at a time, block of coordinates of the cost and of
    the gradient, block of points in the gradient's sum, warps, pipeline stages."""

    rows: int
    block_d: int
    block_o: int
    block_k: int
    warps: int
    stages: int


#: Fixed configurations by (kind of arithmetic, block of points), without spills. Smaller blocks
#: would cost further compilations, and gain little where one program is a whole problem.
TABLE = {
    ("half", 64): Launch(32, 32, 32, 16, 8, 1),
    ("half", 128): Launch(16, 16, 32, 16, 8, 1),
    ("float", 64): Launch(32, 32, 32, 16, 8, 1),
    ("float", 128): Launch(16, 16, 32, 16, 8, 1),
    ("l1", 64): Launch(32, 16, 32, 16, 4, 1),
    ("l1", 128): Launch(32, 16, 32, 16, 8, 1),
    ("matrix", 64): Launch(32, 16, 16, 16, 4, 1),
    ("matrix", 128): Launch(32, 16, 16, 16, 8, 1),
}
#: Blocks of points, ascending.
BLOCKS = (64, 128)


def block_of(points: int) -> int:
    """The smallest block that holds so many points."""
    return next(block for block in BLOCKS if points <= block)


def scratch_size(block: int) -> int:
    """Numbers of working memory for each program: two tiles and eighteen vectors."""
    return 2 * block * block + 18 * block


POINTERS = {
    "x_label_ptr": "*i64", "y_label_ptr": "*i64", "iterations_ptr": "*i64", "converged_ptr": "*i1",
    **{f"{name}_ptr": "*fp64" for name in ("value", "residual", "scale", "transport", "mismatch")},
}  # fmt: skip
NUMBERS = {"tol": "fp32", "stride_b": "i64", "stride_i": "i64", "stride_j": "i64"}


def compilations() -> Iterator[Compilation]:
    """Every tabled configuration with every cost, and the dearest label cost that it can have."""
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
                CENTRED=kind == "float" and not normalised,
                LABEL=NO_LABEL if matrix else DISTANCE, PRECISION=PRECISION,
                ROWS=launch.rows, BLOCK=block,
                BLOCK_D=launch.block_d, BLOCK_O=launch.block_o, BLOCK_K=launch.block_k,
            )  # fmt: skip
            yield Compilation(
                f"whole/{kind}/{cost}{'-normalised' if normalised else ''}/{block}", whole_kernel,
                signature, constants, launch.warps, launch.stages,
                tensor_cores=kind in ("half", "float"), exponentials=True,
            )  # fmt: skip
