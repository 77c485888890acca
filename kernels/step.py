r"""What an iteration does with its half-steps: residual, translation, acceleration, flags.

One program a problem. With potentials in units of :math:`\varepsilon/\log_2e`, the change
:math:`\delta_j` of the columns' potential that solves them exactly, and
:math:`q=\varepsilon/\rho` for each side (0 where the marginal is strict), the loop of
:mod:`ucmkd.reference` has

.. math::
    \text{residual} = \sum_j b_j\,|2^{-\delta_j} - 2^{-q_y\gamma_j}| \Big/ \sum_j b_j,\qquad
    \gamma'_j = \frac{\gamma_j+\delta_j}{1+q_y} - t,\qquad
    t = \frac{\log_2\sum_i a_i2^{-q_x\phi_i} - \log_2\sum_j b_j2^{-q_y(\gamma_j+\delta_j)/(1+q_y)}}
             {q_x+q_y},

the last one the translation that maximises the dual (Sejourne, Vialard, Peyre 2022; 0 for two
strict marginals). A problem whose residual is at most ``tol`` is done: its flag goes to 0, and
every kernel leaves it as it is from then on.

The next point is Anderson's (Walker, Ni 2011): for the step :math:`F=\gamma'-\gamma` it is
:math:`\gamma+F-\sum_k c_k(\Delta\gamma_k+\Delta F_k)` with the :math:`c` that minimises
:math:`\sum_jb_j(F-\sum_kc_k\Delta F_k)_j^2` over the last differences. A point so found is kept
if its residual is below twice the smallest so far; else the plain step from the point before it
is taken, and the history dropped. Either way the result is :math:`\gamma'` of the last point,
never a mixed one.
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
from ucmkd.kernels.reduction import add_lane, coefficients, log_total
from ucmkd.kernels.tiles import LOG2E, signature

#: Differences remembered, and numbers of each problem's memory.
DEPTH = tl.constexpr(4)
MEMORY = tl.constexpr(32)
#: Places in the memory; the inner products of the differences follow from GRAM on.
BEST, NEXT, COUNT, MIXED, RADIUS, SHORTENED, MOVED = (tl.constexpr(i) for i in range(7))
GRAM = tl.constexpr(8)
#: Largest exponent of a mass so far from a solution that only its being large matters.
MOST = tl.constexpr(115.0)
#: A mixed point may have this many times the smallest residual so far.
TOLERATED = tl.constexpr(2.0)
#: Longest mixed move at first, in units of ε, and of the plain move if that is longer.
LEAP = tl.constexpr(3.0)


@triton.jit(do_not_specialize=["n", "m", "last"])
def step_kernel(
    f_ptr, g_ptr, change_ptr, end_ptr, log_a_ptr, b_ptr, ratio_x_ptr, ratio_y_ptr, active_ptr,
    iterations_ptr, residual_ptr, mass_ptr, shift_ptr, memory_ptr, history_ptr, n, m, tol, last,
    ACCELERATE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: all of one problem. ``last``: no mixed move, its point would not be tried."""
    batch = tl.program_id(0).to(tl.int64)
    if tl.load(active_ptr + batch) == 0:
        return
    ratio_x, ratio_y = tl.load(ratio_x_ptr + batch), tl.load(ratio_y_ptr + batch)
    tau = 1.0 / (1.0 + ratio_y)
    g_row, b_row, change_row = g_ptr + batch * m, b_ptr + batch * m, change_ptr + batch * m
    lanes = tl.arange(0, BLOCK)
    error = tl.zeros([BLOCK], tl.float32)
    weight = tl.zeros([BLOCK], tl.float32)
    top = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, m, BLOCK):
        j = start + lanes
        b = tl.load(b_row + j, mask=j < m, other=0.0)
        g = tl.load(g_row + j, mask=j < m, other=0.0)
        change = tl.load(change_row + j, mask=j < m, other=0.0)
        present = tl.exp2(tl.minimum(-change, MOST))
        wanted = tl.exp2(tl.minimum(-ratio_y * g, MOST))
        error += tl.where(b > 0, b * tl.abs(present - wanted), 0.0)
        weight += b
        exponent = tl.where(b > 0, tl.log2(b) - ratio_y * tau * (g + change), float("-inf"))
        top, total = add_lane(top, total, exponent)
    residual = tl.sum(error, 0) / tl.sum(weight, 0)
    log_mass = log_total(top, total)
    shift = 0.0
    if ratio_x + ratio_y > 0:
        top = tl.full([BLOCK], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK], tl.float32)
        for start in range(0, n, BLOCK):
            i = start + lanes
            log_a = tl.load(log_a_ptr + batch * n + i, mask=i < n, other=float("-inf"))
            f = tl.load(f_ptr + batch * n + i, mask=i < n, other=0.0)
            exponent = tl.where(log_a > float("-inf"), log_a - ratio_x * f, float("-inf"))
            top, total = add_lane(top, total, exponent)
        shift = (log_total(top, total) - log_mass) / (ratio_x + ratio_y)
    tl.store(residual_ptr + batch, residual)
    tl.store(mass_ptr + batch, tl.exp2(log_mass))
    tl.store(shift_ptr + batch, shift)
    tl.store(iterations_ptr + batch, tl.load(iterations_ptr + batch) + 1)
    tl.store(active_ptr + batch, (residual > tol).to(tl.int32))  # a NaN also ends here

    if ACCELERATE:
        memory = memory_ptr + batch * MEMORY
        kept_row = history_ptr + batch * (2 * DEPTH + 2) * m
        moved_row = kept_row + m
        index = tl.arange(0, DEPTH)
        step_rows = kept_row + (2 + index[:, None]).to(tl.int64) * m
        both_rows = step_rows + DEPTH * m
        best, mixed = tl.load(memory + BEST), tl.load(memory + MIXED) > 0
        radius = tl.load(memory + RADIUS)
        if mixed & ((residual < TOLERATED * best) == 0):
            for start in range(0, m, BLOCK):
                j = start + lanes
                g = tl.load(g_row + j, mask=j < m, other=0.0)
                change = tl.load(change_row + j, mask=j < m, other=0.0)
                b = tl.load(b_row + j, mask=j < m, other=0.0)
                step = tl.where(b > 0, tau * (change - ratio_y * g) - shift, 0.0)
                kept = tl.load(kept_row + j, mask=j < m, other=0.0)
                moved = tl.load(moved_row + j, mask=j < m, other=0.0)
                tl.store(end_ptr + batch * m + j, g + step, mask=j < m)
                tl.store(g_row + j, g + (kept - moved), mask=j < m)
                tl.store(moved_row + j, kept, mask=j < m)
            tl.store(memory + NEXT, 0.0)
            tl.store(memory + COUNT, 0.0)
            tl.store(memory + MIXED, 0.0)
            tl.store(memory + RADIUS, tl.maximum(radius / 2, LEAP))
        else:
            radius = tl.where(mixed & (tl.load(memory + SHORTENED) > 0), 2 * radius, radius)
            moved_before = tl.load(memory + MOVED) > 0
            slot = tl.load(memory + NEXT).to(tl.int32)
            count = tl.load(memory + COUNT).to(tl.int32)
            count = tl.minimum(count + moved_before.to(tl.int32), DEPTH)
            mine = index == tl.where(moved_before, slot, -1)
            dots = tl.zeros([DEPTH], tl.float32)
            right = tl.zeros([DEPTH], tl.float32)
            for start in range(0, m, BLOCK):
                j = start + lanes
                g = tl.load(g_row + j, mask=j < m, other=0.0)
                change = tl.load(change_row + j, mask=j < m, other=0.0)
                b = tl.load(b_row + j, mask=j < m, other=0.0)
                step = tl.where(b > 0, tau * (change - ratio_y * g) - shift, 0.0)
                kept = tl.load(kept_row + j, mask=j < m, other=0.0)
                moved = tl.load(moved_row + j, mask=j < m, other=0.0)
                others = (index < count) & (mine == 0)
                old = tl.load(
                    step_rows + j[None, :], mask=others[:, None] & (j < m)[None, :], other=0.0
                )
                difference = step - kept
                tile = tl.where(mine[:, None], difference[None, :], old)
                dots += tl.sum((b * difference)[None, :] * tile, 1)
                right += tl.sum((b * step)[None, :] * tile, 1)
                here = mine[:, None] & (j < m)[None, :]
                tl.store(step_rows + j[None, :], tile, mask=here)
                both = tl.broadcast_to((difference + moved)[None, :], [DEPTH, BLOCK])
                tl.store(both_rows + j[None, :], both, mask=here)
                tl.store(kept_row + j, step, mask=j < m)
                tl.store(end_ptr + batch * m + j, g + step, mask=j < m)
            place = memory + GRAM + index[:, None] * DEPTH + index[None, :]
            gram = tl.load(place)
            gram = tl.where(mine[:, None], dots[None, :], gram)
            gram = tl.where(mine[None, :], dots[:, None], gram)
            tl.debug_barrier()
            tl.store(place, gram)
            mixing = (count > 0) & (last == 0)
            c = tl.where(mixing, coefficients(gram, right, count, slot, DEPTH), 0.0)
            tl.debug_barrier()  # what one thread has stored another one reads
            longest = tl.zeros([BLOCK], tl.float32)
            plain = tl.zeros([BLOCK], tl.float32)
            for start in range(0, m, BLOCK):
                j = start + lanes
                step = tl.load(kept_row + j, mask=j < m, other=0.0)
                both = tl.load(
                    both_rows + j[None, :],
                    mask=(index < count)[:, None] & (j < m)[None, :], other=0.0,
                )  # fmt: skip
                move = step - tl.sum(c[:, None] * both, 0)
                longest = tl.maximum(longest, tl.abs(move))
                plain = tl.maximum(plain, tl.abs(step))
                tl.store(moved_row + j, move, mask=j < m)
            length = tl.max(longest, 0)
            most = radius * tl.maximum(tl.max(plain, 0), LOG2E)
            shortened = mixing & (length > most)
            part = tl.where(shortened, most / length, 1.0)
            tl.debug_barrier()
            for start in range(0, m, BLOCK):
                j = start + lanes
                step = tl.load(kept_row + j, mask=j < m, other=0.0)
                move = tl.load(moved_row + j, mask=j < m, other=0.0)
                move = step + part * (move - step)
                g = tl.load(g_row + j, mask=j < m, other=0.0)
                tl.store(moved_row + j, move, mask=j < m)
                tl.store(g_row + j, g + move, mask=j < m)
            tl.store(memory + BEST, tl.minimum(best, residual))
            tl.store(memory + NEXT, tl.where(moved_before, (slot + 1) % DEPTH, slot).to(tl.float32))
            tl.store(memory + COUNT, count.to(tl.float32))
            tl.store(memory + MIXED, mixing.to(tl.float32))
            tl.store(memory + RADIUS, radius)
            tl.store(memory + SHORTENED, shortened.to(tl.float32))
            tl.store(memory + MOVED, 1.0)
    else:
        for start in range(0, m, BLOCK):
            j = start + lanes
            g = tl.load(g_row + j, mask=j < m, other=0.0)
            change = tl.load(change_row + j, mask=j < m, other=0.0)
            g += tau * (change - ratio_y * g) - shift
            tl.store(g_row + j, g, mask=j < m)
            tl.store(end_ptr + batch * m + j, g, mask=j < m)


