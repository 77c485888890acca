"""Sums in the log domain and small systems of equations, inside one program."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

#: Largest sum of coefficients: beyond, the differences are linearly dependent.
MODERATE = tl.constexpr(1e5)
#: Ridge of the normal equations, in proportion to each difference: four units of float32.
RIDGE = tl.constexpr(4.8e-7)


@triton.jit
def log_total(top, total):
    """log2 of the sum that the lanes hold as total * 2**top."""
    highest = tl.max(top, 0)
    reference = tl.where(highest == float("-inf"), 0.0, highest)
    return reference + tl.log2(tl.sum(total * tl.exp2(top - reference), 0))


@triton.jit
def add_lane(top, total, exponent):
    """Adds 2**exponent to each lane."""
    new_top = tl.maximum(top, exponent)
    reference = tl.where(new_top == float("-inf"), 0.0, new_top)
    return new_top, total * tl.exp2(top - reference) + tl.exp2(exponent - reference)


@triton.jit
def solve_small(matrix, right, DEPTH: tl.constexpr):
    """Gauss-Jordan elimination without pivoting, of a matrix positive definite up to rounding."""
    index = tl.arange(0, DEPTH)
    for k in tl.static_range(DEPTH):
        row = tl.sum(tl.where(index[:, None] == k, matrix, 0.0), 0)
        column = tl.sum(tl.where(index[None, :] == k, matrix, 0.0), 1)
        pivot = tl.sum(tl.where(index == k, row, 0.0), 0)
        known = tl.sum(tl.where(index == k, right, 0.0), 0)
        factor = tl.where(index == k, 0.0, column / pivot)
        matrix -= factor[:, None] * row[None, :]
        right -= factor * known
    diagonal = tl.sum(tl.where(index[:, None] == index[None, :], matrix, 0.0), 1)
    return right / diagonal


@triton.jit
def coefficients(gram, right, count, slot, DEPTH: tl.constexpr):
    """The mixing coefficients; those of the last difference alone if the others are wild."""
    index = tl.arange(0, DEPTH)
    valid = index < count
    both = valid[:, None] & valid[None, :]
    diagonal = index[:, None] == index[None, :]
    matrix = tl.where(both, gram, 0.0).to(tl.float64)
    matrix += tl.where(diagonal, tl.where(both, RIDGE * matrix + 1e-300, 1.0), 0.0)
    right = tl.where(valid, right, 0.0).to(tl.float64)
    found = solve_small(matrix, right, DEPTH)
    last = index == slot
    norm = tl.sum(tl.where(last, tl.sum(tl.where(diagonal, matrix, 0.0), 1), 0.0), 0)
    single = tl.where(last, right / norm, 0.0)
    single = tl.where(tl.sum(tl.abs(single), 0) <= MODERATE, single, 0.0)
    return tl.where(tl.sum(tl.abs(found), 0) <= MODERATE, found, single).to(tl.float32)
