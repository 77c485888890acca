r"""The cost between two small clouds as one tile, and what the plan makes of it.

.. math::
    C_{pq} = s\,c(x_p, y_q),\qquad
    \nabla_p = \sum_q P_{pq}\,\partial_{x_p} C_{pq},\qquad
    M_{kl} = \sum_{pq} P_{pq}\,[k_p = k][l_q = l].

Products come from tensor cores over blocks of coordinates. float32 points are centred block by
block, so that a common shift costs no digits; products of 16-bit points are exact as they are.
``cosine`` and ``chordal`` are half the squared distance and the distance of the normalised points
:math:`u=x/|x|`, whose lengths are divided out of the product. The gradient to the points
themselves needs only :math:`u_p\cdot v_q`, which the cost holds:

.. math::
    \frac1{|x_p|}(1-u_pu_p^\top)\sum_q W_{pq}(u_p-v_q)
      = \frac1{|x_p|}\Bigl(\sum_q W_{pq}(u_p\cdot v_q)\,u_p - \sum_q W_{pq}v_q\Bigr).

A distance from norms and products loses its digits where two points nearly coincide: there it
comes from differences, and so does the gradient.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

from ucmkd.kernels.softmin import EUCLIDEAN, L1, NEAR, SQEUCLIDEAN

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
    return tl.load(
        cost_ptr + p_index[:, None].to(tl.int64) * stride_p + q_index[None, :].to(tl.int64) * stride_q,
        mask=p_in[:, None] & q_in[None, :], other=0.0,
    ).to(tl.float32)  # fmt: skip


@triton.jit
def centre_of(
    p_ptr, q_ptr, pw_ptr, qw_ptr, p_count, q_count, k, d, BLOCK: tl.constexpr
):  # fmt: skip
    """The pooled mean of a block of coordinates."""
    index = tl.arange(0, BLOCK)
    pw = tl.load(pw_ptr + index, mask=index < p_count, other=0.0)
    qw = tl.load(qw_ptr + index, mask=index < q_count, other=0.0)
    p = tl.load(
        p_ptr + index[:, None] * d + k[None, :],
        mask=(index < p_count)[:, None] & (k[None, :] < d), other=0.0,
    )  # fmt: skip
    q = tl.load(
        q_ptr + index[:, None] * d + k[None, :],
        mask=(index < q_count)[:, None] & (k[None, :] < d), other=0.0,
    )  # fmt: skip
    total = tl.sum(pw[:, None] * p, 0) + tl.sum(qw[:, None] * q, 0)
    return total / (tl.sum(pw, 0) + tl.sum(qw, 0))


@triton.jit
def gradient(
    p_ptr, q_ptr, pw_ptr, qw_ptr, p_count, q_count, d,
    vector_ptr,  # [2, 2, BLOCK]: 1/|x| of both sides, factors of the points themselves
    side, factor,
    weight_ptr,  # [2, BLOCK, BLOCK]: weights, and those of near pairs
    has_near, out_ptr,
    COST: tl.constexpr, NORMALISED: tl.constexpr, CENTRED: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Gradient to the points p, which are the rows of the weights on side 0, else the columns."""
    p_index = tl.arange(0, BLOCK)
    p_in = p_index < p_count
    stride_p = tl.where(side == 0, BLOCK, 1)
    stride_q = tl.where(side == 0, 1, BLOCK)
    near_ptr = weight_ptr + BLOCK * BLOCK
    own_inverse = tl.load(vector_ptr + side * BLOCK + p_index)
    coefficient = tl.load(vector_ptr + (2 + side) * BLOCK + p_index)
    other_inverse_ptr = vector_ptr + (1 - side) * BLOCK
    for start in range(0, d, BLOCK_D):
        k = start + tl.arange(0, BLOCK_D)
        inside = k < d
        own = tl.load(
            p_ptr + p_index[:, None] * d + k[None, :],
            mask=p_in[:, None] & inside[None, :], other=0.0,
        ).to(tl.float32)  # fmt: skip
        if COST == L1:
            # Coordinate by coordinate: the signs of the differences are no product.
            total = tl.zeros([BLOCK, BLOCK_D], tl.float32)
            for j in range(0, q_count):
                weight = tl.load(weight_ptr + p_index * stride_p + j * stride_q)
                other = tl.load(q_ptr + j * d + k, mask=inside, other=0.0).to(tl.float32)
                step = own - other[None, :]
                sign = tl.where(step > 0, 1.0, tl.where(step < 0, -1.0, 0.0))
                total += weight[:, None] * sign
        else:
            centre = tl.zeros([BLOCK_D], tl.float32)
            if CENTRED:
                centre = centre_of(p_ptr, q_ptr, pw_ptr, qw_ptr, p_count, q_count, k, d, BLOCK)
            moved = tl.zeros([BLOCK, BLOCK_D], tl.float32)
            for first in range(0, q_count, BLOCK_K):
                j = first + tl.arange(0, BLOCK_K)
                weight = tl.load(
                    weight_ptr + p_index[:, None] * stride_p + j[None, :] * stride_q
                )
                other = tl.load(
                    q_ptr + j[:, None] * d + k[None, :],
                    mask=(j[:, None] < q_count) & inside[None, :], other=0.0,
                ).to(tl.float32)  # fmt: skip
                if CENTRED:
                    other -= centre[None, :]
                if NORMALISED:
                    other *= tl.load(other_inverse_ptr + j)[:, None]
                moved = tl.dot(weight, other, moved, input_precision="tf32x3")
            if NORMALISED:
                own *= own_inverse[:, None]
            point = own
            if CENTRED:
                own -= centre[None, :]
            total = coefficient[:, None] * own - moved
            if COST == EUCLIDEAN:
                if has_near:
                    for j in range(0, q_count):
                        weight = tl.load(near_ptr + p_index * stride_p + j * stride_q)
                        other = tl.load(q_ptr + j * d + k, mask=inside, other=0.0).to(tl.float32)
                        if NORMALISED:
                            other *= tl.load(other_inverse_ptr + j)
                        total += weight[:, None] * (point - other[None, :])
            if NORMALISED:
                total *= own_inverse[:, None]
        tl.store(
            out_ptr + p_index[:, None] * d + k[None, :], factor * total,
            mask=p_in[:, None] & inside[None, :],
        )  # fmt: skip


