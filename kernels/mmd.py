r"""Squared maximum mean discrepancy and its gradients: one pass, no kernel matrix in memory.

With the pooled points :math:`z` and signed masses :math:`s=(a,-b)`

.. math::
    \mathrm{MMD}^2 = \sum_{ij} p_{ij} k_{ij},\qquad p_{ij} = \sum_c f_c s_{ic} s_{jc},\qquad
    \partial_{z_i} = -2\sum_j p_{ij} c_{ij} (z_i - z_j),\qquad
    \partial_\sigma = \tfrac1\sigma\sum_{ij} p_{ij} c_{ij} d_{ij}^2,

:math:`c=-2\,\partial k/\partial d^2` (:mod:`ucmkd.reference.kernels`), and :math:`f_c` the
multiplier of the U-statistic within a side, 1 elsewhere (Gretton et al. 2012, eq. 3 and 5). A tile
of products :math:`z_i\cdot z_j` becomes one of kernels, and the gradient's second product is that
of the tile of :math:`p_{ij}c_{ij}` with the points, as in attention. All sums are float32 in a
fixed order, those of the value over the tiles float64: the same input gives the same bits.

Scales that are halves of one another share one exponential: the Gaussian of half the width is the
fourth power. Over five scales this multiplies the error of ``ex2.approx`` (2⁻²²) by 256 in the
narrowest, 6e-5 of that one's share.

A side whose rows need no sums of their own (its gradient is not wanted: a frozen teacher) has each
of its pairs computed once, and so have the pairs between the sides. Where a gradient is wanted,
rows are swept in full: to reuse the tile :math:`(I,J)` for the rows :math:`J` without atomics
takes O(n m d / tile) memory, and saves a quarter of the products at most, for the second product
is needed in any case.

float32 points are multiplied in three TF32 products, 16-bit ones natively; the weights of the
gradient in two bfloat16 terms for bfloat16 points, else in three TF32 products. Where a root
follows, or points are not centred, squared distances below a thousandth of the norms are taken
from differences; above it they are right to 2⁻²³·1000 of themselves, which on a line (d = 1) is
the error of such a pair's gradient, 1e-4, for Laplace and energy kernels.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ucmkd.kernels.compilation import Compilation
from ucmkd.kernels.mmd_kernels import mmd_kernel
from ucmkd.kernels.mmd_pool import POINTERS, gradients_of, pool_of, readable

KERNELS = {
    "gaussian": 0, "laplace": 1, "energy": 2, "rational_quadratic": 3, "polynomial": 4,
}  # fmt: skip
#: Longest run of scales that share an exponential.
LONGEST = 5


class Launch(NamedTuple):
    """Tile of rows and columns, blocks of the product's and the output's coordinates."""

    block_m: int
    block_n: int
    block_d: int
    block_o: int
    warps: int
    stages: int


#: Fixed configurations by (arithmetic, coordinates, rows), so that a new batch size never stalls a
#: training step. A block of the product as wide as the points serves both products.
TABLE: dict[tuple[str, int | str, str], Launch] = {
    ("float", 64, "few"): Launch(32, 16, 32, 64, 4, 2),
    ("float", "wide", "few"): Launch(32, 16, 32, 128, 4, 2),
    ("float", 32, "any"): Launch(64, 16, 32, 32, 4, 2),
    ("float", 64, "many"): Launch(64, 32, 32, 64, 8, 1),
    ("float", "wide", "many"): Launch(64, 32, 32, 128, 8, 2),
    ("float", "wide", "summed"): Launch(32, 16, 32, 64, 4, 2),
    ("half", 64, "few"): Launch(32, 32, 64, 64, 4, 2),
    ("half", "wide", "few"): Launch(32, 16, 64, 128, 4, 2),
    ("half", 32, "any"): Launch(64, 32, 32, 32, 4, 2),
    ("half", 64, "many"): Launch(64, 64, 32, 64, 8, 2),
    ("half", "wide", "many"): Launch(64, 64, 32, 128, 8, 2),
    ("half", "wide", "summed"): Launch(64, 16, 32, 64, 4, 2),
}
#: Up to this many rows in the whole batch small tiles fill a GPU better than large ones.
FEW_ROWS = 4096
#: Programs that fill a GPU: with fewer, the columns are split among several.
PROGRAMS = 512
SPLITS = 8
#: Block of classes.
BLOCK_K = 16


def runs(kernel: str, scales: Sequence[float]) -> tuple[tuple[float, ...], tuple[bool, ...]]:
    """The scales, widest first, and which of them take an exponential of their own."""
    ordered = tuple(sorted((float(s) for s in scales), reverse=True))
    fresh: list[bool] = []
    length = 0
    for i, scale in enumerate(ordered):
        shared = i > 0 and ordered[i - 1] == 2 * scale and length < LONGEST
        length = length + 1 if shared else 1
        fresh.append(not shared)
    if kernel in ("energy", "polynomial"):
        return (1.0,), (True,)
    return ordered, tuple(fresh)


def launch_of(dtype: torch.dtype, d: int, rows: int, summed: bool) -> Launch:
    """The row of the table for points of ``d`` coordinates.

    ``summed``: classes, the sums for the masses or a kernel of several logarithms, which need the
    registers of the large tiles.
    """
    kind = "half" if dtype == torch.bfloat16 else "float"
    if summed:
        return TABLE[kind, "wide", "summed"]
    if d <= 32:
        return TABLE[kind, 32, "any"]
    width: int | str = 64 if d <= 64 else "wide"
    # float16 points convert for their second product, in fewer registers a thread of large tiles.
    few = rows <= FEW_ROWS and dtype != torch.float16
    return TABLE[kind, width, "few" if few else "many"]


def precision() -> str:
    """How float32 is multiplied: AMD's matrix units take it as it is."""
    return "ieee" if torch.version.hip else "tf32x3"


