r"""The cost between two small clouds, a block of rows at a time.

.. math:: C_{qp} = s\,c(x_q, y_p)

Products come from tensor cores over blocks of coordinates. float32 points are taken from the mean
of the columns, so that a common shift costs no digits; products of 16-bit points are exact as
they are. ``cosine`` and ``chordal`` are half the squared distance and the distance of the
normalised points, whose lengths are divided out of the product. A distance from norms and products
loses its digits where two points nearly coincide: there it comes from differences.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

from ucmkd.kernels.tiles import DISTANCE, L1, NEAR, SQEUCLIDEAN

#: A precomputed cost matrix in place of points.
MATRIX = tl.constexpr(3)


@triton.jit
def differences(
    q_rows, p_rows, q_in, p_in, q_inverse, p_inverse, d,
    SQUARE: tl.constexpr, NORMALISED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Tile of sum |x-y|² or sum |x-y| by a loop over the coordinates."""
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for k in range(0, d):
        q = tl.load(q_rows + k, mask=q_in, other=0.0).to(tl.float32)
        p = tl.load(p_rows + k, mask=p_in, other=0.0).to(tl.float32)
        if NORMALISED:
            q *= q_inverse
            p *= p_inverse
        step = q[:, None] - p[None, :]
        total += step * step if SQUARE else tl.abs(step)
    return total


@triton.jit
def inverse_length(norm):
    """1/|x| of squared norms, and 0 for a zero vector."""
    return tl.where(norm > 0, 1.0 / tl.sqrt_rn(tl.where(norm > 0, norm, 1.0)), 0.0)


@triton.jit
def ground_cost(
    q_ptr, p_ptr, q_index, p_index, q_in, p_in, p_weight, d, same,
    COST: tl.constexpr, NORMALISED: tl.constexpr, CENTRED: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The feature costs of the rows q with all columns p, and the squared norms of both."""
    q_rows = q_ptr + q_index * d
    p_rows = p_ptr + p_index * d
    q_norm = tl.zeros([ROWS], tl.float32)
    p_norm = tl.zeros([BLOCK], tl.float32)
    if COST == L1:
        cost = differences(q_rows, p_rows, q_in, p_in, q_norm, p_norm, d, False, False, ROWS, BLOCK)
    else:
        share = 1.0 / tl.sum(p_weight, 0)
        product = tl.zeros([ROWS, BLOCK], tl.float32)
        for start in range(0, d, BLOCK_D):
            k = start + tl.arange(0, BLOCK_D)
            q = tl.load(
                q_rows[:, None] + k[None, :], mask=q_in[:, None] & (k[None, :] < d), other=0.0
            )
            p = tl.load(
                p_rows[None, :] + k[:, None], mask=p_in[None, :] & (k[:, None] < d), other=0.0
            )
            if CENTRED:
                centre = share * tl.sum(p_weight[None, :] * p, 1)
                q -= centre[None, :]
                p -= centre[:, None]
            q_wide, p_wide = q.to(tl.float32), p.to(tl.float32)
            q_norm += tl.sum(q_wide * q_wide, 1)
            p_norm += tl.sum(p_wide * p_wide, 0)
            product = tl.dot(q, p, product, input_precision=PRECISION)
        norms = q_norm[:, None] + p_norm[None, :]
        q_inverse, p_inverse = inverse_length(q_norm), inverse_length(p_norm)
        if NORMALISED:
            product = product * q_inverse[:, None] * p_inverse[None, :]
            q_one, p_one = tl.where(q_norm > 0, 1.0, 0.0), tl.where(p_norm > 0, 1.0, 0.0)
            norms = q_one[:, None] + p_one[None, :]
        square = tl.maximum(norms - 2.0 * product, 0.0)
        # The distance of a point to itself is exactly 0.
        itself = (q_index[:, None] == p_index[None, :]) & same
        square = tl.where(itself, 0.0, square)
        if COST == SQEUCLIDEAN:
            cost = 0.5 * square if NORMALISED else square
        else:
            near = (square < NEAR * norms) & (itself == 0) & q_in[:, None] & p_in[None, :]
            if tl.max(tl.max(near.to(tl.int32), 1), 0) > 0:
                exact = differences(
                    q_rows, p_rows, q_in, p_in, q_inverse, p_inverse, d, True, NORMALISED, ROWS,
                    BLOCK,
                )  # fmt: skip
                square = tl.where(near, exact, square)
            cost = tl.sqrt_rn(square)
    return cost, q_norm, p_norm


@triton.jit
def matrix_tile(cost_ptr, q_index, p_index, q_in, p_in, stride_q, stride_p):
    """Rows of a cost matrix in memory."""
    rows = cost_ptr + q_index[:, None].to(tl.int64) * stride_q
    return tl.load(
        rows + p_index[None, :].to(tl.int64) * stride_p,
        mask=q_in[:, None] & p_in[None, :], other=0.0,
    ).to(tl.float32)  # fmt: skip


@triton.jit
def label_tile(row_label, column_label, distance_ptr, classes, LABEL: tl.constexpr):
    """Distances between the labels: of a table with ``classes`` columns, or 1 where they differ."""
    if LABEL == DISTANCE:
        return tl.load(distance_ptr + row_label[:, None] * classes + column_label[None, :])
    else:
        return tl.where(row_label[:, None] != column_label[None, :], 1.0, 0.0)
