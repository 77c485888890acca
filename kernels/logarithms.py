"""Sums of exponentials and relaxed terms of small vectors and tiles, in powers of two."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

from ucmkd.kernels.softmin import LOG2E

#: Largest exponent that stays finite with room for a weight: 0.9 · 128.
CAP = tl.constexpr(115.0)


@triton.jit
def places(late, SIZE: tl.constexpr):
    """0 to SIZE - 1, computed no sooner than ``late``, which is 0 without the compiler's knowing:
    it must not hold the addresses of all phases in registers while the iteration runs."""
    index = tl.arange(0, SIZE) + late
    return tl.multiple_of(tl.max_contiguous(index, SIZE), SIZE)


@triton.jit
def log_sum(score, axis: tl.constexpr):
    """log2 of the sum of 2^score; -inf for nothing but -inf, which must not give NaN."""
    top = tl.max(score, axis)
    reference = tl.where(top == float("-inf"), 0.0, top)
    shifted = score - (reference[None, :] if axis == 0 else reference[:, None])
    return reference + tl.log2(tl.sum(tl.exp2(shifted), axis))


@triton.jit
def softmin(
    tile_ptr, out_ptr, score, damping, stride, other_stride, late,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Stores -damping·log2 of the sums of 2^(score - tile), a block of rows at a time."""
    index = places(late, BLOCK)
    for first in range(0, BLOCK + late, ROWS):
        rows = first + places(late, ROWS)
        tile = tl.load(tile_ptr + rows[:, None] * stride + index[None, :] * other_stride)
        tl.store(out_ptr + rows, -damping * log_sum(score[None, :] - tile, 1))
    tl.debug_barrier()


@triton.jit
def log_mass(log_weight, potential, rate):
    """log2 of the relaxed mass, the sum of 2^(log_weight - rate·potential)."""
    score = log_weight - tl.where(rate > 0, rate * potential, 0.0)
    top = tl.max(score, 0)
    return top + tl.log2(tl.sum(tl.exp2(score - top), 0))


@triton.jit
def relaxed(potential, reach):
    """ρ(1 - exp(-f/ρ)), or f for an infinite reach."""
    finite = tl.where(reach == float("inf"), 1.0, reach)
    t = -potential / finite
    # expm1 by its series where the exponential would lose digits.
    series = 1.0 + t / 6.0 * (1.0 + t / 7.0 * (1.0 + t / 8.0))
    for k in tl.static_range(5, 1, -1):
        series = 1.0 + t / k * series
    small = tl.abs(t) < 0.35
    value = tl.where(small, t * series, tl.exp2(t * LOG2E) - 1.0)
    return tl.where(reach == float("inf"), potential, -finite * value)


@triton.jit
def weight_logs(p_ptr, q_ptr, index, p_in, q_in):
    """log2 of the weights of both sides."""
    p = tl.load(p_ptr + index, mask=p_in, other=0.0)
    q = tl.load(q_ptr + index, mask=q_in, other=0.0)
    return tl.log2(p), tl.log2(q)
