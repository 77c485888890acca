"""The Triton backend: when it is there, and Sinkhorn driven by its kernels.

Triton and the kernels are imported on first use, so that a machine without them pays nothing.
The loop is the one of :mod:`ucmkd.reference`, over a ``softmin`` that never stores a cost matrix.
"""

from __future__ import annotations

import functools
import importlib
import os
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ucmkd import reference

#: The kernels' cost and its factor; ``_NORMALISED`` ones want normalised points.
_COSTS = {
    "sqeuclidean": ("sqeuclidean", 1.0),
    "euclidean": ("euclidean", 1.0),
    "l1": ("l1", 1.0),
    "cosine": ("sqeuclidean", 0.5),
    "chordal": ("euclidean", 1.0),
}
_NORMALISED = ("cosine", "chordal")
#: On a GPU the loop asks every so many iterations whether all problems have converged; each
#: question waits for the device. Problems that have converged stand still meanwhile.
CHECK_EVERY = 10


@functools.cache
def _import_triton() -> tuple[ModuleType | None, str]:
    try:
        return importlib.import_module("triton"), ""
    except Exception as error:  # a broken installation fails in many ways
        return None, f"triton cannot be imported: {error}"


def _kernels() -> tuple[ModuleType, ModuleType]:
    return (
        importlib.import_module("ucmkd.kernels.softmin"),
        importlib.import_module("ucmkd.kernels.transport"),
    )


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on CPU tensors (``TRITON_INTERPRET=1``)."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def available() -> tuple[bool, str]:
    """Says whether the kernels can run here, with the device's name or the reason why not."""
    triton, reason = _import_triton()
    if triton is None:
        return False, reason
    version = getattr(triton, "__version__", "unknown")
    if interpreted():
        return True, f"triton {version}, interpreter (TRITON_INTERPRET=1): slow, for tests"
    if torch.version.cuda is None and torch.version.hip is None:
        return (
            False,
            "this PyTorch is built without CUDA or ROCm, and TRITON_INTERPRET=1 is not set",
        )
    if not torch.cuda.is_available():
        return False, "no GPU with a working driver was found, and TRITON_INTERPRET=1 is not set"
    major, minor = torch.cuda.get_device_capability()
    if torch.version.hip is None and major < 8:
        return (
            False,
            f"the kernels need compute capability 8.0 or newer; this GPU has {major}.{minor}",
        )
    return True, f"triton {version}, {torch.cuda.get_device_name()}"


class _Side(NamedTuple):
    """One cloud as the kernels want it."""

    points: Tensor
    norm: Tensor | None
    weight: Tensor
    label: Tensor | None


def _prepare(
    x: Tensor, y: Tensor | None, a: Tensor, b: Tensor, cost: str
) -> tuple[Tensor, Tensor | None]:
    """Points in one type, normalised or centred: a common shift must not cost digits.

    16-bit points are not centred: rounding the difference again would move them, while their
    products are exact as they are.
    """
    if y is not None and y.dtype != x.dtype:
        x, y = x.float(), y.float()
    if cost in _NORMALISED:
        return reference.normalise(x.float()), None if y is None else reference.normalise(y.float())
    if x.dtype != torch.float32:
        return x, y
    # A masked point may lie anywhere: it has no part in the centre.
    total = torch.einsum("bn,bnd->bd", a, x)
    mass = a.sum(-1)
    if y is not None:
        total = total + torch.einsum("bn,bnd->bd", b, y)
        mass = mass + b.sum(-1)
    centre = (total / mass.unsqueeze(-1)).unsqueeze(-2)
    return x - centre, None if y is None else y - centre


def _pull_back(points: Tensor, gradient: Tensor) -> Tensor:
    """A gradient to normalised points as the gradient to the points; 0 for a zero vector."""
    points = points.float()
    square = (points * points).sum(-1, keepdim=True)
    length = torch.where(square > 0, square, torch.ones_like(square)).sqrt()
    unit = points / length
    tangent = gradient - (gradient * unit).sum(-1, keepdim=True) * unit
    return torch.where(square > 0, tangent / length, torch.zeros_like(points))


