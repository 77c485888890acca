"""Second derivatives of entropic transport: against finite differences and unrolled iterations."""

from typing import Any

import pytest
import torch
from torch import Tensor

from second_common import (
    COSTS,
    INF,
    MAX_ITER,
    TOL,
    Pair,
    cost_value,
    divergence,
    leaf,
    number,
    self_term,
    twice,
    value,
)  # fmt: skip
from ucmkd import losses
from ucmkd.ops.sinkhorn import prepare, run

# --- against central differences


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("reach", [None, "both", "student", "teacher"])
def test_every_input(cost: str, reach: str | None) -> None:
    k, l = torch.arange(5) % 2, torch.arange(4) % 2  # noqa: E741

    def function(x, y, a, b, eps, rho, lam):  # type: ignore[no-untyped-def]
        reaches = {None: None, "both": rho, "student": (rho, None), "teacher": (None, rho)}
        return value(
            x, y, epsilon=eps, cost=cost, x_weight=a.softmax(0), y_weight=b.softmax(0),
            reach=reaches[reach], x_label=k, y_label=l, label_cost=lam,
        )  # fmt: skip

    inputs = (leaf(5, 3), leaf(4, 3), leaf(5), leaf(4), number(0.9), number(1.5), number(0.7))
    twice(function, *inputs)


@pytest.mark.parametrize("reach", [None, 1.5])
def test_exhaustively(reach: float | None, backend: str) -> None:
    """Every entry of the Hessian, not projections."""

    def function(x, y, a, eps):  # type: ignore[no-untyped-def]
        return value(x, y, epsilon=eps, x_weight=a.softmax(0), reach=reach, backend=backend)

    assert torch.autograd.gradgradcheck(function, (leaf(4, 2), leaf(3, 2), leaf(4), number(0.4)))


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("reach", [None, 0.8, (2.0, 0.5)])
def test_divergence(cost: str, reach: Any) -> None:
    k, l = torch.tensor([0, 1, 1, 0, 2]), torch.tensor([1, 0, 2, 2])  # noqa: E741

    def function(x, y, a, b, eps, lam):  # type: ignore[no-untyped-def]
        return divergence(
            x, y, epsilon=eps, cost=cost, x_weight=a.softmax(0), y_weight=b.softmax(0),
            reach=reach, x_label=k, y_label=l, label_cost=lam,
        )  # fmt: skip

    twice(function, leaf(5, 3), leaf(4, 3), leaf(5), leaf(4), number(0.9), number(0.4))


def test_self_term_and_its_reach(backend: str) -> None:
    def function(x, a, eps, rho):  # type: ignore[no-untyped-def]
        return self_term(x, a.exp(), epsilon=eps, reach=rho, backend=backend)

    twice(function, leaf(5, 2), leaf(5), number(0.3), number(0.9), first=True)


def test_unequal_masses(backend: str) -> None:
    def function(x, a, b, eps, rho):  # type: ignore[no-untyped-def]
        return divergence(
            x, y, epsilon=eps, x_weight=a.exp(), y_weight=3 * b.exp(), reach=(rho, 2 * rho),
            backend=backend,
        )  # fmt: skip

    y = torch.randn(4, 2, dtype=torch.float64)
    twice(function, leaf(5, 2), leaf(5), leaf(4), number(0.4), number(1.1), first=True)


def test_equal_masses_other_than_one() -> None:
    def function(x, y, a, b, mass):  # type: ignore[no-untyped-def]
        return value(x, y, x_weight=mass * a.softmax(0), y_weight=mass * b.softmax(0))

    twice(function, leaf(5, 2), leaf(4, 2), leaf(5), leaf(4), number(2.5), first=True)


@pytest.mark.parametrize("reach", [None, 0.7])
def test_class_distances(reach: float | None, backend: str) -> None:
    k, l = torch.tensor([0, 1, 1, 0, 0]), torch.tensor([1, 0, 2, 2])  # noqa: E741

    def function(x, y, distance, lam):  # type: ignore[no-untyped-def]
        return value(
            x, y, reach=reach, x_label=k, y_label=l, label_cost=lam, distance=distance.exp(),
            backend=backend,
        )  # fmt: skip

    def own(x, d):  # type: ignore[no-untyped-def]
        symmetric = (d @ d.T).square()
        return self_term(x, reach=reach, x_label=k, distance=0.3 * symmetric, backend=backend)

    twice(function, leaf(5, 2), leaf(4, 2), leaf(2, 3), number(0.5), first=True)
    twice(own, leaf(5, 2), leaf(2, 2), first=True)


def test_batch_of_two_is_two_problems() -> None:
    def function(x, y, a, distance, eps):  # type: ignore[no-untyped-def]
        out = value(
            x, y, x_weight=a.softmax(-1), epsilon=eps, x_label=k, y_label=l, label_cost=1.0,
            distance=distance,
        )  # fmt: skip
        return out * torch.tensor([1.0, -3.0], dtype=torch.float64)

    k, l = torch.tensor([[0, 1, 1, 0]] * 2), torch.tensor([[1, 0, 1], [0, 0, 1]])  # noqa: E741
    eps = torch.tensor([0.3, 0.9], dtype=torch.float64, requires_grad=True)
    twice(function, leaf(2, 4, 2), leaf(2, 3, 2), leaf(2, 4), leaf(2, 2), eps, first=True)


