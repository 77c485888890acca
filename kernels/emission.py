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

Where two points nearly coincide the difference is taken, not the product. Everything goes through
memory by blocks of rows: a whole tile beside the vectors would not fit the registers.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

from ucmkd.kernels.ground import MATRIX, differences, inverse_length, label_tile
from ucmkd.kernels.logarithms import CAP, places, softmin
from ucmkd.kernels.tiles import EUCLIDEAN, L1, NEAR, NO_LABEL, SQEUCLIDEAN


@triton.jit
def fill_masked(
    tile_ptr, potential_ptr, q_weight_ptr, p_weight_ptr, q_count, p_count, q_rest, p_rest,
    late,    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Points of no weight get the potential of the other side's end: nothing depends on it.

    ``potential_ptr`` has the potentials of the rows q, then those of the columns p.
    """
    index = places(late, BLOCK)
    for side in range(0, 2):
        turned = side == 1
        count, other_count = tl.where(turned, p_count, q_count), tl.where(turned, q_count, p_count)
        weight_ptr = tl.where(turned, p_weight_ptr, q_weight_ptr)
        other_ptr = tl.where(turned, q_weight_ptr, p_weight_ptr)
        damping = 1.0 - tl.where(turned, p_rest, q_rest)
        stride, other_stride = tl.where(turned, 1, BLOCK), tl.where(turned, BLOCK, 1)
        own_ptr = potential_ptr + side * BLOCK
        other = tl.load(other_ptr + index, mask=index < other_count, other=0.0)
        score = tl.load(potential_ptr + (1 - side) * BLOCK + index) + tl.log2(other)
        weight = tl.load(weight_ptr + index, mask=index < count, other=0.0)
        present = tl.load(own_ptr + index)
        tl.debug_barrier()
        softmin(tile_ptr, own_ptr, score, damping, stride, other_stride, late, ROWS, BLOCK)
        end = tl.load(own_ptr + index)
        tl.debug_barrier()
        tl.store(own_ptr + index, tl.where(weight > 0, present, end))
        tl.debug_barrier()


@triton.jit
def plan_of(
    tile_ptr,  # [2, BLOCK, BLOCK]: the scaled cost, in whose place the plan comes
    potential_ptr, q_weight_ptr, p_weight_ptr, q_count, p_count, kappa,
    q_label_ptr, p_label_ptr, distance_ptr, classes,
    f_ptr, row_ptr, plan_ptr, plan_rows, late,
    COST: tl.constexpr, LABEL: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Stores the plan, its row sums and the rows' potential; returns the column sums, what the
    transport costs and the mass that changes its label."""
    index = places(late, BLOCK)
    p_in = index < p_count
    g = tl.load(potential_ptr + BLOCK + index)
    p_weight = tl.load(p_weight_ptr + index, mask=p_in, other=0.0)
    p_sum = tl.zeros([BLOCK], tl.float32)
    transport = tl.zeros([BLOCK], tl.float32)
    mismatch = tl.zeros([BLOCK], tl.float32)
    for first in range(0, BLOCK + late, ROWS):
        rows = first + places(late, ROWS)
        row_in = rows < q_count
        f = tl.load(potential_ptr + rows)
        weight = tl.load(q_weight_ptr + rows, mask=row_in, other=0.0)
        cells = tile_ptr + rows[:, None] * BLOCK + index[None, :]
        cost = tl.load(cells)
        density = tl.exp2(tl.minimum((f[:, None] + g[None, :]) - cost, CAP))
        # Between masked points nothing depends on the density.
        density = tl.where((weight > 0)[:, None] | (p_weight > 0)[None, :], density, 0.0)
        p_sum += tl.sum(density * weight[:, None], 0)
        density *= p_weight[None, :]
        tl.store(row_ptr + rows, tl.sum(density, 1), mask=row_in)
        tl.store(f_ptr + rows, f / kappa, mask=row_in)
        plan = weight[:, None] * density
        transport += tl.sum(plan * cost, 0)
        if LABEL != NO_LABEL:
            q_label = tl.load(q_label_ptr + rows, mask=row_in, other=0)
            p_label = tl.load(p_label_ptr + index, mask=p_in, other=0)
            different = label_tile(q_label, p_label, distance_ptr, classes, LABEL)
            mismatch += tl.sum(plan * different, 0)
        tl.store(cells, plan)
        if COST == MATRIX:
            tl.store(
                plan_ptr + rows[:, None].to(tl.int64) * p_count + index[None, :], plan,
                mask=(rows < plan_rows)[:, None] & p_in[None, :],
            )  # fmt: skip
    tl.debug_barrier()
    return p_sum, tl.sum(transport, 0) / kappa, tl.sum(mismatch, 0)


@triton.jit
def class_masses(
    plan_ptr, q_label_ptr, p_label_ptr, q_count, p_count, out_ptr, q_classes, p_classes,
    late,    PRECISION: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Mass of the plan between the classes, stored ``[q class, p class]``: two products with
    indicator matrices, sixteen classes at a time."""
    rows = places(late, BLOCK)
    q_label = tl.load(q_label_ptr + rows, mask=rows < q_count, other=-1)
    for first_p in range(0, p_classes, 16):
        p_class = first_p + tl.arange(0, 16)
        by_p = tl.zeros([BLOCK, 16], tl.float32)
        for first in range(0, p_count, BLOCK_K):
            j = first + places(late, BLOCK_K)
            plan = tl.load(plan_ptr + rows[:, None] * BLOCK + j[None, :])
            label = tl.load(p_label_ptr + j, mask=j < p_count, other=-1)
            member = (label[:, None] == p_class[None, :]).to(tl.float32)
            by_p = tl.dot(plan, member, by_p, input_precision=PRECISION)
        for first_q in range(0, q_classes, 16):
            q_class = first_q + tl.arange(0, 16)
            q_member = (q_class[:, None] == q_label[None, :]).to(tl.float32)
            mass = tl.dot(q_member, by_p, input_precision=PRECISION)
            tl.store(
                out_ptr + q_class[:, None] * p_classes + p_class[None, :], mass,
                mask=(p_class[None, :] < p_classes) & (q_class[:, None] < q_classes),
            )  # fmt: skip


@triton.jit
def weights_of(
    tile_ptr,  # [2, BLOCK, BLOCK]: plan and feature cost; then W, and that of the near pairs
    vector_ptr,  # [6, BLOCK]: |x|² of both sides; then 1/|x|, and the sums of W, of both
    q_ptr, p_ptr, q_count, p_count, d, late,
    COST: tl.constexpr, NORMALISED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Puts the gradient's weights in the plan's place; returns whether there are near pairs."""
    index = places(late, BLOCK)
    p_norm = tl.load(vector_ptr + BLOCK + index)
    p_inverse = inverse_length(p_norm)
    p_one = tl.where(p_norm > 0, 1.0, 0.0) if NORMALISED else p_norm
    p_sum = tl.zeros([BLOCK], tl.float32)
    found = 0
    for first in range(0, BLOCK + late, ROWS):
        rows = first + places(late, ROWS)
        cells = tile_ptr + rows[:, None] * BLOCK + index[None, :]
        q_norm = tl.load(vector_ptr + rows)
        q_inverse = inverse_length(q_norm)
        q_one = tl.where(q_norm > 0, 1.0, 0.0) if NORMALISED else q_norm
        norms = q_one[:, None] + p_one[None, :]
        weight = tl.load(cells)
        factor = weight
        if COST == EUCLIDEAN:
            distance = tl.load(cells + BLOCK * BLOCK)
            near = (distance * distance < NEAR * norms) & (weight > 0) & (distance > 0)
            any_near = tl.max(tl.max(near.to(tl.int32), 1), 0)
            found = tl.maximum(found, any_near)
            if any_near > 0:
                exact = differences(
                    q_ptr + rows * d, p_ptr + index * d, rows < q_count, index < p_count,
                    q_inverse, p_inverse, d, True, NORMALISED, ROWS, BLOCK,
                )  # fmt: skip
                distance = tl.where(near, tl.sqrt_rn(exact), distance)
            weight = tl.where(distance > 0, weight / tl.where(distance > 0, distance, 1.0), 0.0)
            close = tl.where(near, weight, 0.0)
            tl.store(cells + BLOCK * BLOCK, close)
            weight -= close
            tl.store(cells, weight)
            factor = weight
            if NORMALISED:
                # Of a near pair comes the difference u - v, which has a part along u.
                half = 0.5 * distance * distance
                factor = weight * (0.5 * norms - half) - close * half
        elif NORMALISED:
            factor = weight * (0.5 * norms - tl.load(cells + BLOCK * BLOCK))
        tl.store(vector_ptr + 2 * BLOCK + rows, q_inverse)
        tl.store(vector_ptr + 4 * BLOCK + rows, tl.sum(factor, 1))
        p_sum += tl.sum(factor, 0)
    tl.store(vector_ptr + 3 * BLOCK + index, p_inverse)
    tl.store(vector_ptr + 5 * BLOCK + index, p_sum)
    tl.debug_barrier()
    return found


@triton.jit
def gradient(
    p_ptr, q_ptr, pw_ptr, p_count, q_count, d, late,
    vector_ptr,  # [2, 2, BLOCK]: 1/|x| of both sides, factors of the points themselves
    side, factor,
    weight_ptr,  # [2, BLOCK, BLOCK]: weights, and those of near pairs
    has_near, out_ptr,
    COST: tl.constexpr, NORMALISED: tl.constexpr, CENTRED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Gradient to the points p, which are the rows of the weights on side 0, else the columns."""
    p_index = places(late, BLOCK)
    p_in = p_index < p_count
    stride_p = tl.where(side == 0, BLOCK, 1)
    stride_q = tl.where(side == 0, 1, BLOCK)
    near_ptr = weight_ptr + BLOCK * BLOCK
    own_inverse = tl.load(vector_ptr + side * BLOCK + p_index)
    coefficient = tl.load(vector_ptr + (2 + side) * BLOCK + p_index)
    other_inverse_ptr = vector_ptr + (1 - side) * BLOCK
    for start in range(0, d, BLOCK_D):
        k = start + places(late, BLOCK_D)
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
                p_weight = tl.load(pw_ptr + p_index, mask=p_in, other=0.0)
                centre = tl.sum(p_weight[:, None] * own, 0) / tl.sum(p_weight, 0)
            moved = tl.zeros([BLOCK, BLOCK_D], tl.float32)
            for first in range(0, q_count, BLOCK_K):
                j = first + places(late, BLOCK_K)
                weight = tl.load(weight_ptr + p_index[:, None] * stride_p + j[None, :] * stride_q)
                other = tl.load(
                    q_ptr + j[:, None] * d + k[None, :],
                    mask=(j[:, None] < q_count) & inside[None, :], other=0.0,
                ).to(tl.float32)  # fmt: skip
                if CENTRED:
                    other -= centre[None, :]
                if NORMALISED:
                    other *= tl.load(other_inverse_ptr + j)[:, None]
                moved = tl.dot(weight, other, moved, input_precision=PRECISION)
            if NORMALISED:
                own *= own_inverse[:, None]
            point = own
            if CENTRED:
                own -= centre[None, :]
            total = coefficient[:, None] * own - moved
            if COST == EUCLIDEAN:  # noqa: SIM102 (one constant, one number of the device)
                if has_near > 0:
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
def emit(
    tile_ptr, vector_ptr, q_ptr, p_ptr, q_out_ptr, p_out_ptr, q_weight_ptr, p_weight_ptr,
    q_count, p_count, d, late, own, first_side, last_side,
    COST: tl.constexpr, NORMALISED: tl.constexpr, CENTRED: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The gradients to the clouds q (side 0) and p (side 1) from the plan and the feature cost;
    of a self-term the total derivative."""
    has_near = weights_of(
        tile_ptr,
        vector_ptr,
        q_ptr,
        p_ptr,
        q_count,
        p_count,
        d,
        late,
        COST,
        NORMALISED,
        ROWS,
        BLOCK,
    )
    factor = tl.where(own, 2.0, 1.0) * (2.0 if COST == SQEUCLIDEAN and not NORMALISED else 1.0)
    for side in range(first_side, last_side):
        turned = side == 1
        gradient(
            tl.where(turned, p_ptr, q_ptr), tl.where(turned, q_ptr, p_ptr),
            tl.where(turned, p_weight_ptr, q_weight_ptr),
            tl.where(turned, p_count, q_count), tl.where(turned, q_count, p_count), d, late,
            vector_ptr + 2 * BLOCK, side, factor, tile_ptr, has_near,
            tl.where(turned, p_out_ptr, q_out_ptr),
            COST, NORMALISED, CENTRED, PRECISION, BLOCK, BLOCK_O, BLOCK_K,
        )  # fmt: skip
