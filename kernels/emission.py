r"""What the plan of a small problem makes of its points: gradients, and mass between classes.

.. math::
    \nabla_p = \sum_q P_{pq}\,\partial_{x_p} C_{pq},\qquad
    M_{kl} = \sum_{pq} P_{pq}\,[k_p = k][l_q = l].

With :math:`W=P` for the squared distance and :math:`P/|x-y|` for the distance (0 where the points
coincide) the gradient is :math:`\sum_q W_{pq}(x_p - y_q)`, a product of a tile with the points.
``cosine`` and ``chordal`` are costs of :math:`u=x/|x|`, :math:`v=y/|y|`, and need only
:math:`u_p\cdot v_q` besides, which the cost holds:

.. math::
    \frac1{|x_p|}(1-u_pu_p^\top)\sum_q W_{pq}(u_p-v_q)
      = \frac1{|x_p|}\Bigl(\sum_q W_{pq}(u_p\cdot v_q)\,u_p - \sum_q W_{pq}v_q\Bigr).

Where two points nearly coincide the difference is taken, not the product. The tile goes through
memory, so that the products need few registers.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

from ucmkd.kernels.ground import differences, inverse_length
from ucmkd.kernels.softmin import EUCLIDEAN, L1, NEAR, SQEUCLIDEAN


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
                weight = tl.load(weight_ptr + p_index[:, None] * stride_p + j[None, :] * stride_q)
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
            if COST == EUCLIDEAN:  # noqa: SIM102 (one constant, one number of the device)
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


@triton.jit
def emit(
    plan, distance, p_ptr, q_ptr, p_out_ptr, q_out_ptr, norm_ptr, scratch_ptr,
    p_count, q_count, pw_ptr, qw_ptr, d, own, first_side, last_side,
    COST: tl.constexpr, NORMALISED: tl.constexpr, CENTRED: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The gradients to both clouds from the plan and the feature cost, by way of memory."""
    index = tl.arange(0, BLOCK)
    p_norm, q_norm = tl.load(norm_ptr + index), tl.load(norm_ptr + BLOCK + index)
    p_inverse, q_inverse = inverse_length(p_norm), inverse_length(q_norm)
    p_one, q_one = p_norm, q_norm
    if NORMALISED:
        p_one, q_one = tl.where(p_norm > 0, 1.0, 0.0), tl.where(q_norm > 0, 1.0, 0.0)
    norms = p_one[:, None] + q_one[None, :]
    weight = plan
    has_near = False
    p_near, q_near = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    tl.debug_barrier()  # plan and distance have been read, and their places are free
    if COST == EUCLIDEAN:
        near = (distance * distance < NEAR * norms) & (plan > 0) & (distance > 0)
        has_near = tl.max(tl.max(near.to(tl.int32), 1), 0) > 0
        if has_near:
            exact = differences(
                p_ptr + index * d, q_ptr + index * d, index < p_count, index < q_count,
                p_inverse, q_inverse, d, True, NORMALISED, BLOCK,
            )  # fmt: skip
            distance = tl.where(near, tl.sqrt_rn(exact), distance)
        weight = tl.where(distance > 0, plan / tl.where(distance > 0, distance, 1.0), 0.0)
        if has_near:
            close = tl.where(near, weight, 0.0)
            weight = tl.where(near, 0.0, weight)
            tl.store(scratch_ptr + BLOCK * BLOCK + index[:, None] * BLOCK + index[None, :], close)
            if NORMALISED:
                close *= 0.5 * distance * distance
                p_near, q_near = tl.sum(close, 1), tl.sum(close, 0)
    tl.store(scratch_ptr + index[:, None] * BLOCK + index[None, :], weight)
    if NORMALISED:
        half = distance if COST == SQEUCLIDEAN else 0.5 * distance * distance
        weight *= 0.5 * norms - half
    vectors = norm_ptr + 2 * BLOCK + index
    tl.store(vectors, p_inverse)
    tl.store(vectors + BLOCK, q_inverse)
    tl.store(vectors + 2 * BLOCK, tl.sum(weight, 1) - p_near)
    tl.store(vectors + 3 * BLOCK, tl.sum(weight, 0) - q_near)
    tl.debug_barrier()
    factor = tl.where(own, 2.0, 1.0) * (2.0 if COST == SQEUCLIDEAN and not NORMALISED else 1.0)
    for side in range(first_side, last_side):
        # Side 0 is that of the rows.
        turned = side == 1
        gradient(
            tl.where(turned, q_ptr, p_ptr), tl.where(turned, p_ptr, q_ptr),
            tl.where(turned, qw_ptr, pw_ptr), tl.where(turned, pw_ptr, qw_ptr),
            tl.where(turned, q_count, p_count), tl.where(turned, p_count, q_count), d,
            norm_ptr + 2 * BLOCK, side, factor, scratch_ptr, has_near,
            tl.where(turned, q_out_ptr, p_out_ptr),
            COST, NORMALISED, CENTRED, BLOCK, BLOCK_O, BLOCK_K,
        )  # fmt: skip
