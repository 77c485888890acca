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
    if (
        terms[:1] != ("cross",)
        or any(t not in _OWN for t in terms[1:])
        or len(set(terms)) < len(terms)
    ):
        raise ValueError(f"terms must be 'cross', then 'x' or 'y' or both; got {terms}")


class _Outputs:
    """The tensors of one term that the kernel fills."""

    def __init__(
        self, like: Tensor, batch: int, n: int, m: int, x_shape: Any, y_shape: Any
    ) -> None:
        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.float32, device=like.device)

        self.f, self.row = empty(batch, n), empty(batch, n)
        self.g, self.column = empty(batch, m), empty(batch, m)
        self.grad_x, self.grad_y = empty(*x_shape), empty(*y_shape)

    def solution(
        self, numbers: Tensor, iterations: Tensor, converged: Tensor, class_mass: Tensor
    ) -> Solution:
        value, residual, scale, transport, mismatch = numbers
        return Solution(
            value, self.f, self.g, iterations, residual, converged, scale, self.row, self.column,
            transport, mismatch, self.grad_x, self.grad_y, class_mass,
        )  # fmt: skip


def _vector(parameter: Tensor) -> Tensor:
    return parameter.float().contiguous()


def _launch(
    x: Tensor,
    y: Tensor | None,
    sizes: tuple[int, int, int, int],
    a: Tensor,
    b: Tensor,
    outputs: list[_Outputs],
    kind: str,
    constants: dict[str, Any],
    *,
    parameters: tuple[Tensor, Tensor, Tensor, Tensor | None],
    labels: tuple[Tensor | None, Tensor | None, Tensor | None],
    starts: tuple[Tensor | None, Tensor | None, Tensor | None],
    strides: tuple[int, ...],
    classes: tuple[int, int],
    relative: bool,
    tol: float,
    max_iter: int,
    accelerate: bool,
    own: tuple[int, ...] = (),
) -> list[Solution]:
    whole = _kernel()
    batch, n, m, d = sizes
    terms, block, device = len(outputs), whole.block_of(max(n, m)), x.device
    config = whole.TABLE[kind, block]
    numbers = torch.empty((terms, 5, batch), dtype=torch.float32, device=device)
    iterations = torch.empty((terms, batch), dtype=torch.int64, device=device)
    converged = torch.empty((terms, batch), dtype=torch.bool, device=device)
    mass = torch.empty((terms, batch, *classes), dtype=torch.float32, device=device)
    scratch = torch.empty(
        terms * batch * whole.scratch_size(block), dtype=torch.float32, device=device
    )
    # An absent term is never written: any tensor will do.
    slots = {0: outputs[0], **dict(zip(own, outputs[1:], strict=True))}
    first, second = slots.get(1, outputs[0]), slots.get(2, outputs[0])
    epsilon, reach_x, reach_y, price = parameters
    whole.whole_kernel[(terms * batch,)](
        x, y, a, b, *labels, *starts, epsilon, reach_x, reach_y, price,
        outputs[0].f, outputs[0].g, outputs[0].row, outputs[0].column,
        outputs[0].grad_x, outputs[0].grad_y,
        first.f, first.g, first.row, first.column, first.grad_x,
        second.f, second.g, second.row, second.column, second.grad_x,
        numbers, iterations, converged, mass, scratch,
        batch, n, m, d, *classes, *strides, tol, max_iter,
        TERMS=terms, HAS_LABEL=labels[0] is not None, HAS_DISTANCE=labels[2] is not None,
        RELATIVE=relative, WARM=starts[0] is not None, X_WARM=starts[1] is not None,
        Y_WARM=starts[2] is not None, ACCELERATE=accelerate and tol > 0,
        FIRST=own[0] if own else 0, SECOND=own[1] if len(own) > 1 else 0, BLOCK=block,
        BLOCK_D=config.block_d, BLOCK_O=config.block_o, BLOCK_K=config.block_k,
        num_warps=config.warps, num_stages=config.stages, **constants,
    )  # fmt: skip
    return [
        out.solution(
            numbers[t], iterations[t], converged[t],
            mass[t] if constants["WANT_CLASSES"] else numbers.new_empty(0),
        )
        for t, out in enumerate(outputs)
    ]  # fmt: skip


