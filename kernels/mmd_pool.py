"""Before and after the pass of :mod:`ucmkd.kernels.mmd`: the pool of points, and the gradients.

A common shift of the points must not cost digits, so float32 points are centred. 16-bit points are
not: rounding the difference again would move them, while their products are exact as they are.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def weighted_rows(
    total, mass, points_ptr, weight_ptr, low, high, count, d, k,
    WEIGHTED: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Adds the weighted points ``low <= i < high`` and their weights."""
    for start in range(low, high, BLOCK_R):
        rows = start + tl.arange(0, BLOCK_R)
        inside = rows < high
        if WEIGHTED:
            weight = tl.load(weight_ptr + rows, mask=inside, other=0.0)
        else:
            weight = tl.where(inside, 1.0 / count, 0.0)
        # A masked point may lie anywhere: it has no part in the centre.
        points = tl.load(
            points_ptr + rows.to(tl.int64)[:, None] * d + k[None, :],
            mask=(weight > 0)[:, None] & (k < d)[None, :], other=0.0,
        )  # fmt: skip
        total += tl.sum(weight[:, None] * points, 0)
        mass += tl.sum(weight, 0)
    return total, mass


@triton.jit(do_not_specialize=["n", "m", "pieces"])
def centre_kernel(
    x_ptr, y_ptr, a_ptr, b_ptr, total_ptr, mass_ptr, n, m, d, pieces,
    WEIGHTED_X: tl.constexpr, WEIGHTED_Y: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Weighted sums ``(B, pieces, d)`` of pieces of both clouds, and their masses."""
    batch = tl.program_id(0).to(tl.int64)
    piece = tl.program_id(1)
    k = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    mass = 0.0
    share = tl.cdiv(n, pieces)
    total, mass = weighted_rows(
        total, mass, x_ptr + batch * n * d, a_ptr + batch * n if WEIGHTED_X else a_ptr,
        piece * share, tl.minimum((piece + 1) * share, n), n, d, k, WEIGHTED_X, BLOCK_R,
    )  # fmt: skip
    share = tl.cdiv(m, pieces)
    total, mass = weighted_rows(
        total, mass, y_ptr + batch * m * d, b_ptr + batch * m if WEIGHTED_Y else b_ptr,
        piece * share, tl.minimum((piece + 1) * share, m), m, d, k, WEIGHTED_Y, BLOCK_R,
    )  # fmt: skip
    line = batch * pieces + piece
    tl.store(total_ptr + line * d + k, total, mask=k < d)
    if tl.program_id(2) == 0:
        tl.store(mass_ptr + line, mass)


@triton.jit(do_not_specialize=["n", "m", "first", "total", "pieces"])
def pool_kernel(
    x_ptr, y_ptr, a_ptr, b_ptr, total_ptr, mass_ptr, z_ptr, s_ptr, norm_ptr,
    n, m, d, first, total, width, pieces,
    CENTRED: tl.constexpr, MASSES: tl.constexpr, WEIGHTED_X: tl.constexpr,
    WEIGHTED_Y: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of rows of the pool: points, squared norms of what is stored, signed masses.

    ``first`` rows are for x, ``total`` in all; the rest of both sides is 0. ``width`` is that of
    the pool.
    """
    blocks = tl.cdiv(total, BLOCK_R)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    rows = (tl.program_id(0) % blocks) * BLOCK_R + tl.arange(0, BLOCK_R)
    is_x = rows < n
    is_y = (rows >= first) & (rows < first + m)
    mass = 1.0
    if CENTRED:
        mass = 0.0
        for piece in range(pieces):
            mass += tl.load(mass_ptr + batch * pieces + piece)
        mass = tl.where(mass > 0, mass, 1.0)
    norm = tl.zeros([BLOCK_R], tl.float32)
    x_rows = x_ptr + (batch * n + rows) * d
    y_rows = y_ptr + (batch * m + rows - first) * d
    for start in range(0, width, BLOCK):
        k = start + tl.arange(0, BLOCK)
        inside = (k < d)[None, :]
        x = tl.load(x_rows[:, None] + k[None, :], mask=is_x[:, None] & inside, other=0.0)
        y = tl.load(y_rows[:, None] + k[None, :], mask=is_y[:, None] & inside, other=0.0)
        z = x + y
        if CENTRED:
            centre = tl.zeros([BLOCK], tl.float32)
            for piece in range(pieces):
                centre += tl.load(
                    total_ptr + (batch * pieces + piece) * d + k, mask=k < d, other=0.0
                )
            z = tl.where((is_x | is_y)[:, None], z - (centre / mass)[None, :], 0.0)
        wide = z.to(tl.float32)
        norm += tl.sum(wide * wide, 1)
        tl.store(
            z_ptr + (batch * total + rows)[:, None] * width + k[None, :], z,
            mask=(rows < total)[:, None] & (k < width)[None, :],
        )  # fmt: skip
    tl.store(norm_ptr + batch * total + rows, norm, mask=rows < total)
    if MASSES:
        if WEIGHTED_X:
            a = tl.load(a_ptr + batch * n + rows, mask=is_x, other=0.0)
        else:
            a = tl.where(is_x, 1.0 / n, 0.0)
        if WEIGHTED_Y:
            b = tl.load(b_ptr + batch * m + rows - first, mask=is_y, other=0.0)
        else:
            b = tl.where(is_y, 1.0 / m, 0.0)
        tl.store(s_ptr + batch * total + rows, a - b, mask=rows < total)


@triton.jit(do_not_specialize=["n", "m", "first", "rows", "parts"])
def gradient_kernel(
    moved_ptr, x_ptr, y_ptr, n, m, d, first, rows, width, parts,
    WANT_X: tl.constexpr, WANT_Y: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums the parts ``(B, parts, rows, width)``, always in this order.

    ``first`` rows are of x, the others of y.
    """
    blocks = tl.cdiv(rows, BLOCK_R)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    line = (tl.program_id(0) % blocks) * BLOCK_R + tl.arange(0, BLOCK_R)
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK_R, BLOCK], tl.float32)
    mask = (line < rows)[:, None] & (k < d)[None, :]
    for part in range(parts):
        at = (batch * parts + part) * rows + line
        total += tl.load(moved_ptr + at[:, None] * width + k[None, :], mask=mask, other=0.0)
    if WANT_X:
        tl.store(
            x_ptr + (batch * n + line)[:, None] * d + k[None, :], total,
            mask=mask & (line < n)[:, None],
        )  # fmt: skip
    if WANT_Y:
        own = line - first
        tl.store(
            y_ptr + (batch * m + own)[:, None] * d + k[None, :], total,
            mask=mask & ((own >= 0) & (own < m))[:, None],
        )  # fmt: skip
