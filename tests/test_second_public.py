"""Second derivatives through the public functions, on every backend."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradgradcheck

from ucmkd import losses, ops

SOLVER: dict[str, Any] = dict(tol=1e-13, max_iter=20_000)


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("debias", [False, True])
@pytest.mark.parametrize("reach", [None, 0.8, (0.5, None)])
def test_sinkhorn_align(backend: str, debias: bool, reach: Any) -> None:
    a = torch.tensor([0.1, 0.4, 0.5], dtype=torch.float64)

    def value(x: Tensor, y: Tensor, epsilon: Tensor) -> Tensor:
        return losses.sinkhorn_align(
            x, y, epsilon=epsilon, epsilon_scale=None, reach=reach, debias=debias,
            student_weight=a, detach_teacher=False, backend=backend, **SOLVER,
        )  # fmt: skip

    assert gradgradcheck(value, (leaf(3, 2), leaf(4, 2), number(0.9)), rtol=1e-4, atol=1e-6)


def test_relaxed_weights_and_reach(backend: str) -> None:
    def value(x: Tensor, a: Tensor, b: Tensor, reach: Tensor) -> Tensor:
        return losses.sinkhorn_align(
            x, y, epsilon=0.7, epsilon_scale=None, reach=(reach, 2 * reach), student_weight=a,
            teacher_weight=b.exp(), detach_teacher=False, backend=backend, **SOLVER,
        )  # fmt: skip

    y = torch.randn(3, 2, dtype=torch.float64)
    a = torch.tensor([0.2, 0.7, 0.3], dtype=torch.float64, requires_grad=True)
    assert gradgradcheck(value, (leaf(3, 2), a, leaf(3), number(0.6)), rtol=1e-4, atol=1e-6)


def test_class_distances(backend: str) -> None:
    k, l = torch.tensor([0, 1, 1]), torch.tensor([1, 0, 2, 2])  # noqa: E741

    def value(x: Tensor, distance: Tensor) -> Tensor:
        return ops.sinkhorn(
            x, y, epsilon=0.5, x_label=k, y_label=l, label_cost=distance.square(), backend=backend,
            **SOLVER,
        ).value  # fmt: skip

    y = torch.randn(4, 2, dtype=torch.float64)
    assert gradgradcheck(value, (leaf(3, 2), leaf(2, 3)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("reach", [None, 0.8])
def test_cost_matrix_in_a_batch(backend: str, reach: float | None) -> None:
    def value(matrix: Tensor, epsilon: Tensor) -> Tensor:
        return ops.sinkhorn_cost(
            matrix, epsilon=epsilon, reach=reach, backend=backend, **SOLVER
        ).value

    epsilon = torch.tensor([0.5, 0.8], dtype=torch.float64, requires_grad=True)
    assert gradgradcheck(value, (leaf(2, 3, 4), epsilon), rtol=1e-4, atol=1e-6)


def test_through_the_dispatcher(backend: str) -> None:
    """The operator itself has the same Hessian as its eager form."""
    from ucmkd.ops.sinkhorn import prepare, run

    y = torch.randn(1, 4, 2, dtype=torch.float64)

    def value(x: Tensor) -> Tensor:
        p = prepare(
            x, y, epsilon=0.5, cost="euclidean", x_weight=None, y_weight=None, reach=None,
            x_label=None, y_label=None, label_cost=0.0, x_potential=None, y_potential=None,
            tol=1e-13, max_iter=20_000, names=("x", "y"),
        )  # fmt: skip
        return run(
            p, cost="euclidean", relative=True, tol=1e-13, max_iter=20_000, backend=backend
        ).value

    def eager(x: Tensor) -> Tensor:
        return losses.sinkhorn_align(
            x, y, epsilon=0.5, cost="euclidean", debias=False, backend=backend, **SOLVER
        )

    x = torch.randn(1, 3, 2, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian
    torch.testing.assert_close(
        hessian(lambda x: value(x).sum(), x), hessian(eager, x), rtol=1e-6, atol=1e-9
    )


def test_a_gradient_penalty_trains(backend: str) -> None:
    """What second derivatives are for: a penalty on the gradient, in float32."""
    x = torch.randn(16, 4, requires_grad=True)
    value = losses.sinkhorn_align(x, torch.randn(12, 4), backend=backend)
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    gradient.square().sum().backward()
    assert x.grad is not None and bool(torch.isfinite(x.grad).all()) and bool((x.grad != 0).any())
