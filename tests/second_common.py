"""Values for the tests of second derivatives, by the functions that users call."""

from typing import Any

import torch
from torch import Tensor

from ucmkd import losses, ops
from ucmkd.ops.sinkhorn import run_self

COSTS = ["sqeuclidean", "euclidean", "cosine", "l1", "chordal"]
INF = float("inf")
Pair = tuple[Any, Any]
#: Differences of first derivatives need solutions to the last digits.
TOL, MAX_ITER = 1e-13, 20_000


def value(
    x: Tensor,
    y: Tensor,
    *,
    epsilon: Any = 0.5,
    label_cost: Any = 0.0,
    distance: Tensor | None = None,
    tol: float = TOL,
    max_iter: int = MAX_ITER,
    backend: str = "rust",
    **options: Any,
) -> Tensor:
    """OT of one problem or of a batch; the label cost is ``label_cost * distance``."""
    if distance is not None:
        label_cost = label_cost * distance
    return ops.sinkhorn(
        x, y, epsilon=epsilon, label_cost=label_cost, tol=tol, max_iter=max_iter, backend=backend,
        **options,
    ).value  # fmt: skip


def self_term(
    x: Tensor,
    a: Tensor | None = None,
    *,
    epsilon: Any = 0.5,
    reach: Any = None,
    x_label: Tensor | None = None,
    distance: Tensor | None = None,
    backend: str = "rust",
) -> Tensor:
    """OT of a cloud to itself, which users only get as a part of the divergence."""
    numbers = [epsilon, INF if reach is None else reach, INF, 0.0 if distance is None else 1.0]
    parameters = torch.stack([torch.as_tensor(r, dtype=torch.float64).view(1) for r in numbers])
    return run_self(
        x[None], None if a is None else a[None], None if x_label is None else x_label[None],
        distance, parameters, cost="sqeuclidean", tol=TOL, max_iter=MAX_ITER, backend=backend,
    ).value[0]  # fmt: skip


def divergence(
    x: Tensor,
    y: Tensor,
    *,
    epsilon: Any = 0.5,
    tol: float = TOL,
    max_iter: int = MAX_ITER,
    backend: str = "rust",
    **options: Any,
) -> Tensor:
    """The debiased value, with the mass term."""
    names = {
        "x_weight": "student_weight", "y_weight": "teacher_weight",
        "x_label": "student_label", "y_label": "teacher_label",
    }  # fmt: skip
    options = {names.get(name, name): option for name, option in options.items()}
    return losses.sinkhorn_align(
        x, y, epsilon=epsilon, epsilon_scale=None, detach_teacher=False, tol=tol,
        max_iter=max_iter, backend=backend, **options,
    )  # fmt: skip


def cost_value(c: Tensor, a: Tensor, b: Tensor, eps: Tensor, rho: Pair, backend: str) -> Tensor:
    """OT for a given cost matrix."""
    reach = tuple(None if isinstance(r, float) and r == INF else r for r in rho)
    return ops.sinkhorn_cost(
        c, epsilon=eps, x_weight=a, y_weight=b, reach=reach, tol=TOL, max_iter=MAX_ITER,
        backend=backend,
    ).value  # fmt: skip


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def number(v: float) -> Tensor:
    return torch.tensor(v, dtype=torch.float64, requires_grad=True)


def twice(function: Any, *inputs: Tensor, first: bool = False) -> None:
    """The second derivative, and if asked the first, against central differences.

    Random projections keep it fast.
    """
    options = dict(atol=2e-6, rtol=2e-5)
    if first:
        assert torch.autograd.gradcheck(function, inputs, fast_mode=True, **options)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True, **options)