class StepLaunch(NamedTuple):
    """Potentials at a time and warps."""

    block: int
    warps: int


#: By the longer side, up to so many points; the last one takes all above.
TABLE = {
    256: StepLaunch(256, 2),
    1024: StepLaunch(1024, 4),
    1 << 31: StepLaunch(2048, 8),
}


def launch_of(size: int) -> StepLaunch:
    """The row of the table for so many points."""
    return next(launch for most, launch in TABLE.items() if size <= most)


class State(NamedTuple):
    """Where a batch of problems stands, all on the device."""

    f: Tensor  #: potential of the rows ``(B, n)``, before the translation by ``shift``
    g: Tensor  #: the point of the next iteration ``(B, m)``
    end: Tensor  #: the columns' potential that belongs to ``f``, translated
    change: Tensor  #: ``(B, m)``
    shift: Tensor  #: ``(B,)``
    active: Tensor  #: ``(B,)`` int32
    iterations: Tensor  #: ``(B,)`` int64
    residual: Tensor  #: ``(B,)``
    mass: Tensor  #: of the plan ``(B,)``
    memory: Tensor | None  #: of the acceleration ``(B, 32)``
    history: Tensor | None  #: ``(B, 10, m)``


def start(g: Tensor, rows: int, mass: Tensor, *, accelerate: bool) -> State:
    """The state before the first iteration from the potential ``g (B, m)``."""
    batch, m = g.shape
    memory = history = None
    if accelerate:
        memory = torch.zeros((batch, MEMORY.value), dtype=torch.float32, device=g.device)
        memory[:, BEST.value] = torch.inf
        memory[:, RADIUS.value] = LEAP.value
        history = torch.empty((batch, 2 * DEPTH.value + 2, m), dtype=torch.float32, device=g.device)
        history[:, :2] = 0
    return State(
        g.new_zeros((batch, rows)), g.clone(), g.clone(), torch.empty_like(g),
        torch.zeros_like(mass),
        torch.ones_like(mass, dtype=torch.int32), torch.zeros_like(mass, dtype=torch.int64),
        torch.full_like(mass, torch.inf), mass.clone(), memory, history,
    )  # fmt: skip


