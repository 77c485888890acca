"""Cases for the public operators and losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ucmkd import losses, ops

from .draw import Draw

COSTS = ["sqeuclidean", "euclidean", "cosine", "l1", "chordal"]
MATRIX = [ops.sinkhorn_cost, ops.transport_plan_cost]
Case = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def shapes(d: Draw) -> tuple[tuple[int, ...], tuple[int, ...]]:
    n, m, width = d.size(), d.size(), d.size()
    if d.chance(0.3):
        batch = d.one([1, 1, 2, 3])
        return (batch, n, width), (batch, m, width)
    return (n, width), (m, width)


def reach(d: Draw) -> Any:
    kind = d.random.randrange(5)
    if kind < 2:
        return None
    if kind == 2:
        return d.number(-3, 3)
    pair = tuple(None if d.chance(0.3) else d.number(-3, 3) for _ in range(2))
    return (*pair, 1.0) if d.chance(0.02) else pair


def stopping(d: Draw) -> dict[str, Any]:
    tol = d.one([1e-3, 1e-6, 1e-12, 0.0])
    steps: Any = d.one([1, 2, 10, 100])
    if d.chance(0.03):
        tol, steps = d.one([-1.0, float("nan"), "x", None]), d.one([0, -5, 2.5, None])
    return dict(tol=tol, max_iter=steps, backend=d.one(["rust", "rust", "torch", "auto"]))


def sides(d: Draw, x: tuple[int, ...], y: tuple[int, ...], names: tuple[str, str]) -> dict:
    """Weights and labels of both sides; strict problems mostly get equal masses."""
    options: dict[str, Any] = {}
    for name, shape in zip(names, (x, y), strict=True):
        options[f"{name}_weight"] = d.weight(shape[:-1])
    if d.chance(0.3):
        for name, shape in zip(names, (x, y), strict=True):
            options[f"{name}_label"] = d.label(shape[:-1])
    return options


def transport(d: Draw) -> Case:
    x, y = shapes(d)
    options = sides(d, x, y, ("x", "y")) | stopping(d)
    options |= dict(epsilon=d.number(-3, 2), cost=d.one(COSTS), reach=reach(d))
    if options.get("x_label") is not None or d.chance(0.02):
        options["label_cost"] = d.number(-2, 2)
    call = d.one([ops.sinkhorn, ops.sinkhorn, ops.transport_plan, ops.barycentric_map])
    if call is ops.sinkhorn:
        if d.chance(0.2):
            options["y_potential"] = d.spoil(d.tensor(y[:-1], 0.5), 0.05)
        if d.chance(0.2):
            options["accelerate"] = False
    return call, (d.spoil(d.tensor(x), 0.03), d.spoil(d.tensor(y), 0.03)), options


def matrix(d: Draw) -> Case:
    x, y = shapes(d)
    shape = (*x[:-1], y[-2])
    options = {k: v for k, v in sides(d, x, y, ("x", "y")).items() if "label" not in k}
    options |= stopping(d) | dict(epsilon=d.number(-3, 2), reach=reach(d))
    return d.one(MATRIX), (d.spoil(d.tensor(shape), 0.05),), options


def discrepancy(d: Draw) -> Case:
    x, y = shapes(d)
    options = {k: v for k, v in sides(d, x, y, ("x", "y")).items() if "label" not in k}
    options |= dict(
        bandwidth=d.one(["median", "median", d.number(-2, 2), "mode"]),
        scales=d.one([(0.25, 0.5, 1.0, 2.0, 4.0), (1.0,), (0.3, 7.0), (), (0.0,), ("a",)]),
        estimator=d.one(["v", "u"]),
        backend=d.one(["rust", "rust", "torch"]),
    )
    return ops.mmd, (d.spoil(d.tensor(x), 0.03), d.spoil(d.tensor(y), 0.03)), options


def alignment(d: Draw) -> Case:
    x, y = shapes(d)
    options = sides(d, x, y, ("student", "teacher"))
    options |= dict(
        backend=d.one(["rust", "rust", "torch"]),
        reduction=d.one(["mean", "sum", "none"]),
        check_finite=d.chance(0.5),
        detach_teacher=d.chance(0.5),
    )
    call = d.one([losses.sinkhorn_align, losses.feature_align, losses.mmd_align])
    if call is not losses.mmd_align:
        options |= dict(
            epsilon=d.number(-2, 1), epsilon_scale=d.one(["mean", None]), reach=reach(d),
            cost=d.one(COSTS), debias=d.chance(0.6), sharp=d.chance(0.1), max_iter=50,
        )  # fmt: skip
        if "student_label" in options:
            options["label_cost"] = d.number(-2, 2)
    return call, (d.spoil(d.tensor(x), 0.03), d.spoil(d.tensor(y), 0.03)), options


CASES = [transport, transport, matrix, discrepancy, alignment]


def all_finite(*values: Any) -> bool:
    """Every number in the arguments is finite and moderate."""
    for value in values:
        if isinstance(value, Tensor):
            if value.is_meta:
                return False
            size = value.detach().double().abs()
            # Squares must not underflow in float32; NaN is not usual, either.
            usual = (size == 0) | ((size > 1e-15) & (size < 1e4))
            if not bool(usual.all()):
                return False
        elif isinstance(value, float) and not 1e-15 < abs(value) < 1e4 and value != 0:
            return False  # below the rounding of the cost an ε has no plan
        elif isinstance(value, (tuple, list)) and not all_finite(*value):
            return False
    return True


def check(case: Case, result: Any) -> None:
    """Shapes, and finite results for finite arguments; then the backward pass."""
    call, arguments, options = case
    tensors = result if isinstance(result, tuple) else (result,)
    assert all(isinstance(t, Tensor) for t in tensors)
    tame = all_finite(arguments, list(options.values()))
    if call in MATRIX and options["reach"] is not None:
        tame = False  # a negative cost and a small reach create mass without bound
    if options.get("y_potential") is not None:
        tame = False  # the dual of an unconverged relaxed problem has no lower bound
    value = tensors[0]
    if tame:
        for t in tensors:
            assert not t.is_floating_point() or bool(torch.isfinite(t).all()), "not finite"
    if value.requires_grad:
        leaves = [
            t
            for t in [*arguments, *options.values()]
            if isinstance(t, Tensor) and t.requires_grad and t.is_leaf
        ]
        value.sum().backward()
        for leaf in leaves:
            if leaf.grad is not None:
                assert leaf.grad.shape == leaf.shape and leaf.grad.dtype == leaf.dtype
                low = leaf.dtype in (torch.float16, torch.bfloat16)
                assert not tame or low or bool(torch.isfinite(leaf.grad).all()), "gradient"