@pytest.mark.parametrize("reach", [(INF, INF), (0.8, INF), (1.2, 0.7)])
def test_cost_matrix(reach: Pair, backend: str) -> None:
    def function(c, a, b, eps, rho):  # type: ignore[no-untyped-def]
        reaches = tuple(rho * r if r < INF else r for r in reach)
        return cost_value(c, a.softmax(0), b.softmax(0), eps, reaches, backend)

    twice(function, leaf(5, 4), leaf(5), leaf(4), number(0.5), number(1.0), first=True)


def test_cost_matrices_in_a_batch(backend: str) -> None:
    def function(c, eps):  # type: ignore[no-untyped-def]
        a, b = torch.full((2, 3), 1 / 3).double(), torch.full((2, 4), 1 / 4).double()
        return cost_value(c, a, b, eps, (0.8, INF), backend)

    twice(function, leaf(2, 3, 4), torch.tensor([0.5, 0.8]).double().requires_grad_())


# --- against unrolled iterations, and against the first derivatives alone


def unrolled(x: Tensor, y: Tensor, a: Tensor, b: Tensor, eps: float, reach: float) -> Tensor:
    """OT by 400 iterations in the graph, independent of the implicit function theorem."""
    matrix = ((x[:, None] - y[None]) ** 2).sum(-1)
    tau = 1.0 if reach == INF else reach / (reach + eps)
    f, g = torch.zeros_like(a), torch.zeros_like(b)
    for _ in range(400):
        f = -tau * eps * torch.logsumexp((g - matrix) / eps + b.log(), 1)
        g = -tau * eps * torch.logsumexp((f[:, None] - matrix) / eps + a.log()[:, None], 0)
    plan = a[:, None] * b * torch.exp((f[:, None] + g - matrix) / eps)

    def kl(p: Tensor, q: Tensor) -> Tensor:
        return (p * (p / q).log() - p + q).sum()

    primal = (plan * matrix).sum() + eps * kl(plan, a[:, None] * b)
    if reach < INF:
        primal = primal + reach * (kl(plan.sum(1), a) + kl(plan.sum(0), b))
    return primal


@pytest.mark.parametrize("reach", [None, 1.5])
def test_hessian_is_that_of_unrolled_iterations(reach: float | None) -> None:
    x, y = torch.randn(5, 2, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    a, b = torch.rand(5).double().softmax(0), torch.rand(4).double().softmax(0)

    def ours(x: Tensor) -> Tensor:
        return value(x, y, x_weight=a, y_weight=b, epsilon=0.8, reach=reach)

    def theirs(x: Tensor) -> Tensor:
        return unrolled(x, y, a, b, 0.8, INF if reach is None else reach)

    hessian = torch.autograd.functional.hessian(ours, x)
    torch.testing.assert_close(
        hessian, torch.autograd.functional.hessian(theirs, x), rtol=1e-8, atol=1e-9
    )
    flat = hessian.reshape(10, 10)
    torch.testing.assert_close(flat, flat.T, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("reach", [None, (1.5, 0.6)])
@pytest.mark.parametrize("cost", COSTS)
def test_first_derivatives_are_the_same_alone(cost: str, reach: Any, backend: str) -> None:
    """With and without a graph behind them, they are computed in different ways."""
    x, y, eps = leaf(6, 3), leaf(5, 3), number(0.4)
    a, b = torch.rand(6).double().softmax(0), torch.rand(5).double().softmax(0)
    a.requires_grad_(), b.requires_grad_()
    k, l = torch.arange(6) % 3, torch.arange(5) % 3  # noqa: E741
    for function in (value, divergence):
        out = function(
            x, y, epsilon=eps, cost=cost, reach=reach, x_label=k, y_label=l, label_cost=0.3,
            x_weight=a, y_weight=b, backend=backend,
        )  # fmt: skip
        alone = torch.autograd.grad(out, (x, y, a, b, eps), retain_graph=True)
        graph = torch.autograd.grad(out, (x, y, a, b, eps), create_graph=True)
        torch.testing.assert_close(graph, alone, rtol=1e-8, atol=1e-10)


def test_through_the_dispatcher(backend: str) -> None:
    """The operator itself has the same Hessian as its eager form, in units of the mean cost."""
    y = torch.randn(1, 4, 2, dtype=torch.float64)
    solver: dict[str, Any] = dict(cost="euclidean", tol=TOL, max_iter=MAX_ITER)

    def operator(x: Tensor) -> Tensor:
        p = prepare(
            x, y, epsilon=0.5, x_weight=None, y_weight=None, reach=None, x_label=None,
            y_label=None, label_cost=0.0, x_potential=None, y_potential=None, names=("x", "y"),
            **solver,
        )  # fmt: skip
        return run(p, relative=True, backend=backend, **solver).value.sum()

    def eager(x: Tensor) -> Tensor:
        return losses.sinkhorn_align(x, y, epsilon=0.5, debias=False, backend=backend, **solver)

    x = torch.randn(1, 3, 2, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian
    torch.testing.assert_close(hessian(operator, x), hessian(eager, x), rtol=1e-6, atol=1e-9)


def test_a_gradient_penalty_trains(backend: str) -> None:
    """What second derivatives are for: a penalty on the gradient, in float32."""
    x = torch.randn(16, 4, requires_grad=True)
    loss = losses.sinkhorn_align(x, torch.randn(12, 4), backend=backend)
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    gradient.square().sum().backward()
    assert x.grad is not None and bool(torch.isfinite(x.grad).all()) and bool((x.grad != 0).any())