@triton.jit
def class_masses(
    plan_ptr, p_index, q_labels_ptr, q_count, p_label, out_ptr, p_classes, q_classes,
    BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Mass of the plan at ``plan_ptr`` between the classes, stored ``[p class, q class]``: two
    products with indicator matrices, sixteen classes at a time."""
    for first_q in range(0, q_classes, 16):
        q_class = first_q + tl.arange(0, 16)
        by_q = tl.zeros([BLOCK, 16], tl.float32)
        for first in range(0, q_count, BLOCK_K):
            j = first + tl.arange(0, BLOCK_K)
            plan = tl.load(plan_ptr + p_index[:, None] * BLOCK + j[None, :])
            label = tl.load(q_labels_ptr + j, mask=j < q_count, other=-1)
            member = (label[:, None] == q_class[None, :]).to(tl.float32)
            by_q = tl.dot(plan, member, by_q, input_precision="tf32x3")
        for first_p in range(0, p_classes, 16):
            p_class = first_p + tl.arange(0, 16)
            p_member = (p_class[:, None] == p_label[None, :]).to(tl.float32)
            mass = tl.dot(p_member, by_q, input_precision="tf32x3")
            tl.store(
                out_ptr + p_class[:, None] * q_classes + q_class[None, :], mass,
                mask=(q_class[None, :] < q_classes) & (p_class[:, None] < p_classes),
            )  # fmt: skip
