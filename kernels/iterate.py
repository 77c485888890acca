r"""The Sinkhorn iterations of a small problem, on a tile in registers.

One iteration of :mod:`ucmkd.reference` is :math:`f \leftarrow \tau_x\,\mathrm{softmin}(g)`,
:math:`g \leftarrow \tau_y\,\mathrm{softmin}(f)` and, where a marginal is relaxed, the best common
translation (Sejourne, Vialard, Peyre 2022). Exponentials are rare here: the tile

.. math:: K_{ij} = 2^{\bar f_i + \bar g_j - C_{ij}}

is kept for potentials :math:`\bar f,\bar g` that the iteration passed, and the present ones are
:math:`\bar f + \phi`, :math:`\bar g + \gamma` (Schmitzer 2019, stabilised scaling), so that

.. math::
    \mathrm{softmin}(g)_i = \bar f_i - \log_2\sum_j K_{ij} b_j 2^{\gamma_j},\qquad
    \mathrm{softmin}(f)_j = \bar g_j - \log_2\sum_i K_{ij} a_i 2^{\phi_i}

are two products with a tile in registers. As soon as a shift or a sum leaves the range in which
nothing that was rounded to 0 matters, the iteration is done over in the log domain, with guarded
maxima, and a new tile taken there. The shifts are small numbers: the residual is measured without
the rounding errors of the potentials. A self-term has one potential and averaged updates
:math:`g \leftarrow \frac12(g + \tau\,\mathrm{softmin}(g))` (Knight, Ruiz, Ucar 2014).
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

from ucmkd.kernels.anderson import forget, mix, start
from ucmkd.kernels.logarithms import CAP, log_mass, places, softmin, weight_logs

#: Largest shift, and largest logarithm of a sum, in powers of two, until a new tile is taken.
#: What the tile rounds to 0 is below 2^-126: it stays 2^-36 of a sum or less.
FAR_SHIFT = tl.constexpr(30.0)
FAR_SUM = tl.constexpr(60.0)
#: Iterations without a better residual after which mixing pauses.
PATIENCE = tl.constexpr(40)


@triton.jit
def iterate(
    base, pw, q_mass, pw_ptr, qw_ptr, tile_ptr,
    potential_ptr,  # [2, BLOCK]: of the rows that of the tile, of the columns working memory
    end_ptr,  # [BLOCK]: in the end the potential of the rows
    memory_ptr,  # [8, BLOCK], and with state_ptr [8] for the mixing
    state_ptr,
    p_count, q_count, p_rate, q_rate, p_rest, q_rest, own, tol, max_iter,
    accelerate, nothing, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Iterates from the potential ``base`` of the columns p of the scaled cost at ``tile_ptr``.

    ``rate`` is ε/ρ, ``rest`` ε/(ρ+ε) = 1 - τ, ``nothing`` 0. Returns the columns' potential, the
    mass, the residual and the number of iterations. What the rows have of vectors lies in memory:
    a thread would hold many of their entries.
    """
    p_mass = tl.sum(pw, 0)
    stiffness = p_rate + q_rate
    shift = tl.zeros([BLOCK], tl.float32)
    tl.store(end_ptr + tl.arange(0, BLOCK), tl.zeros([BLOCK], tl.float32))
    scaled = tl.zeros([BLOCK, BLOCK], tl.float32)
    translation = 0.0
    mass = q_mass
    residual = float("inf")
    iterations = 0
    valid = 0
    active = max_iter > 0
    # Of the mixing, see kernels/anderson.py.
    start(state_ptr)
    tl.debug_barrier()
    best, mixed = float("inf"), 0
    record, record_at, resume_at, pause = float("inf"), 0, 0, 0
    pause += PATIENCE
    while active:
        late = iterations * nothing
        log_total = tl.zeros([BLOCK], tl.float32)
        good = 0
        place = places(late, BLOCK)
        qw = tl.load(qw_ptr + place, mask=place < q_count, other=0.0)
        q_shift = tl.zeros([BLOCK], tl.float32)
        if (valid != 0) & (tl.max(tl.abs(shift), 0) <= FAR_SHIFT):
            if own:
                q_shift = shift
                outside = 0
            else:
                log_q = tl.sum(scaled * (pw * tl.exp2(shift))[None, :], 1)
                log_q = tl.log2(tl.where(qw > 0, log_q, 1.0))
                q_shift = -log_q
                if q_rest > 0:
                    q_shift -= q_rest * (tl.load(potential_ptr + place) - log_q)
                inside = (tl.abs(q_shift) <= FAR_SHIFT) & (tl.abs(log_q) <= FAR_SUM)
                outside = tl.max(tl.where((qw > 0) & (inside == 0), 1, 0), 0)
                q_shift = tl.where(qw > 0, q_shift, 0.0)
            log_total = tl.sum(scaled * (qw * tl.exp2(q_shift))[:, None], 0)
            log_total = tl.log2(tl.where(pw > 0, log_total, 1.0))
            inside = tl.abs(log_total) <= FAR_SHIFT
            outside += tl.max(tl.where((pw > 0) & (inside == 0), 1, 0), 0)
            good = tl.where(outside == 0, 1, 0)
        if good == 0:
            # By blocks of rows from memory: of tiles no more than the scaled one is live.
            p_log, q_log = weight_logs(pw_ptr, qw_ptr, place, place < p_count, place < q_count)
            present = base + shift
            if own:
                q_base = present
            else:
                softmin(
                    tile_ptr,
                    potential_ptr,
                    present + p_log,
                    1.0 - q_rest,
                    BLOCK,
                    1,
                    late,
                    ROWS,
                    BLOCK,
                )
                q_base = tl.where(qw > 0, tl.load(potential_ptr + place), 0.0)
            softmin(
                tile_ptr,
                potential_ptr + BLOCK,
                q_base + q_log,
                1.0,
                1,
                BLOCK,
                late,
                ROWS,
                BLOCK,
            )
            log_total = tl.load(potential_ptr + BLOCK + place)
            log_total = tl.where(pw > 0, log_total, present)
            # The new tile lies at the potentials of its own softmin, a symmetric one at present.
            base = tl.where(own, present, log_total)
            log_total = base - log_total
            shift = present - base
            q_shift = tl.zeros([BLOCK], tl.float32)
            tl.store(potential_ptr + place, q_base)
            tl.debug_barrier()
            rows = tl.where(qw > 0, q_base, float("-inf"))
            columns = tl.where(pw > 0, base, float("-inf"))
            cells = tile_ptr + place[:, None] * BLOCK + place[None, :]
            scaled = tl.exp2((rows[:, None] + columns[None, :]) - tl.load(cells))
            valid = 1
        gap = shift + log_total
        best_p = base - log_total
        columns = pw * tl.exp2(tl.minimum(gap, CAP))
        wanted = pw * tl.exp2(tl.minimum(tl.where(p_rate > 0, -p_rate * (base + shift), 0.0), CAP))
        residual = tl.sum(tl.abs(columns - wanted), 0) / p_mass
        iterations += 1
        translation = 0.0
        plain = -gap - p_rest * best_p
        if own:
            mass = tl.sum(columns, 0)
            plain *= 0.5
        else:
            mass = tl.sum(pw * tl.exp2(-p_rest * best_p), 0)
            if stiffness > 0:
                p_log, q_log = weight_logs(pw_ptr, qw_ptr, place, place < p_count, place < q_count)
                above = log_mass(q_log, tl.load(potential_ptr + place) + q_shift, q_rate)
                below = log_mass(p_log, best_p - p_rest * best_p, p_rate)
                translation = (above - below) / stiffness
            plain -= translation
        plain = tl.where(pw > 0, plain, 0.0)
        was_mixed = mixed
        done = residual <= tol
        # A NaN also ends, unless it can be taken back.
        active = ((residual > tol) | ((was_mixed != 0) & (residual != residual))) & (
            iterations < max_iter
        )
        if active == 0:
            end = tl.load(potential_ptr + place) + q_shift + translation
            tl.store(end_ptr + place, end)
        move = plain
        if accelerate:
            better = residual < record
            record = tl.where(better, residual, record)
            record_at = tl.where(better, iterations, record_at)
            if iterations - record_at > PATIENCE:
                resume_at = iterations + pause
                record_at = resume_at
                pause *= 2
                record = float("inf")
                best = float("inf")
                mixed = 0
                forget(state_ptr)
            if (active) & (iterations >= resume_at):
                last = (iterations + 1 >= max_iter).to(tl.int32)
                move, mixed, best = mix(
                    plain, pw, residual, last, late, memory_ptr, state_ptr, mixed, best, BLOCK
                )
        # A self-term that is done returns the state whose residual was measured.
        shift = tl.where(own & done, shift, shift + move)
    tl.debug_barrier()
    return base + shift, mass, residual, iterations
