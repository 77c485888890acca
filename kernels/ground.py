r"""The cost between two small clouds as one tile.

.. math:: C_{pq} = s\,c(x_p, y_q)

Products come from tensor cores over blocks of coordinates. float32 points are centred block by
block, so that a common shift costs no digits; products of 16-bit points are exact as they are.
``cosine`` and ``chordal`` are half the squared distance and the distance of the normalised
points, whose lengths are divided out of the product. A distance from norms and products loses its
digits where two points nearly coincide: there it comes from differences.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

from ucmkd.kernels.softmin import L1, NEAR, SQEUCLIDEAN

#: A precomputed cost matrix in place of points.
MATRIX = tl.constexpr(3)


@triton.jit
def differences(
    p_rows, q_rows, p_in, q_in, p_inverse, q_inverse, d,
    SQUARE: tl.constexpr, NORMALISED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Tile of sum |x-y|² or sum |x-y| by a loop over the coordinates."""
    total = tl.zeros([BLOCK, BLOCK], tl.float32)
    for k in range(0, d):
        p = tl.load(p_rows + k, mask=p_in, other=0.0).to(tl.float32)
        q = tl.load(q_rows + k, mask=q_in, other=0.0).to(tl.float32)
        if NORMALISED:
            p *= p_inverse
            q *= q_inverse
        step = p[:, None] - q[None, :]
        total += step * step if SQUARE else tl.abs(step)
    return total


@triton.jit
def inverse_length(norm):
    """1/|x| of squared norms, and 0 for a zero vector."""
    return tl.where(norm > 0, 1.0 / tl.sqrt_rn(tl.where(norm > 0, norm, 1.0)), 0.0)


@triton.jit
def ground_cost(
    p_ptr, q_ptr, p_index, q_index, p_in, q_in, p_weight, q_weight, d, same,
    COST: tl.constexpr, NORMALISED: tl.constexpr, CENTRED: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The tile of feature costs, and the squared norms of both clouds."""
    p_rows = p_ptr + p_index * d
    q_rows = q_ptr + q_index * d
    p_norm = tl.zeros([BLOCK], tl.float32)
    q_norm = tl.zeros([BLOCK], tl.float32)
    if COST == L1:
        cost = differences(p_rows, q_rows, p_in, q_in, p_norm, q_norm, d, False, False, BLOCK)
    else:
        share = 1.0 / (tl.sum(p_weight, 0) + tl.sum(q_weight, 0))
        product = tl.zeros([BLOCK, BLOCK], tl.float32)
        for start in range(0, d, BLOCK_D):
            k = start + tl.arange(0, BLOCK_D)
            p = tl.load(
                p_rows[:, None] + k[None, :], mask=p_in[:, None] & (k[None, :] < d), other=0.0
            )
            q = tl.load(
                q_rows[None, :] + k[:, None], mask=q_in[None, :] & (k[:, None] < d), other=0.0
            )
            if CENTRED:
                p_sum = tl.sum(p_weight[:, None] * p, 0)
                q_sum = tl.sum(q_weight[None, :] * q, 1)
                centre = share * (p_sum + q_sum)
                p -= centre[None, :]
                q -= centre[:, None]
            p_wide, q_wide = p.to(tl.float32), q.to(tl.float32)
            p_norm += tl.sum(p_wide * p_wide, 1)
            q_norm += tl.sum(q_wide * q_wide, 0)
            product = tl.dot(p, q, product, input_precision="tf32x3")
        p_inverse, q_inverse = inverse_length(p_norm), inverse_length(q_norm)
        norms = p_norm[:, None] + q_norm[None, :]
        if NORMALISED:
            product = product * p_inverse[:, None] * q_inverse[None, :]
            p_one, q_one = tl.where(p_norm > 0, 1.0, 0.0), tl.where(q_norm > 0, 1.0, 0.0)
            norms = p_one[:, None] + q_one[None, :]
        square = tl.maximum(norms - 2.0 * product, 0.0)
        # The distance of a point to itself is exactly 0.
        itself = (p_index[:, None] == q_index[None, :]) & same
        square = tl.where(itself, 0.0, square)
        if COST == SQEUCLIDEAN:
            cost = 0.5 * square if NORMALISED else square
        else:
            near = (square < NEAR * norms) & (itself == 0) & p_in[:, None] & q_in[None, :]
            if tl.max(tl.max(near.to(tl.int32), 1), 0) > 0:
                exact = differences(
                    p_rows, q_rows, p_in, q_in, p_inverse, q_inverse, d, True, NORMALISED, BLOCK
                )
                square = tl.where(near, exact, square)
            cost = tl.sqrt_rn(square)
    return cost, p_norm, q_norm


@triton.jit
def matrix_tile(cost_ptr, p_index, q_index, p_in, q_in, stride_p, stride_q):
    """The tile of a cost matrix in memory."""
    rows = cost_ptr + p_index[:, None].to(tl.int64) * stride_p
    return tl.load(
        rows + q_index[None, :].to(tl.int64) * stride_q,
        mask=p_in[:, None] & q_in[None, :], other=0.0,
    ).to(tl.float32)  # fmt: skip


@triton.jit
def label_tile(
    row_label, column_label, distance_ptr, classes, HAS_DISTANCE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Distances between the labels: of a table with ``classes`` columns, or 1 where they differ.

    Of the table each row of the tile reads its own, and a product with indicators spreads it over
    the columns: to gather the tile itself would take an address for each of its entries.
    """
    if HAS_DISTANCE:
        different = tl.zeros([BLOCK, BLOCK], tl.float32)
        for first in range(0, classes, 16):
            k = first + tl.arange(0, 16)
            table = tl.load(
                distance_ptr + row_label[:, None] * classes + k[None, :],
                mask=k[None, :] < classes, other=0.0,
            )  # fmt: skip
            member = (k[:, None] == column_label[None, :]).to(tl.float32)
            different = tl.dot(table, member, different, input_precision="tf32x3")
    else:
        different = tl.where(row_label[:, None] != column_label[None, :], 1.0, 0.0)
    return different
