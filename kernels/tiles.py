r"""What the kernels over point clouds share: tiles of products, distances and label costs.

``cosine`` is ``sqeuclidean`` of normalised points with the factor 1/2, ``chordal`` is
``euclidean`` of normalised points. A distance from norms and products loses its digits where two
points nearly coincide; such tiles are computed once more from differences.

float32 products run on tensor cores in three TF32 passes (``tf32x3``): each factor is split in its
TF32 rounding and a remainder, cut to TF32 too, and all products but that of the two remainders
are summed in float32. That loses at most :math:`5\cdot2^{-22}|x_ky_k|` in each coordinate, where
float32 loses up to :math:`2^{-24}\sum_k|x_ky_k|` in each of :math:`d` additions.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

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
#: Kinds of label cost: none, 1 where the labels differ, or a matrix between the classes.
NO_LABEL = tl.constexpr(0)
MISMATCH = tl.constexpr(1)
DISTANCE = tl.constexpr(2)
#: How float32 points are multiplied; 16-bit points have exact products anyway. Triton for ROCm has
#: no ``tf32x3``, but matrix instructions for float32 itself.
PRECISION = "ieee" if torch.version.hip else "tf32x3"


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
def label_distances(x_label, y_label, distance_ptr, classes, LABEL: tl.constexpr):
    """Tile of label distances: 1 where they differ, or those of a (classes_x, classes) matrix."""
    if LABEL == DISTANCE:
        tile = tl.load(distance_ptr + x_label[:, None] * classes + y_label[None, :])
    else:
        tile = tl.where(x_label[:, None] != y_label[None, :], 1.0, 0.0)
    return tile


@triton.jit
def label_costs(x_label, y_label, distance_ptr, classes, price, LABEL: tl.constexpr):
    """Tile of price times label distance; a price of infinity forbids a mismatch."""
    if LABEL == DISTANCE:
        tile = price * label_distances(x_label, y_label, distance_ptr, classes, LABEL)
    else:
        tile = tl.where(x_label[:, None] != y_label[None, :], price, 0.0)
    return tile


class Cloud(NamedTuple):
    """One side of a problem as the kernels read it."""

    points: Tensor  #: ``(B, n, d)``, contiguous; float32, bfloat16 or float16
    norm: Tensor | None  #: :func:`square_norms`; not for ``l1``
    log_weight: Tensor  #: log2 of the weights ``(B, n)``, float32; -inf masks a point
    label: Tensor | None = None  #: integers ``(B, n)``


class Problem(NamedTuple):
    """What the two sides of a batch of problems have in common; tensors are float32."""

    cost: str  #: ``sqeuclidean``, ``euclidean`` or ``l1``
    scale: float  #: factor of the cost
    kappa: Tensor  #: log2(e)/ε ``(B,)``
    price: Tensor | None = None  #: of a label distance of 1 ``(B,)``; None without labels
    distance: Tensor | None = None  #: between the classes of rows and columns ``(K, L)``
    same: bool = False  #: both sides are the same points

    @property
    def label_kind(self) -> int:
        """One of NO_LABEL, MISMATCH, DISTANCE."""
        return 0 if self.price is None else 1 if self.distance is None else 2

    @property
    def classes(self) -> int:
        """The row length of ``distance``."""
        return 1 if self.distance is None else self.distance.shape[1]

    def swapped(self) -> Problem:
        """The problem with rows and columns exchanged."""
        if self.distance is None:
            return self
        return self._replace(distance=self.distance.T.contiguous())


def cloud(
    points: Tensor, log_weight: Tensor, cost: str = "sqeuclidean", label: Tensor | None = None
) -> Cloud:
    """A :class:`Cloud` with its norms."""
    return Cloud(points, None if cost == "l1" else square_norms(points), log_weight, label)


def kind_of(cost: str, dtype: torch.dtype) -> str:
    """The row of the tables that a cost and an input type belong to.

    Distances need a root and the near pairs, and more registers for them.
    """
    if cost == "l1":
        return "l1"
    kind = "float" if dtype == torch.float32 else "half"
    return f"{kind}/root" if cost == "euclidean" else kind


def variants(kind: str) -> Iterator[tuple[str, str, int, bool]]:
    """What stands for a kind of arithmetic in the compilations.

    Name, cost, kind of label cost, and whether all coordinates are one block.
    """
    if kind == "l1":
        cost, one = "l1", False
    elif kind.endswith("root"):
        cost, one = "euclidean", False
    else:
        cost, one = "sqeuclidean", True
        yield "wide", cost, NO_LABEL.value, False
    yield "mismatch", cost, MISMATCH.value, one
    yield "distance", cost, DISTANCE.value, one


def absent_arguments(kind: str, label: int) -> tuple[str, ...]:
    """The tensors that a launch leaves out."""
    absent: tuple[str, ...] = ()
    if label != DISTANCE.value:
        absent += ("distance_ptr",)
    if label == NO_LABEL.value:
        absent += ("x_label_ptr", "y_label_ptr", "price_ptr")
    if kind == "l1":
        absent += ("x_norm_ptr", "y_norm_ptr")
    return absent


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


def point_type(kind: str) -> str:
    """How the points of a kind of arithmetic are declared for a compilation."""
    return "*bf16" if kind.startswith("half") else "*fp32"


def signature(kernel: Any, points: str = "*fp32", absent: tuple[str, ...] = ()) -> dict[str, str]:
    """The types of a kernel's arguments by their names, for a compilation.

    ``*_ptr`` are float32 but for points, labels and flags; ``scale`` and ``tol`` are float32
    numbers, all else integers. Left out are the constants, in capitals, and the ``absent``.
    """
    types = {"x_ptr": points, "y_ptr": points, "scale": "fp32", "tol": "fp32"}
    for name in ("x_label_ptr", "y_label_ptr", "active_ptr"):
        types[name] = "*i32"
    types["iterations_ptr"] = "*i64"
    return {
        name: types.get(name, "*fp32" if name.endswith("_ptr") else "i32")
        for name in kernel.arg_names
        if not name.isupper() and name not in absent
    }
