r"""The device code of :mod:`ucmkd.kernels.mmd`, which has the formulas and the launches.

A problem is one pool of points :math:`z`: those of ``x``, then those of ``y``, each side padded
with zero points of zero mass to whole tiles, so that no load of the inner loop needs a mask. The
masses :math:`s` are negative on the second side.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

GAUSSIAN = tl.constexpr(0)
LAPLACE = tl.constexpr(1)
ENERGY = tl.constexpr(2)
RATIONAL_QUADRATIC = tl.constexpr(3)
POLYNOMIAL = tl.constexpr(4)
LOG2E = tl.constexpr(1.4426950408889634)
#: Share of |x|² + |y|² below which a squared distance is taken from differences.
NEAR = tl.constexpr(1e-3)
#: 1/σ² must stay finite.
LEAST = tl.constexpr(1e-15)


@triton.jit
def evaluate(
    argument, rate, gamma, coef,
    KERNEL: tl.constexpr, SCALES: tl.constexpr, FRESH: tl.constexpr, COUNT: tl.constexpr,
    DEGREE: tl.constexpr,
):  # fmt: skip
    """Sums over the scales of k and of c, without the factors of :func:`constants`.

    A scale that is not fresh is half of the one before it: its Gaussian is the fourth power, its
    Laplacian the square of that one.
    """
    if KERNEL == POLYNOMIAL:
        base = gamma * argument + coef
        slope = tl.full(argument.shape, 1.0, tl.float32)
        for _ in tl.static_range(DEGREE - 1):
            slope = slope * base
        return slope * base, slope
    elif KERNEL == ENERGY:
        distance = tl.sqrt(argument)
        return -distance, tl.where(distance > 0, 1.0 / distance, 0.0)
    elif KERNEL == RATIONAL_QUADRATIC:
        value = tl.zeros(argument.shape, tl.float32)
        slope = tl.zeros(argument.shape, tl.float32)
        for i in tl.static_range(COUNT):
            base = 1.0 + argument * (rate / SCALES[i])
            power = tl.exp2(-SCALES[i] * tl.log2(base))
            value += power
            slope += power / base
        return value, slope
    else:
        length = argument
        if KERNEL == LAPLACE:
            length = tl.sqrt(argument)
        value = tl.zeros(argument.shape, tl.float32)
        slope = tl.zeros(argument.shape, tl.float32)
        power = tl.zeros(argument.shape, tl.float32)
        for i in tl.static_range(COUNT):
            inverse = 1.0 / SCALES[i]
            if KERNEL == GAUSSIAN:
                inverse = inverse / SCALES[i]
            if FRESH[i]:
                # Finite, lest a distance of 0 give NaN.
                power = tl.exp2(length * tl.maximum(rate * inverse, -3.0e38))
            else:
                power = power * power
                if KERNEL == GAUSSIAN:
                    power = power * power
            value += power
            slope += inverse * power
        if KERNEL == LAPLACE:
            slope = tl.where(length > 0, slope / length, 0.0)
        return value, slope


@triton.jit
def constants(sigma, gamma, KERNEL: tl.constexpr, COUNT: tl.constexpr, DEGREE: tl.constexpr):
    """The rate in the exponent, and the factors of k and c."""
    if KERNEL == POLYNOMIAL:
        return 0.0, 1.0, DEGREE * gamma
    elif KERNEL == ENERGY:
        return 0.0, 1.0, 1.0
    else:
        inverse = 1.0 / tl.maximum(sigma, LEAST)
        mean = 1.0 / COUNT
        if KERNEL == LAPLACE:
            return -LOG2E * inverse, mean, inverse * mean
        else:
            square = inverse * inverse
            if KERNEL == GAUSSIAN:
                return -0.5 * LOG2E * square, mean, square * mean
            else:
                return 0.5 * square, mean, square * mean


@triton.jit
def differences(rows, columns, d, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Tile of squared distances, coordinate by coordinate; ``rows`` point at first coordinates."""
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for k in range(0, d):
        step = tl.load(rows + k).to(tl.float32)[:, None] - tl.load(columns + k).to(tl.float32)
        total += step * step
    return total