def step(
    state: State,
    log_a: Tensor,
    b: Tensor,
    ratio_x: Tensor,
    ratio_y: Tensor,
    *,
    tol: float,
    last: bool,
) -> None:
    """Ends an iteration whose half-steps have set ``state.f`` and ``state.change``.

    Args:
        state: Changed in place.
        log_a: log2 of the rows' weights ``(B, n)``.
        b: The columns' weights ``(B, m)``.
        ratio_x: ε/ρ of the rows ``(B,)``.
        ratio_y: ε/ρ of the columns ``(B,)``.
        tol: Tolerance of the residual.
        last: At most one more iteration will follow.
    """
    batch, n = log_a.shape
    m = b.shape[1]
    launch = launch_of(max(n, m))
    step_kernel[(batch,)](
        state.f, state.g, state.change, state.end, log_a, b, ratio_x, ratio_y, state.active,
        state.iterations, state.residual, state.mass, state.shift, state.memory, state.history,
        n, m, tol, int(last),
        ACCELERATE=state.memory is not None, BLOCK=launch.block, num_warps=launch.warps,
    )  # fmt: skip


def compilations() -> Iterator[Compilation]:
    """Every tabled configuration, with and without acceleration."""
    for launch in TABLE.values():
        for accelerate in (False, True):
            absent = () if accelerate else ("memory_ptr", "history_ptr")
            yield Compilation(
                f"step/{launch.block}/{'accelerated' if accelerate else 'plain'}",
                step_kernel,
                signature(step_kernel, absent=absent),
                {"ACCELERATE": accelerate, "BLOCK": launch.block, **dict.fromkeys(absent)},
                launch.warps, 3, False, True,
            )  # fmt: skip
