"""The Triton backend: when it is there, and Sinkhorn by its kernels.

Triton and the kernels are imported on first use, so that a machine without them pays nothing.
A solve runs on one of several tiers, by its size
(:func:`ucmkd.ops._triton_tier.tier_of`); all give the same solution.
"""

from __future__ import annotations

import functools
import importlib
import os
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ucmkd import reference
from ucmkd.ops import _triton_loop as loop
from ucmkd.ops import _triton_points as points
from ucmkd.ops import _triton_whole as whole
from ucmkd.ops._triton_points import kernels
from ucmkd.ops._triton_tier import tier_of
from ucmkd.reference.loop import weighted

#: Multiprocessors that the interpreter's launches are shaped for.
INTERPRETED_PROCESSORS = 2
LOG2E = 1.4426950408889634


@functools.cache
def _import_triton() -> tuple[ModuleType | None, str]:
    try:
        return importlib.import_module("triton"), ""
    except Exception as error:  # a broken installation fails in many ways
        return None, f"triton cannot be imported: {error}"


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


def together(x: Tensor, y: Tensor | None) -> bool:
    """Whether one program holds the whole problem: tier ``whole``."""
    m = x.shape[1] if y is None else y.shape[1]
    return whole.fits(x.shape[1], m, x.shape[2], x.dtype)


#: The terms of a small divergence in one launch; :func:`together` says whether they fit.
solve_together = whole.solve


@functools.cache
def processors(device: torch.device) -> int:
    """Multiprocessors of the GPU."""
    if device.type != "cuda":
        return INTERPRETED_PROCESSORS
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count


def _value(
    f: Tensor,
    g: Tensor,
    a: Tensor,
    b: Tensor,
    eps: Tensor,
    rho: tuple[Tensor, Tensor],
    mass: Tensor,
) -> Tensor:
    return (
        weighted(a, reference.dual_term(f, rho[0])).sum(-1)
        + weighted(b, reference.dual_term(g, rho[1])).sum(-1)
        - eps * (mass - a.sum(-1) * b.sum(-1))
    )


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
    distance: Tensor | None = None,
    g0: Tensor | None = None,
    relative: bool = False,
    tol: float = 1e-6,
    max_iter: int = 1000,
    want_x: bool = True,
    want_y: bool = True,
    want_distance: bool = False,
    accelerate: bool = False,
    tier: str | None = None,
    splits: int | None = None,
) -> reference.Solution:
    """Entropic optimal transport on the Triton kernels; :func:`ucmkd.reference.sinkhorn` has the
    arguments and the meaning of the result.

    The points are float32, bfloat16 or float16, everything computed and returned is float32.
    Points of zero weight must be finite. On a GPU nothing here waits for the device.

    Args:
        accelerate: Anderson acceleration of the two-sided loop (:mod:`ucmkd.kernels.step`).
        tier: ``whole``, ``cached`` or ``streaming`` in place of what :func:`together` and
            :func:`ucmkd.ops._triton_tier.tier_of` say.
        splits: Into how many parts a streaming pass splits the columns, in place of what the size
            of the GPU suggests.

    Raises:
        ValueError: The points are of another type (float64 has the reference), or the cost is
            unknown.
        torch.OutOfMemoryError: With the size of what did not fit.
    """
    points.check(x, y, cost)
    symmetric = y is None
    if tier == "whole" or (tier is None and splits is None and together(x, y)):
        found = whole.solve(
            x, x if y is None else y, a, b, epsilon=epsilon, cost=cost,
            reach_x=reach_x, reach_y=reach_y,
            x_label=x_label, y_label=y_label, label_cost=label_cost, distance=distance,
            g0=None if symmetric else g0, own_starts=(g0 if symmetric else None, None),
            relative=relative, tol=tol, max_iter=max_iter, accelerate=accelerate, want_x=want_x,
            want_y=want_y, want_distance=want_distance, terms=("x",) if symmetric else ("cross",),
        )  # fmt: skip
        return found[0]
    batch, n, width = x.shape
    m = n if y is None else y.shape[1]
    if symmetric:
        reach_y, y_label = reach_x, x_label
    labels = (x_label, y_label)
    if x_label is None or y_label is None or label_cost is None:
        labels, label_cost, distance = (None, None), None, None
    clouds = points.ready(x, y, a, b, cost, labels)
    a, b = clouds.a, clouds.b
    eps, rho_x, rho_y = epsilon.float(), reach_x.float(), reach_y.float()
    price = None if label_cost is None else label_cost.float()
    scale = torch.ones_like(eps)
    if relative:
        mean = points.mean_cost(clouds)
        # Where all points coincide there is no scale, and 1 keeps everything finite.
        scale = torch.where(mean < torch.finfo(torch.float32).tiny ** 0.5, 1.0, mean)
        eps, rho_x, rho_y = eps * scale, rho_x * scale, rho_y * scale
        price = None if price is None else price * scale
    kappa = LOG2E / eps
    problem = kernels("tiles").Problem(
        clouds.cost, clouds.factor, kappa, price,
        None if distance is None else distance.float().contiguous(), symmetric,
    )  # fmt: skip
    ratios = (eps / rho_x, eps / rho_y)
    damping = (1 / (1 + ratios[0]), 1 / (1 + ratios[1]))
    units = kappa.unsqueeze(-1)
    start = None if g0 is None else g0.float() * units
    work: loop.Tier
    if tier is None:
        kind = kernels("tiles").kind_of(clouds.cost, clouds.first.points.dtype)
        tier = tier_of(batch, n, m, width, kind, x.device)
    if tier == "cached":
        with loop.room_for(
            f"the cost of {batch} problems of {n} by {m} points", 4 * batch * n * m,
            "UCMKD_CACHE_MB=0 streams it instead",
        ):  # fmt: skip
            matrix = kernels("cost").cost_matrix(clouds.first, clouds.second, problem)
        weights = (clouds.first.log_weight, clouds.second.log_weight)
        work = loop.Cached(matrix, weights, kappa, damping, processors(x.device))
    else:
        both = (clouds.first, clouds.second)
        work = loop.Streaming(both, problem, damping, processors(x.device), splits)
    if symmetric:
        end = loop.symmetric(work, a, ratios[0], start, tol=tol, max_iter=max_iter)
    else:
        end = loop.two_sided(
            work, a, b, *ratios, start, tol=tol, max_iter=max_iter, accelerate=accelerate
        )
    f, g = end.f / units, end.g / units

    def move(own: bool, gradient: bool, classes: int = 0) -> Any:
        sides = (clouds.first, clouds.second, problem, end.f, end.g, a, b)
        if not own:
            sides = (clouds.second, clouds.first, problem.swapped(), end.g, end.f, b, a)
        with loop.room_for(
            "the gradient", 4 * batch * max(n, m) * max(width, classes), "use fewer points"
        ):
            return kernels("transport").transport(*sides, gradient=gradient, classes=classes)

    rows = move(True, want_x)
    columns = rows if symmetric else move(False, want_y)

    def finish(given: Tensor, moved: Any, wanted: bool) -> Tensor:
        if not wanted:
            return f.new_empty(0)
        gradient = moved.output[..., :width]
        if cost in points.NORMALISED:
            gradient = points.pull_back(given, gradient)
        return (2 * gradient if symmetric else gradient).contiguous()

    class_mass = f.new_empty(0)
    if want_distance and distance is not None and labels[0] is not None:
        sent = move(True, False, distance.shape[1]).output
        member = labels[0].unsqueeze(-1) == torch.arange(distance.shape[0], device=x.device)
        # In float64: no product of float32 matrices here may be rounded to TF32.
        class_mass = (member.double().transpose(-1, -2) @ sent.double()).float()
    return reference.Solution(
        _value(f, g, a, b, eps, (rho_x, rho_y), end.mass),
        f,
        g.clone() if symmetric else g,
        end.iterations,
        end.residual,
        end.converged,
        scale.clone(),
        row=rows.row,
        column=columns.row.clone() if symmetric else columns.row,
        transport=rows.transport.sum(-1),
        mismatch=rows.mismatch.sum(-1),
        grad_x=finish(x, rows, want_x),
        grad_y=f.new_empty(0) if y is None else finish(y, columns, want_y),
        class_mass=class_mass,
    )


