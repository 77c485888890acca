"""One solve by one backend, without derivatives: what the operator and its eager form share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ucmkd import _backend, reference
from ucmkd.reference import Solution


class Flag:
    """Options of a solve, bits of one integer: each argument of an operator costs time."""

    RELATIVE = 1  # ε, ρ and the label cost are in units of the mean feature cost
    X = 2  # emit the gradient to x
    Y = 4  # emit the gradient to y
    ACCELERATE = 8
    DISTANCE = 16  # emit the plan's mass between the classes
    BFLOAT16 = 32  # the points came as bfloat16, and lose nothing if they become it again
    FLOAT16 = 64


_NARROW = {torch.bfloat16: Flag.BFLOAT16, torch.float16: Flag.FLOAT16}


def narrow(x: Tensor, y: Tensor) -> int:
    """The flag that says in which 16-bit type both clouds came, or 0."""
    return _NARROW.get(x.dtype, 0) if x.dtype == y.dtype else 0


def as_numpy(tensor: Any) -> Any:
    """The memory of a CPU tensor as a contiguous array; None and arrays stay what they are."""
    if tensor is None or isinstance(tensor, np.ndarray):
        return tensor
    tensor = tensor.detach().resolve_neg()
    return (tensor if tensor.is_contiguous() else tensor.contiguous()).numpy()


def as_tensor(value: Any) -> Tensor:
    """An array as a tensor on the same memory; a tensor as it is."""
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def as_tensors(solution: Solution) -> Solution:
    """All fields as tensors."""
    return Solution(*map(as_tensor, solution))


def solve(
    x: Any,
    y: Any,
    a: Tensor | None,
    b: Tensor | None,
    x_label: Tensor | None,
    y_label: Tensor | None,
    distance: Tensor | None,
    start: Tensor | None,
    parameters: Any,
    cost: str,
    tol: float,
    max_iter: int,
    flags: int,
    backend: str,
) -> Solution:
    """Solves a batch; ``y=None`` is the symmetric self-term.

    ``start`` is the y-potential to begin from (the only one of a self-term); ``parameters`` holds
    ε, ρ_x, ρ_y and λ in its rows ``(4, B)``; the label cost is λ·D[k, l] with ``distance`` D
    ``(K, L)``, or λ·[k ≠ l] without. The numbers of each problem (value, residual, scale,
    transport, mismatch) come in float64. The Rust backend returns NumPy arrays, for a tensor of
    each field would take longer than a small problem: :func:`as_tensors` makes them; points and
    parameters may be arrays for it, too.
    """
    if backend == "rust":
        begin = as_numpy(start)
        out = _backend.rust().sinkhorn(
            as_numpy(x),
            as_numpy(y),
            as_numpy(a),
            as_numpy(b),
            as_numpy(x_label),
            as_numpy(y_label),
            as_numpy(distance),
            begin if y is None else None,
            None if y is None else begin,
            as_numpy(parameters),
            cost,
            bool(flags & Flag.RELATIVE),
            tol,
            max_iter,
            bool(flags & Flag.X),
            bool(flags & Flag.Y),
            bool(flags & Flag.DISTANCE),
            bool(flags & Flag.ACCELERATE),
            _backend.cache_budget(),
            torch.get_num_threads(),
        )
        return Solution(*out)
    batch, n, _ = x.shape
    a = x.new_full((batch, n), 1 / n) if a is None else a
    if y is None:
        b = a
    elif b is None:
        b = y.new_full(y.shape[:2], 1 / y.shape[1])
    keywords = _keywords(x, x_label, y_label, distance, parameters, cost, tol, max_iter, flags)
    keywords["g0"] = _finite(start)
    # Not in autocast's type: this also runs outside the dispatcher, which would see to it.
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        if backend == "triton":
            from ucmkd.ops import _triton

            x, y = as_given(flags, x, y)
            accelerate = bool(flags & Flag.ACCELERATE)
            with torch.cuda.device_of(x):
                found = _triton.solve(x, y, a, b, accelerate=accelerate, **keywords)
        else:
            found = reference.sinkhorn(x, y, a, b, **keywords)
    return _exact(found)


def solve_together(
    x: Tensor,
    y: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    x_label: Tensor | None,
    y_label: Tensor | None,
    distance: Tensor | None,
    starts: tuple[Tensor | None, Tensor | None, Tensor | None],
    parameters: Tensor,
    cost: str,
    tol: float,
    max_iter: int,
    flags: int,
    own: tuple[int, ...],
) -> tuple[Solution, ...] | None:
    """The cross term and the self-terms of the sides ``own`` in one launch of the Triton backend.

    Arguments as in :func:`solve`, with a start for each term; None if they are too large for that.
    """
    from ucmkd.ops import _triton

    x, y = as_given(flags, x, y)
    if not _triton.together(x, y):
        return None
    a = x.new_full(x.shape[:2], 1 / x.shape[1], dtype=torch.float32) if a is None else a
    b = y.new_full(y.shape[:2], 1 / y.shape[1], dtype=torch.float32) if b is None else b
    keywords = _keywords(a, x_label, y_label, distance, parameters, cost, tol, max_iter, flags)
    keywords["g0"], *rest = map(_finite, starts)
    keywords["own_starts"] = tuple(rest)
    keywords["terms"] = ("cross", *("xy"[side] for side in own))
    keywords["accelerate"] = bool(flags & Flag.ACCELERATE)
    with (
        torch.no_grad(),
        torch.autocast(x.device.type, enabled=False),
        torch.cuda.device_of(x),
    ):
        return tuple(map(_exact, _triton.solve_together(x, y, a, b, **keywords)))


def _keywords(
    like: Tensor,
    x_label: Tensor | None,
    y_label: Tensor | None,
    distance: Tensor | None,
    parameters: Tensor,
    cost: str,
    tol: float,
    max_iter: int,
    flags: int,
) -> dict[str, Any]:
    epsilon, reach_x, reach_y, label_cost = parameters.to(like.dtype)
    return dict(
        epsilon=epsilon, cost=cost, reach_x=reach_x, reach_y=reach_y, x_label=x_label,
        y_label=y_label, label_cost=label_cost, distance=distance,
        relative=bool(flags & Flag.RELATIVE), tol=tol, max_iter=max_iter,
        want_x=bool(flags & Flag.X), want_y=bool(flags & Flag.Y),
        want_distance=bool(flags & Flag.DISTANCE),
    )  # fmt: skip


def _finite(start: Tensor | None) -> Tensor | None:
    return None if start is None else torch.nan_to_num(start, nan=0.0, posinf=0.0, neginf=0.0)


def as_given(flags: int, x: Tensor, y: Any) -> tuple[Tensor, Any]:
    """Points in the 16-bit type in which they came: tensor cores multiply it as it is."""
    for dtype, flag in _NARROW.items():
        if flags & flag:
            return x.to(dtype), None if y is None else y.to(dtype)
    return x, y


def _exact(found: Solution) -> Solution:
    """The numbers of each problem in float64."""
    return found._replace(
        value=found.value.double(), residual=found.residual.double(), scale=found.scale.double(),
        transport=found.transport.double(), mismatch=found.mismatch.double(),
    )  # fmt: skip