def solve(
    x: Tensor,
    y: Tensor,
    a: Tensor,
    b: Tensor,
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

    Nothing waits for the device: iterations, residual and convergence are tensors. Everything
    computed and returned is float32, whatever the points. Points of zero weight must be finite.

    Args:
        x: ``(B, n, d)``, float32, bfloat16 or float16.
        y: ``(B, m, d)``.
        a: Weights ``(B, n)``; a zero masks a point.
        b: Weights ``(B, m)``.
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
            cross term, in all terms.
        tol: Tolerance of the residual.
        max_iter: Most iterations.
        accelerate: Mix the iterates (Anderson). Off with ``tol=0``, where iterations are counted.
        want_x: Emit the gradients to x; of the self-term the total derivative.
        want_y: Emit the gradients to y.
        want_distance: Emit the plan's mass between the classes ``(B, K, L)``; needs ``distance``.
        terms: ``"cross"`` and then ``"x"`` or ``"y"`` or both.

    Returns:
        A solution for each term, in that order.

    Raises:
        ValueError: An unknown cost or term, points of another type, or too many of them.
    """
    _check(x, y, cost, terms)
    if y.dtype != x.dtype:
        x, y = x.float(), y.float()
    centred = x.dtype == torch.float32
    softmin = importlib.import_module("ucmkd.kernels.softmin")
    x, y = softmin.readable(x.contiguous()), softmin.readable(y.contiguous())
    batch, n, d = x.shape
    m = y.shape[1]
    kernel_cost, normalised = _COSTS[cost]
    own = tuple(_OWN[term] for term in terms[1:])
    outputs = [_Outputs(x, batch, n, m, x.shape if want_x else (0,), y.shape if want_y else (0,))]
    for term in own:
        points, wanted = (x, want_x) if term == 1 else (y, want_y)
        k, shape = points.shape[1], points.shape if wanted else (0,)
        outputs.append(_Outputs(x, batch, k, k, shape, (0,)))
    labelled = x_label is not None and y_label is not None and label_cost is not None
    labels: tuple[Tensor | None, Tensor | None, Tensor | None] = (None, None, None)
    classes = (0, 0)
    if labelled and x_label is not None and y_label is not None:
        labels = (x_label.contiguous(), y_label.contiguous(), None)
        if distance is not None:
            labels = (*labels[:2], distance.float().contiguous())
            classes = (distance.shape[0], distance.shape[1])
    price = label_cost if labelled else None
    starts = tuple(None if s is None else s.float().contiguous() for s in (g0, *own_starts))
    found = _launch(
        x, y, (batch, n, m, d), _vector(a), _vector(b), outputs,
        _kind(kernel_cost, centred),
        {
            "COST": softmin.COSTS[kernel_cost], "NORMALISED": normalised,
            "CENTRED": centred and not normalised and kernel_cost != "l1",
            "WANT_X": want_x, "WANT_Y": want_y, "WANT_CLASSES": want_distance and classes[0] > 0,
        },
        parameters=(
            _vector(epsilon), _vector(reach_x), _vector(reach_y),
            None if price is None else _vector(price),
        ),
        labels=labels, starts=(starts[0], starts[1], starts[2]), strides=(0, 0, 0),
        classes=classes, relative=relative, tol=tol, max_iter=max_iter, accelerate=accelerate,
        own=own,
    )  # fmt: skip
    return tuple(found)


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
    outputs = _Outputs(cost, batch, n, m, (batch, n, m) if want_plan else (0,), (0,))
    start = None if g0 is None else g0.float().contiguous()
    return _launch(
        cost, cost, (batch, n, m, 1), _vector(a), _vector(b), [outputs], "matrix",
        {
            "COST": _kernel().MATRIX.value, "NORMALISED": False, "CENTRED": False,
            "WANT_X": want_plan, "WANT_Y": False, "WANT_CLASSES": False,
        },
        parameters=(_vector(epsilon), _vector(reach_x), _vector(reach_y), None),
        labels=(None, None, None), starts=(start, None, None), strides=cost.stride(),
        classes=(0, 0), relative=relative, tol=tol, max_iter=max_iter, accelerate=accelerate,
    )[0]  # fmt: skip
