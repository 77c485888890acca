r"""Streaming softmin: one half-iteration of Sinkhorn without a cost matrix in memory.

.. math::
    \mathrm{out}_i = -\varepsilon\,\log\sum_j \exp\frac{h_j - C_{ij}}{\varepsilon},\qquad
    C_{ij} = s\,c(x_i, y_j) + \lambda\,[l_i \ne k_j],

with :math:`h_j = g_j + \varepsilon\log b_j`; :math:`h_j=-\infty` masks a point, and a row whose
columns are all masked gives :math:`+\infty`. Everything is in units of
:math:`\varepsilon/\log_2 e`: with :math:`\kappa = \log_2(e)/\varepsilon` the sum is one of
``exp2``, and for the squared distance the norms and the log-weights fold into one term a column,

.. math::
    \kappa(h_j - s|x_i-y_j|^2) = u_j + 2\kappa s\,x_i\cdot y_j - \kappa s|x_i|^2,\qquad
    u_j = \kappa(h_j - s|y_j|^2),

where the last term leaves the sum. The running maximum and sum (Milakov, Gimelshein 2018) are
always float32. ``cosine`` is ``sqeuclidean`` of normalised points with :math:`s=1/2`, ``chordal``
is ``euclidean`` of normalised points. A distance from norms and products loses its digits where
two points nearly coincide; such tiles are computed once more from differences.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

COSTS = {"sqeuclidean": 0, "euclidean": 1, "l1": 2}
SQEUCLIDEAN = tl.constexpr(0)
EUCLIDEAN = tl.constexpr(1)
L1 = tl.constexpr(2)
LOG2E = tl.constexpr(1.4426950408889634)
#: Share of |x|² + |y|² below which a squared distance is taken from differences.
NEAR = tl.constexpr(1e-3)


@triton.jit
def from_differences(
    x_rows, y_rows, row_in, column_in, d,
    SQUARE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Tile of sum |x-y|² or sum |x-y| by a loop over the coordinates."""
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for k in range(0, d):
        x = tl.load(x_rows + k, mask=row_in, other=0.0).to(tl.float32)
        y = tl.load(y_rows + k, mask=column_in, other=0.0).to(tl.float32)
        step = x[:, None] - y[None, :]
        total += step * step if SQUARE else tl.abs(step)
    return total