def solve_matrix(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    epsilon: Tensor,
    reach_x: Tensor,
    reach_y: Tensor,
    g0: Tensor | None = None,
    tol: float = 1e-6,
    max_iter: int = 1000,
    want_plan: bool = True,
    accelerate: bool = False,
) -> tuple[reference.Solution, Tensor]:
    """Entropic optimal transport for cost matrices ``(B, n, m)``, by the kernels of ``cached``.

    Arguments and solution as in :func:`ucmkd.reference.solve_dense`, in float32; the plan, which
    is the gradient to the matrix, is empty unless ``want_plan``.
    """
    if whole.fits(cost.shape[1], cost.shape[2], 1, cost.dtype):
        found = whole.solve_matrix(
            cost, a, b, epsilon=epsilon, reach_x=reach_x, reach_y=reach_y, g0=g0, tol=tol,
            max_iter=max_iter, accelerate=accelerate, want_plan=want_plan,
        )  # fmt: skip
        empty = cost.new_empty(0)
        return found._replace(grad_x=empty, grad_y=empty), found.grad_x
    matrix = cost.float().contiguous()
    a, b = a.float().contiguous(), b.float().contiguous()
    eps, rho_x, rho_y = epsilon.float(), reach_x.float(), reach_y.float()
    kappa = LOG2E / eps
    ratios = (eps / rho_x, eps / rho_y)
    damping = (1 / (1 + ratios[0]), 1 / (1 + ratios[1]))
    units = kappa.unsqueeze(-1)
    work = loop.Cached(matrix, (a.log2(), b.log2()), kappa, damping, processors(cost.device))
    end = loop.two_sided(
        work, a, b, *ratios, None if g0 is None else g0.float() * units,
        tol=tol, max_iter=max_iter, accelerate=accelerate,
    )  # fmt: skip
    plan = kernels("matrix").plan
    with loop.room_for("the plan", 4 * matrix.numel() * want_plan, "use a smaller batch"):
        rows = plan(matrix, end.f, end.g, a, b, kappa, want_plan=want_plan)
        columns = plan(matrix, end.g, end.f, b, a, kappa, transposed=True)
    f, g = end.f / units, end.g / units
    empty = f.new_empty(0)
    solution = reference.Solution(
        _value(f, g, a, b, eps, (rho_x, rho_y), end.mass), f, g, end.iterations, end.residual,
        end.converged, torch.ones_like(eps), row=rows.row, column=columns.row,
        transport=rows.transport.sum(-1), mismatch=torch.zeros_like(eps),
        grad_x=empty, grad_y=empty, class_mass=empty,
    )  # fmt: skip
    return solution, rows.plan
