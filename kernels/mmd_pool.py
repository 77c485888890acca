"""Before and after the pass of :mod:`ucmkd.kernels.mmd`: the pool of points, and the gradients.

A common shift of the points must not cost digits, so float32 points are centred. 16-bit points are
not: rounding the difference again would move them, while their products are exact as they are.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ucmkd.kernels.compilation import Compilation

#: Block of rows, and of coordinates.
TILE = {"BLOCK_R": 16, "BLOCK": 64}
WARPS = 4
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}


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


def readable(points: Tensor) -> Tensor:
    """The points; bfloat16 as float32 in the interpreter, whose tl.dot gets it wrong."""
    interpreted = triton.knobs.runtime.interpret and points.dtype == torch.bfloat16
    return points.float() if interpreted else points


class Pool(NamedTuple):
    """Both clouds, padded."""

    points: Tensor
    masses: Tensor
    norms: Tensor
    first: int  # rows of x


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _in_all(masses: Tensor | None) -> Tensor | None:
    """Masses ``(B, n)``, over all classes."""
    if masses is None:
        return None
    return (masses.sum(-1) if masses.dim() == 3 else masses).float().contiguous()


def pool_of(
    x: Tensor,
    y: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    *,
    rows: int,
    width: int,
    classes: int,
    centred: bool,
) -> Pool:
    """Centres (float32 points), pads and joins the clouds, and the masses with their sign.

    Args:
        x: ``(B, n, d)``.
        y: ``(B, m, d)``.
        a: Masses ``(B, n)`` or ``(B, n, K)``; None for ``1/n``.
        b: Masses of ``y``.
        rows: Either side is padded to a multiple of it,
        width: coordinates to a multiple of it,
        classes: and classes.
        centred: Whether float32 points are.
    """
    (batch, n, d), m = x.shape, y.shape[1]
    first = _up(n, rows)
    total = first + _up(m, rows)
    width = _up(d, width)
    pairs = a is not None and a.dim() == 3
    real: dict[str, Any] = {"dtype": torch.float32, "device": x.device}
    one, two = _in_all(a), _in_all(b)
    points = torch.empty((batch, total, width), dtype=x.dtype, device=x.device)
    norms = torch.empty((batch, total), **real)
    options: dict[str, Any] = {
        "WEIGHTED_X": one is not None, "WEIGHTED_Y": two is not None, **TILE, "num_warps": WARPS,
        "enable_fp_fusion": True,
    }  # fmt: skip
    centred = centred and x.dtype == torch.float32
    sums = mass = norms
    pieces = min(32, triton.cdiv(max(n, m), 64))
    if centred:
        sums, mass = torch.empty((batch, pieces, d), **real), torch.empty((batch, pieces), **real)
        centre_kernel[(batch, pieces, triton.cdiv(d, TILE["BLOCK"]))](
            x, y, one, two, sums, mass, n, m, d, pieces, **options
        )
    if pairs and a is not None and b is not None:
        masses = torch.zeros((batch, total, _up(a.shape[2], classes)), **real)
        masses[:, :n, : a.shape[2]] = a
        torch.neg(b, out=masses[:, first : first + m, : b.shape[2]])
    else:
        masses = torch.empty((batch, total), **real)
    pool_kernel[(batch * triton.cdiv(total, TILE["BLOCK_R"]),)](
        x, y, one, two, sums, mass, points, masses, norms, n, m, d, first, total, width, pieces,
        CENTRED=centred, MASSES=not pairs, **options,
    )  # fmt: skip
    return Pool(points, masses, norms, first)


def gradients_of(
    moved: Tensor, shape: tuple[int, int, int], first: int, want: tuple[bool, bool]
) -> list[Tensor | None]:
    """Gradients ``(B, n, d)`` and ``(B, m, d)`` from the parts ``(B, parts, rows, width)``.

    Args:
        moved: The parts.
        shape: ``n``, ``m`` and ``d``.
        first: Padded rows of x among those of the parts.
        want: Whether either gradient is wanted.
    """
    n, m, d = shape
    batch, parts, rows, width = moved.shape
    found = [
        moved.new_empty((batch, count, d)) if wanted else None
        for count, wanted in zip((n, m), want, strict=True)
    ]
    gradient_kernel[
        (batch * triton.cdiv(rows, TILE["BLOCK_R"]), triton.cdiv(d, TILE["BLOCK"]))
    ](
        moved, *found, n, m, d, first, rows, width, parts, WANT_X=want[0], WANT_Y=want[1], **TILE,
        num_warps=WARPS, enable_fp_fusion=True,
    )  # fmt: skip
    return found


def compilations() -> Iterator[Compilation]:
    """Every type of points and combination of options that changes the code much."""

    def one(kernel: Any, name: str, points: str, absent: set[str], **options: bool) -> Compilation:
        constants: dict[str, Any] = {**options, **TILE, **dict.fromkeys(absent)}
        typed = {"x_ptr", "y_ptr", "z_ptr"}
        return Compilation(
            name=name,
            kernel=kernel,
            signature={
                argument: "i32" if not argument.endswith("_ptr")
                else points if argument in typed else "*fp32"
                for argument in kernel.arg_names if argument not in constants
            },
            constants=constants,
            warps=WARPS,
            stages=3,
            tensor_cores=False,
            exponentials=False,
        )  # fmt: skip

    for weighted in (True, False):
        absent = set() if weighted else {"a_ptr", "b_ptr"}
        masses = {"WEIGHTED_X": weighted, "WEIGHTED_Y": weighted}
        shown = "masses" if weighted else "uniform"
        yield one(centre_kernel, f"centre/{shown}", "*fp32", absent, **masses)
        for points, own in product(POINTERS.values(), (True, False)):
            if not weighted and not own:
                continue  # classes are masses
            yield one(
                pool_kernel, f"pool/{points[1:]}/{shown if own else 'classes'}", points, absent,
                CENTRED=points == "*fp32", MASSES=own, **masses,
            )  # fmt: skip
    for want in ((True, True), (True, False), (False, True)):
        name = "+".join(side for side, wanted in zip("xy", want, strict=True) if wanted)
        absent = {f"{side}_ptr" for side, wanted in zip("xy", want, strict=True) if not wanted}
        yield one(
            gradient_kernel, f"gradient/{name}", "*fp32", absent, WANT_X=want[0], WANT_Y=want[1]
        )