@triton.jit
def row_block(
    z_ptr, s_ptr, norm_ptr, factor_ptr, sum_ptr, inner_ptr, moved_ptr,
    sigma, gamma, coef, d, classes, batch, total, row_start, column_start, low, high, own, times,
    part, parts, moved_rows, moved_shift, chunk,
    KERNEL: tl.constexpr, SCALES: tl.constexpr, FRESH: tl.constexpr, COUNT: tl.constexpr,
    DEGREE: tl.constexpr, UNBIASED: tl.constexpr, FULL: tl.constexpr, GRADIENT: tl.constexpr,
    INNER: tl.constexpr, MOMENT: tl.constexpr, PAIRS: tl.constexpr, EXACT: tl.constexpr,
    SPLIT: tl.constexpr, ONE_BLOCK: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """BLOCK_M rows against the columns ``low <= j < high`` counted from ``column_start``.

    Without FULL a tile within a side stands for its mirror image too: only columns up to the
    row count, twice.
    """
    INVARIANT: tl.constexpr = KERNEL != POLYNOMIAL
    rate, mean, unit = constants(sigma, gamma, KERNEL, COUNT, DEGREE)
    m = tl.arange(0, BLOCK_M)
    j = tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_D)
    classed = tl.arange(0, BLOCK_K)
    # There may be more chunks of classes than of coordinates, or fewer: the last is done again.
    output = tl.minimum(chunk, d // BLOCK_O - 1) * BLOCK_O + tl.arange(0, BLOCK_O)
    columns_of_mass = tl.minimum(chunk, classes // BLOCK_K - 1) * BLOCK_K + classed
    # Scalars of 64 bits, offsets within a tile of 32.
    pool = batch * total
    row_base = z_ptr + (pool + row_start) * d
    x_norm = tl.load(norm_ptr + pool + row_start + m)
    side = tl.where(column_start > 0, 1, 0)
    row_mass = tl.full([BLOCK_M], 1.0, tl.float32)
    if not PAIRS:
        row_mass = tl.load(s_ptr + pool + row_start + m)
        if UNBIASED:
            row_mass = row_mass * tl.where(own, tl.load(factor_ptr + batch * 2 + side), 1.0)
    # Where a point meets itself; nowhere between the two sides.
    identity = tl.where(own, row_start + m - column_start, -1)
    if ONE_BLOCK:  # stays for the whole pass
        x = tl.load(row_base + m[:, None] * d + k[None, :])

    value = tl.zeros([BLOCK_M], tl.float32)
    moment = tl.zeros([BLOCK_M], tl.float32)
    coefficient = tl.zeros([BLOCK_M], tl.float32)
    inner = tl.zeros([BLOCK_M, BLOCK_K], tl.float32)
    moved = tl.zeros([BLOCK_M, BLOCK_O], tl.float32)
    for start in range(low, high, BLOCK_N):
        first = pool + column_start + start
        column_base = z_ptr + first * d
        if ONE_BLOCK:
            z = tl.load(column_base + j[:, None] * d + k[None, :])
            product = tl.dot(x, tl.trans(z), input_precision=PRECISION)
        else:
            product = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
            for offset in range(0, d, BLOCK_D):
                x_next = tl.load(row_base + offset + m[:, None] * d + k[None, :])
                z_next = tl.load(column_base + offset + j[:, None] * d + k[None, :])
                product = tl.dot(x_next, tl.trans(z_next), product, input_precision=PRECISION)
        same = identity[:, None] == (start + j)[None, :]
        argument = product
        if INVARIANT:
            norms = x_norm[:, None] + tl.load(norm_ptr + first + j)[None, :]
            argument = tl.where(same, 0.0, tl.maximum(norms - 2.0 * product, 0.0))
            if EXACT:
                near = (argument < NEAR * norms) & (same == 0)
                if tl.max(tl.max(near.to(tl.int32), 1), 0) > 0:
                    exact = differences(row_base + m * d, column_base + j * d, d, BLOCK_M, BLOCK_N)
                    argument = tl.where(near, exact, argument)
        kernel, slope = evaluate(argument, rate, gamma, coef, KERNEL, SCALES, FRESH, COUNT, DEGREE)
        if PAIRS:
            pair = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
            for offset in range(0, classes, BLOCK_K):
                at = offset + classed
                mass = tl.load(s_ptr + (pool + row_start) * classes + m[:, None] * classes + at)
                if UNBIASED:
                    factor = tl.load(factor_ptr + (batch * 2 + side) * classes + at)
                    mass = mass * tl.where(own, factor, 1.0)[None, :]
                other = tl.load(s_ptr + first * classes + j[:, None] * classes + at)
                pair = tl.dot(mass, tl.trans(other), pair, input_precision=PRECISION)
        else:
            pair = tl.load(s_ptr + first + j)[None, :]
        if not FULL:
            mirrored = (start + j)[None, :] < identity[:, None]
            pair = pair * tl.where(own, tl.where(mirrored, 2.0, tl.where(same, 1.0, 0.0)), 1.0)
        if UNBIASED:
            pair = tl.where(same, 0.0, pair)
        value += tl.sum(pair * kernel, 1)
        if INNER and PAIRS:
            if UNBIASED:
                kernel = tl.where(same, 0.0, kernel)
            other = tl.load(s_ptr + first * classes + j[:, None] * classes + columns_of_mass)
            inner = tl.dot(kernel, other, inner, input_precision=PRECISION)
        if MOMENT or GRADIENT:
            weight = pair * slope
            if MOMENT:
                moment += tl.sum(weight * argument, 1)
        if GRADIENT:
            if not ONE_BLOCK:
                z = tl.load(column_base + j[:, None] * d + output[None, :])
            if SPLIT:
                # Two terms of 8 bits; the row sums are of what is multiplied, so that the
                # gradient still vanishes with the differences.
                upper = weight.to(tl.bfloat16)
                lower = (weight - upper.to(tl.float32)).to(tl.bfloat16)
                coefficient += tl.sum(upper.to(tl.float32) + lower.to(tl.float32), 1)
                moved = tl.dot(upper.to(z.dtype), z, moved)
                moved = tl.dot(lower.to(z.dtype), z, moved)
            else:
                coefficient += tl.sum(weight, 1)
                moved = tl.dot(weight, z.to(tl.float32), moved, input_precision=PRECISION)

    line = (batch * parts + part) * total + row_start + m
    if INNER:
        if PAIRS:
            tl.store(inner_ptr + line[:, None] * classes + columns_of_mass[None, :], mean * inner)
        elif chunk == 0:
            tl.store(inner_ptr + line, mean * value)
    if chunk == 0:
        block = ((batch * parts + part) * (total // BLOCK_M) + row_start // BLOCK_M) * 2
        tl.store(sum_ptr + block, times * mean * tl.sum(row_mass * value, 0))
        if MOMENT:
            tl.store(sum_ptr + block + 1, times * unit * tl.sum(row_mass * moment, 0))
    if GRADIENT:
        factor = (2.0 * unit) * row_mass
        if INVARIANT:
            row_tile = tl.load(row_base + m[:, None] * d + output[None, :]).to(tl.float32)
            moved -= coefficient[:, None] * row_tile
        to = (batch * parts + part) * moved_rows + row_start - moved_shift
        tl.store(
            moved_ptr + to * d + m[:, None] * d + output[None, :], factor[:, None] * moved,
        )  # fmt: skip


@triton.jit(do_not_specialize=["n", "total", "splits", "moved_rows", "moved_shift"])
def mmd_kernel(
    z_ptr, s_ptr, norm_ptr, factor_ptr, sigma_ptr, sum_ptr, inner_ptr, moved_ptr,
    gamma, coef, n, total, d, classes, splits, moved_rows, moved_shift,
    KERNEL: tl.constexpr, SCALES: tl.constexpr, FRESH: tl.constexpr, COUNT: tl.constexpr,
    DEGREE: tl.constexpr, UNBIASED: tl.constexpr,
    FULL_X: tl.constexpr, FULL_Y: tl.constexpr, GRAD_X: tl.constexpr, GRAD_Y: tl.constexpr,
    INNER: tl.constexpr, MOMENT: tl.constexpr, PAIRS: tl.constexpr, EXACT: tl.constexpr,
    SPLIT: tl.constexpr, ONE_BLOCK: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A program: a block of rows, a part of the columns, a chunk of the output's coordinates.

    The first ``splits`` parts are of the own side, the others of the other one. ``n`` is the
    padded number of points of ``x``, ``total`` that of both sides.
    """
    blocks = total // BLOCK_M
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    row_start = (tl.program_id(0) % blocks) * BLOCK_M
    part = tl.program_id(1)
    chunk = tl.program_id(2)
    parts = 2 * splits
    sigma = tl.load(sigma_ptr + batch)
    is_x = row_start < n
    own = part < splits
    from_x = is_x == own
    column_start = tl.where(from_x, 0, n)
    count = tl.where(from_x, n, total - n)
    # Within a side that needs no sums of its rows, the columns up to the diagonal suffice; the
    # pairs between the sides are met from both only if both need the sums of their rows.
    if own:
        times = 1.0
        if (is_x and not FULL_X) or (not is_x and not FULL_Y):
            count = row_start - column_start + BLOCK_M
    elif is_x:
        times = 1.0 if FULL_Y else 2.0
        if FULL_Y and not FULL_X:
            count = 0
    else:
        times = 1.0 if FULL_X else 2.0
        if not FULL_Y:
            count = 0
    share = tl.cdiv(tl.cdiv(count, BLOCK_N), splits) * BLOCK_N
    low = (part % splits) * share
    high = tl.minimum(low + share, count)
    if FULL_X == FULL_Y and GRAD_X == GRAD_Y:
        row_block(
            z_ptr, s_ptr, norm_ptr, factor_ptr, sum_ptr, inner_ptr, moved_ptr,
            sigma, gamma, coef, d, classes, batch, total, row_start, column_start, low, high, own,
            times, part, parts, moved_rows, moved_shift, chunk,
            KERNEL, SCALES, FRESH, COUNT, DEGREE, UNBIASED, FULL_X, GRAD_X, INNER, MOMENT, PAIRS,
            EXACT, SPLIT, ONE_BLOCK, PRECISION, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_O, BLOCK_K,
        )  # fmt: skip
    elif is_x:
        if GRAD_X or chunk == 0 or (INNER and PAIRS):
            row_block(
                z_ptr, s_ptr, norm_ptr, factor_ptr, sum_ptr, inner_ptr, moved_ptr,
                sigma, gamma, coef, d, classes, batch, total, row_start, column_start, low, high,
                own, times, part, parts, moved_rows, moved_shift, chunk,
                KERNEL, SCALES, FRESH, COUNT, DEGREE, UNBIASED, FULL_X, GRAD_X, INNER, MOMENT,
                PAIRS, EXACT, SPLIT, ONE_BLOCK, PRECISION, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_O,
                BLOCK_K,
            )  # fmt: skip
    else:
        if GRAD_Y or chunk == 0 or (INNER and PAIRS):
            row_block(
                z_ptr, s_ptr, norm_ptr, factor_ptr, sum_ptr, inner_ptr, moved_ptr,
                sigma, gamma, coef, d, classes, batch, total, row_start, column_start, low, high,
                own, times, part, parts, moved_rows, moved_shift, chunk,
                KERNEL, SCALES, FRESH, COUNT, DEGREE, UNBIASED, FULL_Y, GRAD_Y, INNER, MOMENT,
                PAIRS, EXACT, SPLIT, ONE_BLOCK, PRECISION, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_O,
                BLOCK_K,
            )  # fmt: skip