def meta(
    launch: Launch, dtype: torch.dtype, kernel: str, scales: Sequence[float], degree: int,
    *, unbiased: bool, full: tuple[bool, bool], gradient: tuple[bool, bool], inner: bool,
    moment: bool, pairs: bool, one_block: bool,
) -> dict[str, Any]:  # fmt: skip
    """The constants of a launch of :func:`mmd_kernel`."""
    ordered, fresh = runs(kernel, scales)
    half = dtype != torch.float32
    return {
        "KERNEL": KERNELS[kernel], "SCALES": ordered, "FRESH": fresh, "COUNT": len(ordered),
        "DEGREE": degree if kernel == "polynomial" else 1, "UNBIASED": unbiased,
        "FULL_X": full[0], "FULL_Y": full[1], "GRAD_X": gradient[0], "GRAD_Y": gradient[1],
        "INNER": inner, "MOMENT": moment, "PAIRS": pairs,
        "EXACT": kernel != "polynomial" and (half or kernel in ("laplace", "energy")),
        "SPLIT": dtype == torch.bfloat16, "ONE_BLOCK": one_block,
        "PRECISION": precision(),
        "BLOCK_M": launch.block_m, "BLOCK_N": launch.block_n, "BLOCK_D": launch.block_d,
        "BLOCK_O": launch.block_o, "BLOCK_K": BLOCK_K,
    }  # fmt: skip


class Sums(NamedTuple):
    """What the pass gives; what was not wanted is None."""

    value: Tensor  # (B,), float64
    moment: Tensor  # (B,), float64: sum p c d²
    x: Tensor | None  # (B, n, d)
    y: Tensor | None
    within: Tensor | None  # (B, n + m, K): sum_j k_ij s_jc over the own side, x before y
    cross: Tensor | None  # the same over the other side