def solve(
    x: Tensor,
    y: Tensor | None,
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
    g0: Tensor | None = None,
    relative: bool = False,
    tol: float = 1e-6,
    max_iter: int = 1000,
    want_x: bool = True,
    want_y: bool = True,
) -> reference.Solution:
    """Entropic optimal transport on the Triton kernels; :func:`ucmkd.reference.sinkhorn` has the
    arguments and the meaning of the result.

    The points are float32, bfloat16 or float16, everything computed and returned is float32.
    Memory is O((n + m) d). Points of zero weight must be finite.

    Raises:
        ValueError: The points are of another type (float64 has the reference), or the cost is
            unknown.
    """
    if cost not in _COSTS:
        raise ValueError(f"cost must be one of {', '.join(_COSTS)}; got {cost!r}")
    for name, points in (("x", x), ("y", y)):
        if points is not None and points.dtype not in (
            torch.float32,
            torch.bfloat16,
            torch.float16,
        ):
            raise ValueError(
                f"{name} must be float32, bfloat16 or float16 for the Triton backend, which "
                f"computes in float32; got {points.dtype}"
            )
    softmin, transport = _kernels()
    symmetric = y is None
    kernel_cost, factor = _COSTS[cost]
    width = x.shape[-1]
    a, b = a.float().contiguous(), (a if symmetric else b).float().contiguous()
    eps, rho_x, rho_y = epsilon.float(), reach_x.float(), reach_y.float()
    if symmetric:
        rho_y, y_label = rho_x, x_label
    labelled = x_label is not None and y_label is not None and label_cost is not None
    price = label_cost.float() if label_cost is not None else torch.zeros_like(eps)

    def side(points: Tensor, weight: Tensor, label: Tensor | None) -> _Side:
        points = softmin.pad_points(points)
        norm = None if kernel_cost == "l1" else softmin.square_norms(points)
        return _Side(
            points, norm, weight, label.contiguous() if labelled and label is not None else None
        )

    x_ready, y_ready = _prepare(x, y, a, b, cost)
    first = side(x_ready, a, x_label)
    second = first if y_ready is None else side(y_ready, b, y_label)

    def shared(p: _Side, q: _Side) -> dict[str, Any]:
        return {"cost": kernel_cost, "scale": factor, "x_norm": p.norm, "y_norm": q.norm,
                "x_label": p.label, "y_label": q.label, "same": symmetric}  # fmt: skip

    def move(p: _Side, q: _Side, f: Tensor, g: Tensor, gradient: bool) -> Any:
        return transport.transport(
            p.points, q.points, f, g, p.weight, q.weight, eps,
            label_cost=price if labelled else None, gradient=gradient, **shared(p, q),
        )  # fmt: skip

    mass_a, mass_b = a.sum(-1), b.sum(-1)
    scale = torch.ones_like(eps)
    if relative:
        # At zero potentials and an infinite ε the plan is a ⊗ b.
        mean = transport.transport(
            first.points, second.points, torch.zeros_like(a), torch.zeros_like(b), a, b,
            torch.full_like(eps, torch.inf), gradient=False,
            **{**shared(first, second), "x_label": None, "y_label": None},
        ).transport.sum(-1) / (mass_a * mass_b)  # fmt: skip
        scale = torch.where(mean < torch.finfo(torch.float32).tiny ** 0.5, 1.0, mean)
        eps, price = eps * scale, price * scale
        rho_x, rho_y = rho_x * scale, rho_y * scale

    def half(p: _Side, q: _Side) -> reference.Softmin:
        label_price = price if labelled else None

        def apply(h: Tensor) -> Tensor:
            return softmin.softmin(
                p.points, q.points, h, eps, label_cost=label_price, **shared(p, q)
            )

        return apply

    start = torch.zeros_like(b) if g0 is None else g0.float()
    check_every = CHECK_EVERY if x.is_cuda else 1
    if symmetric:
        end = reference.symmetric_loop(
            half(first, first), a, eps, rho_x, start,
            tol=tol, max_iter=max_iter, check_every=check_every,
        )  # fmt: skip
    else:
        end = reference.sinkhorn_loop(
            half(first, second), half(second, first), a, b, eps, rho_x, rho_y, start,
            tol=tol, max_iter=max_iter, check_every=check_every,
        )  # fmt: skip
    value = (
        (a * reference.dual_term(end.f, rho_x)).sum(-1)
        + (b * reference.dual_term(end.g, rho_y)).sum(-1)
        - eps * (end.mass - mass_a * mass_b)
    )
    rows = move(first, second, end.f, end.g, want_x)
    columns = rows if symmetric else move(second, first, end.g, end.f, want_y)

    def finish(points: Tensor, moved: Any, wanted: bool) -> Tensor:
        if not wanted:
            return value.new_empty(0)
        gradient = moved.gradient[..., :width]
        if cost in _NORMALISED:
            gradient = _pull_back(points, gradient)
        return (2 * gradient if symmetric else gradient).contiguous()

    return reference.Solution(
        value,
        end.f,
        end.g.clone(),
        end.iterations,
        end.residual,
        end.converged,
        scale.clone(),
        row=rows.row,
        column=columns.row.clone() if symmetric else columns.row,
        transport=rows.transport.sum(-1),
        mismatch=rows.mismatch.sum(-1),
        grad_x=finish(x, rows, want_x),
        grad_y=value.new_empty(0) if y is None else finish(y, columns, want_y),
        class_mass=value.new_empty(0),
    )
