r"""Anderson mixing of depth three with a safeguard, for a vector in registers.

For a fixed-point map :math:`x \mapsto x + F(x)` the next point is :math:`x + F - (\Delta X +
\Delta F)c`, where :math:`c` minimises :math:`|F - \Delta F\,c|_w` over the last three differences
of the points and of the steps (Walker, Ni 2011). The normal equations have three unknowns and are
solved by elimination, with a ridge in proportion to each difference's own size. A mixed point is
kept only if its residual is below twice the smallest one so far; else the iteration resumes with
the plain step from the point it came from, and the differences are forgotten. A mixed move is cut
to a radius, which doubles each time that a cut move proves right.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

from ucmkd.kernels.logarithms import places

#: Longest mixed move at first, in units of the plain one and of a factor e at least.
LEAP = tl.constexpr(3.0)
#: A mixed point may have this many times the smallest residual so far.
TOLERATED = tl.constexpr(2.0)
#: Largest sum of coefficients: dependent differences make them huge.
MODERATE = tl.constexpr(1e5)
RIDGE = tl.constexpr(4.8e-7)
TINY = tl.constexpr(1e-37)
ONE_NAT = tl.constexpr(1.4426950408889634)


@triton.jit
def add_six(a0, a1, a2, a3, a4, a5, b0, b1, b2, b3, b4, b5):
    """Six sums in one reduction, which costs little more than one."""
    return a0 + b0, a1 + b1, a2 + b2, a3 + b3, a4 + b4, a5 + b5


@triton.jit
def coefficients(m11, m12, m13, m22, m23, m33, r1, r2, r3, count):
    """The three coefficients, 0 for a difference that there is not yet."""
    d1 = m11 + (RIDGE * m11 + TINY)
    d2 = tl.where(count > 1, m22 + (RIDGE * m22 + TINY), 1.0)
    d3 = tl.where(count > 2, m33 + (RIDGE * m33 + TINY), 1.0)
    m12 = tl.where(count > 1, m12, 0.0)
    m13 = tl.where(count > 2, m13, 0.0)
    m23 = tl.where(count > 2, m23, 0.0)
    r2 = tl.where(count > 1, r2, 0.0)
    r3 = tl.where(count > 2, r3, 0.0)
    second, third = m12 / d1, m13 / d1
    d2 -= second * m12
    m23 -= second * m13
    r2 -= second * r1
    d3 -= third * m13
    r3 -= third * r1
    third = m23 / d2
    d3 -= third * m23
    r3 -= third * r2
    c3 = r3 / d3
    c2 = (r2 - m23 * c3) / d2
    c1 = (r1 - m12 * c2 - m13 * c3) / d1
    # Written so that a NaN is immoderate. Then the last difference alone, or none.
    moderate = tl.abs(c1) + tl.abs(c2) + tl.abs(c3) <= MODERATE
    single = r1 / (m11 + TINY)
    single = tl.where(tl.abs(single) <= MODERATE, single, 0.0)
    return (
        tl.where(moderate, c1, single),
        tl.where(moderate, c2, 0.0),
        tl.where(moderate, c3, 0.0),
    )


@triton.jit
def mix(
    step, weight, residual, plain, late,
    memory_ptr,  # [8, BLOCK]: the last move, its plain step, and three differences of both kinds
    state_ptr,  # [8]: products of the differences, radius, and four small counts
    mixed, best, BLOCK: tl.constexpr,
):  # fmt: skip
    """The move to make for the plain step ``step``, whether it is a mixed one, and the smallest
    residual. ``plain`` forbids a mixed move; flags are int32 scalars. All the rest of the state
    stays in memory: it would fill the registers all through the iteration."""
    index = places(late, BLOCK)
    steps_ptr, both_ptr = memory_ptr + 2 * BLOCK + index, memory_ptr + 5 * BLOCK + index
    head = tl.load(state_ptr + 4).to(tl.int32)
    moved = tl.load(memory_ptr + index)
    kept = tl.load(memory_ptr + BLOCK + index)
    older, oldest = head * BLOCK, (head + 1) % 3 * BLOCK
    step2, step3 = tl.load(steps_ptr + older), tl.load(steps_ptr + oldest)
    both2, both3 = tl.load(both_ptr + older), tl.load(both_ptr + oldest)

    m11, m12, m22 = tl.load(state_ptr), tl.load(state_ptr + 1), tl.load(state_ptr + 2)
    radius = tl.load(state_ptr + 3)
    count = tl.load(state_ptr + 5).to(tl.int32)
    started = tl.load(state_ptr + 6).to(tl.int32)
    shortened = tl.load(state_ptr + 7).to(tl.int32)
    refused = (mixed != 0) & ((residual < TOLERATED * best) == 0)
    known = (started != 0) & (refused == 0)
    longer = tl.where((mixed & shortened) != 0, 2.0 * radius, radius)
    radius = tl.where(refused, tl.maximum(radius / 2.0, LEAP), longer)
    best = tl.where(refused, best, tl.minimum(best, residual))
    # The window moves on by one, unless there is nothing to remember.
    change = step - kept
    both = change + moved
    m33, m23, m22 = m22, m12, m11
    m11, m12, m13, r1, r2, r3 = tl.reduce(
        (weight * change * change, weight * change * step2, weight * change * step3,
         weight * change * step, weight * step2 * step, weight * step3 * step),
        0, add_six,
    )  # fmt: skip
    count = tl.where(known, tl.minimum(count + 1, 3), 0)
    c1, c2, c3 = coefficients(m11, m12, m13, m22, m23, m33, r1, r2, r3, count)
    # What was never remembered is no number.
    leap = step - (
        c1 * both + tl.where(count > 1, c2 * both2, 0.0) + tl.where(count > 2, c3 * both3, 0.0)
    )
    most = radius * tl.maximum(tl.max(tl.abs(step), 0), ONE_NAT)
    length = tl.max(tl.abs(leap), 0)
    cut = length > most
    leap = tl.where(cut, step + (most / length) * (leap - step), leap)
    may = known & (plain == 0)
    # From a refused point back, and on by the plain step from where it came.
    move = tl.where(refused, kept - moved, tl.where(may, leap, step))
    head = (head + 2) % 3
    tl.debug_barrier()
    tl.store(memory_ptr + index, tl.where(refused, kept, move))
    tl.store(memory_ptr + BLOCK + index, tl.where(refused, kept, step))
    tl.store(steps_ptr + head * BLOCK, change)
    tl.store(both_ptr + head * BLOCK, both)
    tl.store(state_ptr, m11)
    tl.store(state_ptr + 1, m12)
    tl.store(state_ptr + 2, m22)
    tl.store(state_ptr + 3, radius)
    tl.store(state_ptr + 4, head.to(tl.float32))
    tl.store(state_ptr + 5, count.to(tl.float32))
    tl.store(state_ptr + 6, 1.0)
    tl.store(state_ptr + 7, (may & cut).to(tl.float32))
    tl.debug_barrier()
    return move, may.to(tl.int32), best


@triton.jit
def start(state_ptr):
    """The state before the first step."""
    for k in tl.static_range(8):
        tl.store(state_ptr + k, LEAP if k == 3 else 0.0)


@triton.jit
def forget(state_ptr):
    """No differences, and no step to take one from."""
    tl.debug_barrier()
    tl.store(state_ptr + 5, 0.0)
    tl.store(state_ptr + 6, 0.0)
    tl.debug_barrier()
