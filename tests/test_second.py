"""Second derivatives of entropic transport: against finite differences and unrolled iterations."""

from typing import Any

import pytest
import torch
from torch import Tensor

from second_common import COSTS, INF, Pair, cost_value, divergence, leaf, number, twice, value
from ucmkd import ops

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
def test_exhaustively(reach: float | None) -> None:
    """Every entry of the Hessian, not projections."""

    def function(x, y, a, eps):  # type: ignore[no-untyped-def]
        return value(x, y, epsilon=eps, x_weight=a.softmax(0), reach=reach)

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


def test_self_term_and_its_reach() -> None:
    def function(x, a, eps, rho):  # type: ignore[no-untyped-def]
        return value(x, None, epsilon=eps, x_weight=a.exp(), reach=rho)

    twice(function, leaf(5, 2), leaf(5), number(0.3), number(0.9), first=True)


def test_unequal_masses() -> None:
    def function(x, a, b, eps, rho):  # type: ignore[no-untyped-def]
        return divergence(x, y, epsilon=eps, x_weight=a.exp(), y_weight=3 * b.exp(), reach=rho)

    y = torch.randn(4, 2, dtype=torch.float64)
    twice(function, leaf(5, 2), leaf(5), leaf(4), number(0.4), number(1.1), first=True)


def test_equal_masses_other_than_one() -> None:
    def function(x, y, a, b, mass):  # type: ignore[no-untyped-def]
        return value(x, y, x_weight=mass * a.softmax(0), y_weight=mass * b.softmax(0))

    twice(function, leaf(5, 2), leaf(4, 2), leaf(5), leaf(4), number(2.5), first=True)


@pytest.mark.parametrize("reach", [None, 0.7])
def test_class_distances(reach: float | None) -> None:
    k, l = torch.tensor([0, 1, 1, 0, 0]), torch.tensor([1, 0, 2, 2])  # noqa: E741

    def function(x, y, distance, lam):  # type: ignore[no-untyped-def]
        return value(
            x, y, reach=reach, x_label=k, y_label=l, label_cost=lam, distance=distance.exp()
        )

    def own(x, d):  # type: ignore[no-untyped-def]
        symmetric = (d @ d.T).square()
        return value(x, None, reach=reach, x_label=k, label_cost=0.3, distance=symmetric)

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
def test_cost_matrix(reach: Pair) -> None:
    def function(c, a, b, eps, rho):  # type: ignore[no-untyped-def]
        reaches = tuple(rho * r if r < INF else r for r in reach)
        return cost_value(c, a.softmax(0), b.softmax(0), eps, reaches)

    twice(function, leaf(5, 4), leaf(5), leaf(4), number(0.5), number(1.0), first=True)


# --- against unrolled iterations, and against the first derivatives of the operator


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
def test_first_derivatives_are_those_of_the_operator(cost: str, reach: Any) -> None:
    x, y, eps = leaf(6, 3), leaf(5, 3), number(0.4)
    a, b = torch.rand(6).double().softmax(0), torch.rand(5).double().softmax(0)
    a.requires_grad_(), b.requires_grad_()
    k, l = torch.arange(6) % 3, torch.arange(5) % 3  # noqa: E741
    options = dict(epsilon=eps, cost=cost, reach=reach, x_label=k, y_label=l, label_cost=0.3)
    options |= dict(x_weight=a, y_weight=b, tol=1e-13, max_iter=3000)
    ours = torch.autograd.grad(value(x, y, **options), (x, y, a, b, eps))
    theirs = torch.autograd.grad(
        ops.sinkhorn(x, y, backend="torch", **options).value, (x, y, a, b, eps)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