def mmd(
    x: Tensor,
    y: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    sigma: Tensor,
    *,
    kernel: str = "gaussian",
    scales: Sequence[float] = (1.0,),
    degree: int = 3,
    gamma: float = 1.0,
    coef: float = 1.0,
    factor: Tensor | None = None,
    want: tuple[bool, bool] = (True, True),
    inner: bool = False,
    moment: bool = False,
) -> Sums:
    """The sums of the head of this file, in four launches.

    Args:
        x: ``(B, n, d)``; float32, bfloat16 or float16.
        y: ``(B, m, d)`` of the same type.
        a: Masses ``(B, n)`` or, by classes, ``(B, n, K)``; None for ``1/n``.
        b: Masses of ``y``.
        sigma: Bandwidths ``(B,)``.
        kernel: A name of :data:`KERNELS`.
        scales: Its scales.
        degree: Of the polynomial kernel.
        gamma: Its factor.
        coef: Its constant.
        factor: Multipliers of the U-statistic ``(B, 2, K)`` for x and y; None for the V-statistic.
        want: Whether the gradients to ``x`` and ``y`` are wanted.
        inner: Whether the sums for the gradients to the masses are.
        moment: Whether the sum for the derivative with respect to the bandwidth is.

    Returns:
        The sums; points' gradients in float32.

    Raises:
        ValueError: The types of the points, one without and one with classes, or too many points.
    """
    if x.dtype != y.dtype or x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(
            f"x and y must both be float32, bfloat16 or float16; got {x.dtype} and {y.dtype}"
        )
    pairs = a is not None and a.dim() == 3
    if pairs != (b is not None and b.dim() == 3):
        raise ValueError("a and b must both have classes, or neither")
    (batch, n, d), m = x.shape, y.shape[1]
    launch = launch_of(
        x.dtype, d, batch * (n + m), pairs or inner or kernel == "rational_quadratic"
    )
    pool = pool_of(
        readable(x.contiguous()), readable(y.contiguous()), a, b,
        rows=max(launch.block_m, launch.block_n), width=max(launch.block_d, launch.block_o),
        classes=BLOCK_K, centred=kernel != "polynomial" and x.dtype == torch.float32,
    )  # fmt: skip
    total, width = pool.points.shape[1:]
    classes = pool.masses.shape[2] if pairs else 1
    blocks = total // launch.block_m
    slices = triton.cdiv(classes, BLOCK_K) if inner and pairs else 1
    chunks = max(width // launch.block_o if any(want) else 1, slices)
    # As many as fill the device, yet at least two tiles of columns for each.
    splits = 1
    while splits < SPLITS and 2 * batch * blocks * chunks * splits < PROGRAMS:
        if 4 * splits * launch.block_n > min(pool.first, total - pool.first):
            break
        splits *= 2
    real: dict[str, Any] = {"dtype": torch.float32, "device": x.device}
    sums = torch.zeros((batch, 2 * splits, blocks, 2), **real)
    products = torch.empty((batch, 2 * splits, total, classes), **real) if inner else None
    rows = pool.first * want[0] + (total - pool.first) * want[1]
    moved = torch.empty((batch, 2 * splits, rows, width), **real) if rows else None
    if factor is not None:
        factor = torch.nn.functional.pad(factor.float(), (0, classes - factor.shape[2]))
        factor = factor.contiguous()
    mmd_kernel[(batch * blocks, 2 * splits, chunks)](
        pool.points, pool.masses, pool.norms, factor, sigma.float().contiguous(), sums, products,
        moved, gamma, coef, pool.first, total, width, classes, splits, rows,
        0 if want[0] else pool.first,
        **meta(
            launch, x.dtype, kernel, scales, degree, unbiased=factor is not None,
            full=(want[0] or inner, want[1] or inner), gradient=want, inner=inner, moment=moment,
            pairs=pairs, one_block=width == launch.block_d,
        ),
        num_warps=launch.warps, num_stages=launch.stages, enable_fp_fusion=True,
    )  # fmt: skip
    ends = sums.sum((1, 2), dtype=torch.float64)
    found: list[Tensor | None] = [None, None]
    if moved is not None:
        found = gradients_of(moved, (n, m, d), pool.first * want[0], want)
    within = cross = None
    if products is not None:
        points = torch.cat([products[:, :, :n], products[:, :, pool.first : pool.first + m]], 2)
        count = a.shape[2] if pairs and a is not None else 1
        points = points[..., :count]
        within, cross = points[:, :splits].sum(1), points[:, splits:].sum(1)
    return Sums(ends[:, 0], ends[:, 1], found[0], found[1], within, cross)


def compilations() -> Iterator[Compilation]:
    """Every tabled configuration; the kernels and options that change the code, in two of them."""
    five = (4.0, 2.0, 1.0, 0.5, 0.25)
    both = (True, True)
    plain: dict[str, Any] = {
        "unbiased": False, "full": both, "gradient": both, "inner": False, "moment": False,
        "pairs": False,
    }  # fmt: skip
    everything: dict[str, Any] = {**plain, "unbiased": True, "inner": True, "moment": True}
    options: dict[str, dict[str, Any]] = {
        "gradients": plain,
        "one-side": {**plain, "full": (True, False), "gradient": (True, False)},
        "value": {**plain, "full": (False, False), "gradient": (False, False)},
        "everything": everything,
        "classes": {**everything, "pairs": True},
    }

    def one(
        key: tuple[str, int | str, str], kernel: str, option: str, dtype: torch.dtype
    ) -> Compilation:
        launch, chosen = TABLE[key], options[option]
        constants = meta(
            launch, dtype, kernel, five, 3, one_block=key[1] == launch.block_d, **chosen
        )
        absent = {
            "factor_ptr": not chosen["unbiased"], "inner_ptr": not chosen["inner"],
            "moved_ptr": not any(chosen["gradient"]),
        }  # fmt: skip
        constants |= {name: None for name, missing in absent.items() if missing}
        pointer = POINTERS[dtype]
        return Compilation(
            name=f"mmd/{'/'.join(map(str, key))}/{kernel}/{pointer[1:]}/{option}",
            kernel=mmd_kernel,
            signature={
                name: "fp32" if name in ("gamma", "coef") else pointer if name == "z_ptr"
                else "*fp32" if name.endswith("_ptr") else "i32"
                for name in mmd_kernel.arg_names if name not in constants
            },
            constants=constants,
            warps=launch.warps,
            stages=launch.stages,
            tensor_cores=True,
            exponentials=kernel not in ("energy", "polynomial"),
        )  # fmt: skip

    for key in TABLE:
        kind, width, rows = key
        dtype = torch.float32 if kind == "float" else torch.bfloat16
        if rows == "summed":
            yield one(key, "laplace", "everything", dtype)
            yield one(key, "laplace", "classes", dtype)
            yield one(key, "rational_quadratic", "gradients", dtype)
            if kind == "float":
                yield one(key, "laplace", "classes", torch.float16)
            continue
        yield one(key, "gaussian", "gradients", dtype)
        yield one(key, "laplace", "gradients", dtype)
        if width == "wide" and kind == "float" and rows == "many":
            yield one(key, "laplace", "gradients", torch.float16)
        if width == "wide" and rows == "many":
            yield one(key, "energy", "gradients", dtype)
            yield one(key, "polynomial", "gradients", dtype)
            yield one(key, "gaussian", "one-side", dtype)
            yield one(key, "gaussian", "value", dtype)
