"""Small Sinkhorn problems on the GPU, each solved by one program of one launch."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ucmkd.reference import Solution

#: The kernel's cost and whether it wants normalised points.
_COSTS = {
    "sqeuclidean": ("sqeuclidean", False),
    "euclidean": ("euclidean", False),
    "l1": ("l1", False),
    "cosine": ("sqeuclidean", True),
    "chordal": ("euclidean", True),
}
#: The self-terms' numbers in the kernel.
_OWN = {"x": 1, "y": 2}
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _kernel() -> ModuleType:
    return importlib.import_module("ucmkd.kernels.whole")


def fits(n: int, m: int, d: int, dtype: torch.dtype) -> bool:
    """Whether a problem of ``n`` and ``m`` points of ``d`` coordinates is solved in one launch."""
    points = max(n, m)
    return 0 < points <= _kernel().BLOCKS[-1] and 0 < d < 2**31 // points and dtype in _DTYPES


def _check(x: Tensor, y: Tensor, cost: str, terms: tuple[str, ...]) -> None:
    if cost not in _COSTS:
        raise ValueError(f"cost must be one of {', '.join(_COSTS)}; got {cost!r}")
    for name, points in (("x", x), ("y", y)):
        if points.dtype not in _DTYPES:
            raise ValueError(
                f"{name} must be float32, bfloat16 or float16 for this kernel; got {points.dtype}"
            )
    if not fits(x.shape[1], y.shape[1], x.shape[2], x.dtype):
        most = _kernel().BLOCKS[-1]
        raise ValueError(
            f"x and y must have 1 to {most} points of one coordinate or more; "
            f"got shapes {tuple(x.shape)} and {tuple(y.shape)}"
        )
    crossed = terms[:1] == ("cross",)
    own = terms[1:] if crossed else terms
    allowed = ("x", "y") if crossed else ("x",)
    if any(t not in allowed for t in own) or len({*terms}) < max(len(terms), 1):
        raise ValueError(
            f"terms must be 'cross' and then 'x' or 'y' or both, or 'x' alone; got {terms}"
        )


def _vector(parameter: Tensor) -> Tensor:
    return parameter.float().contiguous()


def _launch(
    x: Tensor,
    y: Tensor,
    sizes: tuple[int, int, int, int],
    a: Tensor,
    b: Tensor,
    kind: str,
    constants: dict[str, Any],
    *,
    terms: tuple[int, ...],
    gradients: tuple[Tensor, Tensor, Tensor, Tensor],
    parameters: tuple[Tensor, Tensor, Tensor, Tensor | None],
    labels: tuple[Tensor | None, Tensor | None, Tensor | None],
    starts: tuple[Tensor | None, Tensor | None, Tensor | None],
    strides: tuple[int, ...],
    classes: tuple[int, int],
    flags: int,
    tol: float,
    max_iter: int,
    accelerate: bool,
) -> tuple[Solution, ...]:
    """One tensor for each field, the terms one after the other: no field shares its memory with
    another of the same term, which an operator may not return."""
    whole = _kernel()
    batch, n, m, d = sizes
    count, device = len(terms), x.device
    block = whole.block_of(max(n, m))
    config = whole.TABLE[kind, block]
    rows = [m if term == 2 else n for term in terms]
    columns = [n if term == 1 else m for term in terms]

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    f, row = empty(batch * sum(rows)), empty(batch * sum(rows))
    g, column = empty(batch * sum(columns)), empty(batch * sum(columns))
    numbers = [empty(count, batch, dtype=torch.float64) for _ in range(5)]
    iterations = empty(count, batch, dtype=torch.int64)
    converged = empty(count, batch, dtype=torch.bool)
    emitted = bool(flags & whole.Flag.CLASSES)
    mass = empty(count, batch, *classes) if emitted else empty(0)
    scratch = empty(count * batch * whole.scratch_size(block))
    flags |= whole.Flag.ACCELERATE * (accelerate and tol > 0)
    for start, flag in zip(
        starts, (whole.Flag.START, whole.Flag.X_START, whole.Flag.Y_START), strict=True
    ):
        flags |= flag * (start is not None)
    # In place of a start that is absent any tensor will do: it is not read.
    given = [parameters[0] if start is None else start for start in starts]
    whole.whole_kernel[(count * batch,)](
        x, y, a, b, *labels, *given, *parameters, f, g, row, column, *gradients,
        *numbers, iterations, converged, mass, scratch,
        batch, n, m, d, *classes, *strides, tol, max_iter,
        sum(term << 2 * place for place, term in enumerate(terms)), int(flags),
        LABEL=_label_kind(labels).value, PRECISION=whole.PRECISION, ROWS=config.rows, BLOCK=block,
        BLOCK_D=config.block_d, BLOCK_O=config.block_o, BLOCK_K=config.block_k,
        num_warps=config.warps, num_stages=config.stages, **constants,
    )  # fmt: skip

    def parts(packed: Tensor, lengths: list[int]) -> list[Tensor]:
        if count == 1:
            return [packed.view(batch, lengths[0])]
        pieces = packed.split([batch * length for length in lengths])
        return [p.view(batch, k) for p, k in zip(pieces, lengths, strict=True)]

    fs, rows_of = parts(f, rows), parts(row, rows)
    gs, columns_of = parts(g, columns), parts(column, columns)
    x_gradient, y_gradient, *own_gradients = gradients
    found = []
    for t, term in enumerate(terms):
        value, residual, scale, transport, mismatch = (number[t] for number in numbers)
        nothing = empty(0)
        found.append(
            Solution(
                value, fs[t], gs[t], iterations[t], residual, converged[t], scale, rows_of[t],
                columns_of[t], transport, mismatch,
                own_gradients[term - 1] if term else x_gradient,
                nothing if term else y_gradient, mass[t] if emitted else empty(0),
            )
        )  # fmt: skip
    return tuple(found)


def _label_kind(labels: tuple[Tensor | None, Tensor | None, Tensor | None]) -> Any:
    tiles = importlib.import_module("ucmkd.kernels.tiles")
    if labels[0] is None:
        return tiles.NO_LABEL
    return tiles.MISMATCH if labels[2] is None else tiles.DISTANCE


def solve(
    x: Tensor,
    y: Tensor | None,
    a: Tensor,
    b: Tensor | None,
    *,
    epsilon: Tensor,
    cost: str = "sqeuclidean",
    reach_x: Tensor,
    reach_y: Tensor,
    x_label: Tensor | None = None,
    y_label: Tensor | None = None,
    label_cost: Tensor | None = None,
    distance: Tensor | None = None,
    g0: Tensor | None = None,
    own_starts: tuple[Tensor | None, Tensor | None] = (None, None),
    relative: bool = False,
    tol: float = 1e-6,
    max_iter: int = 1000,
    accelerate: bool = True,
    want_x: bool = True,
    want_y: bool = True,
    want_distance: bool = False,
    terms: tuple[str, ...] = ("cross",),
) -> tuple[Solution, ...]:
    r"""Entropic optimal transport of a batch of small problems, with the self-terms in the same
    launch if wanted; :func:`ucmkd.reference.sinkhorn` has the arguments and the results' meaning.

    .. math::
        \mathrm{OT}_\varepsilon(\alpha,\beta),\quad \mathrm{OT}_\varepsilon(\alpha,\alpha),\quad
        \mathrm{OT}_\varepsilon(\beta,\beta)

    Nothing waits for the device: iterations, residual and convergence are tensors. Everything is
    computed in float32, whatever the points; the numbers of a problem (value, residual, scale,
    transport, mismatch) are returned as float64. Points of zero weight must be finite.

    Args:
        x: ``(B, n, d)``, float32, bfloat16 or float16.
        y: ``(B, m, d)``, or None if only the term ``"x"`` is wanted.
        a: Weights ``(B, n)``; a zero masks a point.
        b: Weights ``(B, m)``, None with y.
        epsilon: ``(B,)``, as are the reaches and the label cost.
        cost: ``sqeuclidean``, ``euclidean``, ``cosine``, ``l1`` or ``chordal``.
        reach_x: Infinity for a strict marginal.
        reach_y: The same for y.
        x_label: Integers ``(B, n)``.
        y_label: Integers ``(B, m)``.
        label_cost: Price of a label mismatch.
        distance: Label distances ``(K, L)`` in units of ``label_cost``, symmetric if there are
            self-terms; without it 1 where labels differ.
        g0: Start of the y-potential ``(B, m)``.
        own_starts: Starts of the self-terms' potentials, ``(B, n)`` and ``(B, m)``.
        relative: ε, the reaches and ``label_cost`` are in units of the mean feature cost of the
            cross term, in all terms; of a self-term alone, in units of its own.
        tol: Tolerance of the residual.
        max_iter: Most iterations.
        accelerate: Mix the iterates (Anderson). Off with ``tol=0``, where iterations are counted.
        want_x: Emit the gradients to x.
        want_y: Emit the gradients to y.
        want_distance: Emit the plan's mass between the classes ``(B, K, L)``; needs ``distance``.
        terms: ``"cross"`` and then ``"x"`` or ``"y"`` or both; or ``"x"`` alone, to which y, b and
            what belongs to them say nothing.

    Returns:
        A solution for each term, in that order. A self-term has the total derivative to its points
        as ``grad_x``. No two fields of a solution share memory.

    Raises:
        ValueError: An unknown cost or term, points of another type, or too many of them.
    """
    if y is None or b is None:
        if terms != ("x",):
            raise ValueError(f"without y and b there is only the term 'x'; got terms {terms}")
        y, b = x, a
    if terms == ("x",):
        # Of y nothing is computed, and its size should not set that of the tile.
        y, b, y_label, want_y, g0 = x, a, x_label, False, None
        reach_y, own_starts = reach_x, (own_starts[0], None)
    _check(x, y, cost, terms)
    if y.dtype != x.dtype:
        x, y = x.float(), y.float()
    centred = x.dtype == torch.float32
    tiles = importlib.import_module("ucmkd.kernels.tiles")
    whole = _kernel()
    batch, n, d = x.shape
    m = y.shape[1]
    kernel_cost, normalised = _COSTS[cost]

    def gradient(points: Tensor, wanted: bool) -> Tensor:
        shape = points.shape if wanted else (0,)
        return torch.empty(shape, dtype=torch.float32, device=x.device)

    gradients = (
        gradient(x, want_x and "cross" in terms), gradient(y, want_y and "cross" in terms),
        gradient(x, want_x and "x" in terms), gradient(y, want_y and "y" in terms),
    )  # fmt: skip
    same = y is x
    x = tiles.readable(x.contiguous())
    y = x if same else tiles.readable(y.contiguous())
    labels: tuple[Tensor | None, Tensor | None, Tensor | None] = (None, None, None)
    classes = (0, 0)
    price = None
    if x_label is not None and y_label is not None and label_cost is not None:
        labels = (x_label.contiguous(), y_label.contiguous(), None)
        price = _vector(label_cost)
        if distance is not None:
            labels = (*labels[:2], distance.float().contiguous())
            classes = (distance.shape[0], distance.shape[1])
    starts = tuple(None if s is None else s.float().contiguous() for s in (g0, *own_starts))
    flag = whole.Flag
    return _launch(
        x, y, (batch, n, m, d), _vector(a), _vector(b), _kind(kernel_cost, centred),
        {
            "COST": tiles.COSTS[kernel_cost], "NORMALISED": normalised,
            "CENTRED": centred and not normalised and kernel_cost != "l1",
        },
        terms=tuple(_OWN.get(term, 0) for term in terms), gradients=gradients,
        parameters=(_vector(epsilon), _vector(reach_x), _vector(reach_y), price),
        labels=labels, starts=(starts[0], starts[1], starts[2]), strides=(0, 0, 0),
        classes=classes,
        flags=flag.X * want_x | flag.Y * want_y | flag.RELATIVE * relative
        | flag.CLASSES * (want_distance and classes[0] > 0),
        tol=tol, max_iter=max_iter, accelerate=accelerate,
    )  # fmt: skip


def _kind(kernel_cost: str, single: bool) -> str:
    """The row of the table."""
    if kernel_cost == "l1":
        return "l1"
    return "float" if single else "half"


def solve_matrix(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    epsilon: Tensor,
    reach_x: Tensor,
    reach_y: Tensor,
    g0: Tensor | None = None,
    relative: bool = False,
    tol: float = 1e-6,
    max_iter: int = 1000,
    accelerate: bool = True,
    want_plan: bool = True,
) -> Solution:
    """The same for a cost matrix ``(B, n, m)``, which may be any strided view.

    Args:
        cost: float32, bfloat16 or float16.
        a: Weights ``(B, n)``.
        b: Weights ``(B, m)``.
        epsilon: ``(B,)``, as are the reaches.
        reach_x: Infinity for a strict marginal.
        reach_y: The same for y.
        g0: Start of the y-potential ``(B, m)``.
        relative: ε and the reaches are in units of the mean cost.
        tol: Tolerance of the residual.
        max_iter: Most iterations.
        accelerate: Mix the iterates (Anderson).
        want_plan: Emit the plan ``(B, n, m)``, the gradient to the matrix, as ``grad_x``.

    Raises:
        ValueError: A matrix of another type, or too large.
    """
    batch, n, m = cost.shape
    if not fits(n, m, 1, cost.dtype):
        raise ValueError(
            f"cost must be float32, bfloat16 or float16, with 1 to {_kernel().BLOCKS[-1]} rows "
            f"and columns; got {cost.dtype} of shape {tuple(cost.shape)}"
        )
    shape = (batch, n, m) if want_plan else (0,)
    plan = torch.empty(shape, dtype=torch.float32, device=cost.device)
    # An array for the gradient to each side, of which there is none.
    empty = (plan.new_empty(0), plan.new_empty(0), plan.new_empty(0))
    whole = _kernel()
    return _launch(
        cost, cost, (batch, n, m, 1), _vector(a), _vector(b), "matrix",
        {"COST": whole.MATRIX.value, "NORMALISED": False, "CENTRED": False},
        terms=(0,), gradients=(plan, *empty),
        parameters=(_vector(epsilon), _vector(reach_x), _vector(reach_y), None),
        labels=(None, None, None),
        starts=(None if g0 is None else g0.float().contiguous(), None, None),
        strides=cost.stride(), classes=(0, 0),
        flags=whole.Flag.X * want_plan | whole.Flag.RELATIVE * relative,
        tol=tol, max_iter=max_iter, accelerate=accelerate,
    )[0]  # fmt: skip
