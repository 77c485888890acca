"""<P, C> and its own gradient: every input, the self-term, and against unrolled iterations."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ucmkd import losses, reference
from ucmkd.ops.sharp import sharp_cost

INF = float("inf")
K, L = torch.tensor([[0, 1, 1, 0, 2]]), torch.tensor([[1, 0, 2, 2]])


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def number(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64, requires_grad=True)


def sharp(
    x: Tensor, y: Tensor | None, a: Tensor, b: Tensor, eps: Tensor, rho: tuple[Tensor, Tensor],
    lam: Tensor, distance: Tensor | None, cost: str = "sqeuclidean",
) -> Tensor:  # fmt: skip
    """The value after a solve by the reference; ``y=None`` is the self-term."""
    with torch.no_grad():
        other, k, l = (x, K, K) if y is None else (y, K, L)  # noqa: E741
        apart = (k[:, :, None] != l[:, None]).double()
        if distance is not None:
            apart = distance[k[:, :, None], l[:, None]]
        solution, _ = reference.solve_dense(
            reference.cost_matrix(x, other, cost) + lam[:, None, None] * apart, None, a,
            a if y is None else b, torch.zeros_like(a if y is None else b), eps, *rho, lam,
            symmetric=y is None, relative=False, tol=1e-13, max_iter=3000,
        )  # fmt: skip
    return sharp_cost(
        x, y, a, b, solution, cost=cost, epsilon=eps, reach_x=rho[0], reach_y=rho[1], x_label=K,
        y_label=None if y is None else L, label_cost=lam, distance=distance,
    )  # fmt: skip


@pytest.mark.parametrize("cost", reference.COSTS)
@pytest.mark.parametrize("strict", [(True, True), (False, False), (True, False)])
@pytest.mark.parametrize("classes", [False, True])
def test_gradcheck_to_every_input(cost: str, strict: tuple[bool, bool], classes: bool) -> None:
    def function(x, y, a, b, eps, rho_x, rho_y, lam, distance):  # type: ignore[no-untyped-def]
        pair = (
            torch.full_like(rho_x, INF) if strict[0] else rho_x,
            torch.full_like(rho_y, INF) if strict[1] else rho_y,
        )
        d = distance.exp() if classes else None
        return sharp(x, y, a.softmax(-1), b.softmax(-1), eps, pair, lam, d, cost)

    inputs = (
        leaf(1, 5, 3), leaf(1, 4, 3), leaf(1, 5), leaf(1, 4), number(0.6), number(1.5),
        number(0.8), number(0.4), leaf(3, 3),
    )  # fmt: skip
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("strict", [True, False])
def test_gradcheck_self_term(strict: bool) -> None:
    def function(x, a, eps, rho, lam, d):  # type: ignore[no-untyped-def]
        reach = torch.full_like(rho, INF) if strict else rho
        return sharp(x, None, a.exp(), a, eps, (reach, reach), lam, (d @ d.T).square())

    inputs = (leaf(1, 5, 3), leaf(1, 5), number(0.2), number(0.8), number(0.4), leaf(3, 3))
    assert torch.autograd.gradcheck(function, inputs, atol=1e-6, rtol=1e-5)


def test_self_term_with_the_points_twice_is_the_same() -> None:
    """``y=x`` is recognised: through the two-sided system a small ε would be far worse."""
    x, a = torch.randn(1, 5, 2).double(), torch.full((1, 5), 0.2).double()
    one, zero, strict = (
        torch.full((1,), 0.05).double(),
        torch.zeros(1).double(),
        torch.tensor([INF]),
    )
    out = []
    for again in (False, True):
        left = x.clone().requires_grad_()
        solution = reference.sinkhorn(
            x, None, a, a, epsilon=one, reach_x=strict, reach_y=strict, tol=1e-12
        )
        value = sharp_cost(
            left, left if again else None, a, a.clone(), solution, cost="sqeuclidean", epsilon=one,
            reach_x=strict, reach_y=strict, x_label=None, y_label=None, label_cost=zero,
        )  # fmt: skip
        value.sum().backward()
        out.append((value.detach(), left.grad))
    torch.testing.assert_close(*out, rtol=0, atol=0)


@pytest.mark.parametrize("reach", [None, 1.2])
def test_gradient_is_that_of_unrolled_iterations(backend: str, reach: float | None) -> None:
    x, y, eps = leaf(6, 2), torch.randn(5, 2, dtype=torch.float64), 0.8
    value = losses.sinkhorn_align(
        x, y, epsilon=eps, epsilon_scale=None, reach=reach, debias=False, sharp=True, tol=1e-12,
        max_iter=5000, backend=backend,
    )  # fmt: skip
    matrix = ((x[:, None] - y[None]) ** 2).sum(-1)
    tau = 1.0 if reach is None else reach / (reach + eps)
    g = torch.zeros(5, dtype=torch.float64)
    for _ in range(300):
        f = -tau * eps * torch.logsumexp((g - matrix) / eps, 1) + tau * eps * math.log(5)
        g = -tau * eps * torch.logsumexp((f[:, None] - matrix) / eps, 0)
        g = g + tau * eps * math.log(6)
    plan = torch.exp((f[:, None] + g - matrix) / eps) / 30
    expected = (plan * matrix).sum()
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(
        torch.autograd.grad(value, x)[0], torch.autograd.grad(expected, x)[0], rtol=1e-5, atol=1e-6
    )


def test_second_derivative_raises_beside_other_terms(backend: str) -> None:
    """Also where another term of the loss has a second derivative of its own."""
    x, y = leaf(6, 2), torch.randn(5, 2, dtype=torch.float64)
    value: Any = losses.sinkhorn_align(x, y, sharp=True, backend=backend) + x.pow(4).sum()
    (first,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(first.sum(), x)


@pytest.mark.parametrize("epsilon", [1e-3, 0.02])
def test_small_epsilon(epsilon: float) -> None:
    """A nearly disconnected plan: the gradient is finite and close to that of the assignment."""
    x, y = leaf(7, 2), torch.randn(7, 2, dtype=torch.float64)
    value = losses.sinkhorn_align(
        x, y, epsilon=epsilon, epsilon_scale=None, debias=False, sharp=True, tol=1e-6,
        max_iter=20_000, backend="rust",
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(value, x)
    assert torch.isfinite(gradient).all()
    if epsilon < 0.01:
        from scipy.optimize import linear_sum_assignment

        _, match = linear_sum_assignment(torch.cdist(x.detach(), y).square().numpy())
        expected = 2 / 7 * (x.detach() - y[torch.as_tensor(match)])
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-3)