@triton.jit
def products(
    x_rows, y_rows, row_in, column_in, x_first, d,
    PRECISION: tl.constexpr, ONE_BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Tile of x·y, float32. ``x_first`` is the first block of coordinates, loaded by the caller."""
    product = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    k = tl.arange(0, BLOCK_D)
    if ONE_BLOCK:
        y = tl.load(
            y_rows[None, :] + k[:, None], mask=column_in[None, :] & (k[:, None] < d), other=0.0
        )
        product = tl.dot(x_first, y, product, input_precision=PRECISION)
    else:
        for start in range(0, d, BLOCK_D):
            inside = start + k < d
            x = tl.load(
                x_rows[:, None] + start + k[None, :],
                mask=row_in[:, None] & inside[None, :], other=0.0,
            )  # fmt: skip
            y = tl.load(
                y_rows[None, :] + start + k[:, None],
                mask=column_in[None, :] & inside[:, None], other=0.0,
            )  # fmt: skip
            product = tl.dot(x, y, product, input_precision=PRECISION)
    return product


@triton.jit
def square_distances(
    product, x_norm, y_norm, x_rows, y_rows, row_in, column_in, d,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Squared distances from products and norms; near pairs from differences."""
    norms = x_norm[:, None] + y_norm[None, :]
    square = tl.maximum(norms - 2.0 * product, 0.0)
    near = square < NEAR * norms
    if tl.max(tl.max(near.to(tl.int32), 1), 0) > 0:
        exact = from_differences(x_rows, y_rows, row_in, column_in, d, True, BLOCK_M, BLOCK_N)
        square = tl.where(near, exact, square)
    return square


@triton.jit
def softmin_kernel(
    x_ptr, y_ptr, h_ptr, x_norm_ptr, y_norm_ptr, x_label_ptr, y_label_ptr,
    epsilon_ptr, label_cost_ptr, out_ptr, n, m, d, scale,
    COST: tl.constexpr, HAS_LABEL: tl.constexpr, SAME: tl.constexpr, ONE_BLOCK: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M rows of one problem against all its columns."""
    blocks = tl.cdiv(n, BLOCK_M)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    rows = (tl.program_id(0) % blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    row_in = rows < n
    x_rows = x_ptr + batch * n * d + rows * d
    epsilon = tl.load(epsilon_ptr + batch)
    kappa = LOG2E / epsilon
    coefficient = kappa * scale
    k = tl.arange(0, BLOCK_D)
    x_first = tl.zeros([BLOCK_M, BLOCK_D], x_ptr.dtype.element_ty)
    if ONE_BLOCK and COST != L1:  # stays in registers for the whole pass
        x_first = tl.load(
            x_rows[:, None] + k[None, :], mask=row_in[:, None] & (k[None, :] < d), other=0.0
        )
    x_norm = tl.zeros([BLOCK_M], tl.float32)
    if COST != L1:
        x_norm = tl.load(x_norm_ptr + batch * n + rows, mask=row_in, other=0.0)
    if HAS_LABEL:
        x_label = tl.load(x_label_ptr + batch * n + rows, mask=row_in, other=0)
        penalty = kappa * tl.load(label_cost_ptr + batch)

    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    for start in range(0, m, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        column_in = columns < m
        y_rows = y_ptr + batch * m * d + columns * d
        u = kappa * tl.load(h_ptr + batch * m + columns, mask=column_in, other=float("-inf"))
        if COST == L1:
            distance = from_differences(
                x_rows, y_rows, row_in, column_in, d, False, BLOCK_M, BLOCK_N
            )
            score = u[None, :] - coefficient * distance
        else:
            y_norm = tl.load(y_norm_ptr + batch * m + columns, mask=column_in, other=0.0)
            product = products(
                x_rows, y_rows, row_in, column_in, x_first, d,
                PRECISION, ONE_BLOCK, BLOCK_M, BLOCK_N, BLOCK_D,
            )  # fmt: skip
            if SAME:  # the distance of a point to itself is exactly 0
                product = tl.where(rows[:, None] == columns[None, :], y_norm[None, :], product)
            if COST == SQEUCLIDEAN:
                score = (u - coefficient * y_norm)[None, :] + (2.0 * coefficient) * product
            else:
                square = square_distances(
                    product, x_norm, y_norm, x_rows, y_rows, row_in, column_in, d, BLOCK_M, BLOCK_N
                )
                score = u[None, :] - coefficient * tl.sqrt(square)
        if HAS_LABEL:
            y_label = tl.load(y_label_ptr + batch * m + columns, mask=column_in, other=0)
            score -= tl.where(x_label[:, None] != y_label[None, :], penalty, 0.0)
        new_top = tl.maximum(top, tl.max(score, 1))
        # Nothing but masked columns so far: any finite reference will do, and -inf would give NaN.
        reference = tl.where(new_top == float("-inf"), 0.0, new_top)
        total = total * tl.exp2(top - reference) + tl.sum(tl.exp2(score - reference[:, None]), 1)
        top = new_top
    # A row without columns: top = -inf and log2(0) = -inf, hence +inf.
    out = -(top + tl.log2(total)) / kappa
    if COST == SQEUCLIDEAN:
        out += scale * x_norm
    tl.store(out_ptr + batch * n + rows, out, mask=row_in)


@triton.jit
def softmin_matrix_kernel(
    cost_ptr, h_ptr, epsilon_ptr, out_ptr, n, m, stride_b, stride_i, stride_j,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The same for a cost matrix in memory, rows and columns by their strides."""
    blocks = tl.cdiv(n, BLOCK_M)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    rows = (tl.program_id(0) % blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    row_in = rows < n
    cost_rows = cost_ptr + batch * stride_b + rows.to(tl.int64) * stride_i
    kappa = LOG2E / tl.load(epsilon_ptr + batch)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    for start in range(0, m, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        column_in = columns < m
        h = tl.load(h_ptr + batch * m + columns, mask=column_in, other=float("-inf"))
        cost = tl.load(
            cost_rows[:, None] + columns[None, :].to(tl.int64) * stride_j,
            mask=row_in[:, None] & column_in[None, :], other=0.0,
        ).to(tl.float32)  # fmt: skip
        score = kappa * (h[None, :] - cost)
        new_top = tl.maximum(top, tl.max(score, 1))
        reference = tl.where(new_top == float("-inf"), 0.0, new_top)
        total = total * tl.exp2(top - reference) + tl.sum(tl.exp2(score - reference[:, None]), 1)
        top = new_top
    tl.store(out_ptr + batch * n + rows, -(top + tl.log2(total)) / kappa, mask=row_in)


class Launch(NamedTuple):
    """A launch configuration: tile of rows, columns and coordinates, warps, pipeline stages."""

    block_m: int
    block_n: int
    block_d: int
    warps: int
    stages: int


#: Fixed configurations by (kind of arithmetic, number of rows): nothing is tuned at run time, so
#: a new batch size never stalls a training step. Chosen so that no register spills on compute
#: capability 8.0 and 9.0 when d is a multiple of :data:`ALIGNMENT`.
TABLE = {
    ("half", "few"): Launch(16, 128, 64, 4, 3),
    ("half", "many"): Launch(128, 64, 64, 8, 3),
    ("float", "few"): Launch(16, 64, 32, 4, 2),
    ("float", "many"): Launch(64, 64, 32, 8, 1),
    ("l1", "few"): Launch(16, 64, 16, 4, 1),
    ("l1", "many"): Launch(32, 64, 16, 4, 1),
    ("matrix", "few"): Launch(4, 256, 16, 4, 2),
    ("matrix", "many"): Launch(16, 128, 16, 4, 2),
}
#: Up to this many rows in the whole batch the small tiles fill a GPU better than the large ones.
FEW_ROWS = 8192


def kind_of(cost: str, dtype: torch.dtype) -> str:
    """The row of the table that a cost and an input type belong to."""
    if cost == "l1":
        return "l1"
    return "float" if dtype == torch.float32 else "half"


def fit_block(block: int, d: int) -> int:
    """The block of coordinates, not wider than d needs (and at least 16, as tl.dot asks)."""
    return min(block, max(16, triton.next_power_of_2(d)))


#: Points whose number of coordinates is a multiple of this are loaded in whole vectors.
ALIGNMENT = 16


def pad_points(points: Tensor) -> Tensor:
    """Contiguous points with zero coordinates appended up to a multiple of :data:`ALIGNMENT`.

    No cost changes, and the loads stay vectorised. The kernels take any d, only slower.
    """
    extra = -points.shape[-1] % ALIGNMENT
    return (
        torch.nn.functional.pad(points, (0, extra)).contiguous() if extra else points.contiguous()
    )


def check_points(x: Tensor, y: Tensor) -> None:
    """Raises ValueError for what the kernels cannot address."""
    if x.dtype != y.dtype or x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(
            f"x and y must both be float32, bfloat16 or float16; got {x.dtype} and {y.dtype}"
        )
    if not (x.is_contiguous() and y.is_contiguous()):
        raise ValueError("x and y must be contiguous")
    if max(x[0].numel(), y[0].numel()) >= 2**31:
        raise ValueError(
            "one problem's points must have fewer than 2**31 coordinates in all; "
            f"got shapes {tuple(x.shape)} and {tuple(y.shape)}"
        )


def readable(points: Tensor) -> Tensor:
    """The points; bfloat16 as float32 in the interpreter, whose tl.dot gets it wrong."""
    interpreted = triton.knobs.runtime.interpret and points.dtype == torch.bfloat16
    return points.float() if interpreted else points


def square_norms(points: Tensor) -> Tensor:
    """Squared norms ``(B, n)`` in float32, of the values as they are stored."""
    return points.float().square().sum(-1)


def softmin(
    x: Tensor,
    y: Tensor,
    h: Tensor,
    epsilon: Tensor,
    *,
    cost: str = "sqeuclidean",
    scale: float = 1.0,
    x_norm: Tensor | None = None,
    y_norm: Tensor | None = None,
    x_label: Tensor | None = None,
    y_label: Tensor | None = None,
    label_cost: Tensor | None = None,
    same: bool = False,
) -> Tensor:
    """Softmin of every row of ``x`` over the points ``y``; see the head of this file.

    Args:
        x: ``(B, n, d)``, contiguous; float32, bfloat16 or float16.
        y: ``(B, m, d)``, contiguous, of the same type.
        h: Log-weighted potentials ``(B, m)``, float32, in the units of the cost.
        epsilon: ``(B,)``, float32.
        cost: ``sqeuclidean``, ``euclidean`` or ``l1``.
        scale: Factor of the cost.
        x_norm: :func:`square_norms` of ``x`` if at hand.
        y_norm: The same for ``y``.
        x_label: Integers ``(B, n)``.
        y_label: Integers ``(B, m)``.
        label_cost: Price of a label mismatch ``(B,)``, float32.
        same: ``x`` and ``y`` are the same points.

    Returns:
        ``(B, n)``, float32.

    Raises:
        ValueError: The points are of different or other types, not contiguous, or too many.
    """
    check_points(x, y)
    batch, n, d = x.shape
    m = y.shape[1]
    config = TABLE[kind_of(cost, x.dtype), "few" if batch * n <= FEW_ROWS else "many"]
    block_d = fit_block(config.block_d, d)
    labelled = x_label is not None and y_label is not None and label_cost is not None
    if cost != "l1":
        x_norm = square_norms(x) if x_norm is None else x_norm
        y_norm = square_norms(y) if y_norm is None else y_norm
    out = torch.empty((batch, n), dtype=torch.float32, device=x.device)
    softmin_kernel[(batch * triton.cdiv(n, config.block_m),)](
        readable(x), readable(y), h.contiguous(), x_norm, y_norm,
        x_label if labelled else None, y_label if labelled else None,
        epsilon, label_cost if labelled else None, out, n, m, d, scale,
        COST=COSTS[cost], HAS_LABEL=labelled, SAME=same, ONE_BLOCK=d <= block_d,
        PRECISION="ieee", BLOCK_M=config.block_m, BLOCK_N=config.block_n, BLOCK_D=block_d,
        num_warps=config.warps, num_stages=config.stages, enable_fp_fusion=True,
    )  # fmt: skip
    return out


def softmin_matrix(matrix: Tensor, h: Tensor, epsilon: Tensor) -> Tensor:
    """Softmin over the last dimension of a cost matrix ``(B, n, m)``, which may be a transposed
    view; ``h (B, m)`` and ``epsilon (B,)`` are float32. Returns ``(B, n)``, float32."""
    batch, n, m = matrix.shape
    config = TABLE["matrix", "few" if batch * n <= FEW_ROWS else "many"]
    out = torch.empty((batch, n), dtype=torch.float32, device=matrix.device)
    softmin_matrix_kernel[(batch * triton.cdiv(n, config.block_m),)](
        matrix, h.contiguous(), epsilon, out, n, m, *matrix.stride(),
        BLOCK_M=config.block_m, BLOCK_N=config.block_n,
        num_warps=config.warps, num_stages=config.stages, enable_fp_fusion=True,
    )  # fmt: skip
    return out
