"""Second derivatives of hard problems, and the linear system behind them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from second_common import COSTS, divergence, leaf, twice, value
from ucmkd.ops import _adjoint

# --- the linear system


def problem(n: int, m: int, epsilon: float, strict: bool) -> tuple[Tensor, ...]:
    """A plan with unit-mass marginals and a masked point on each side; its stiffnesses."""
    x, y = torch.rand(2, n, 1).double(), torch.rand(2, m, 1).double()
    plan = torch.exp(-((x - y.transpose(-1, -2)) ** 2) / epsilon)
    plan[:, 0], plan[:, :, 1] = 0, 0
    plan = plan / plan.sum((-1, -2), keepdim=True)
    extra = 0.0 if strict else 0.1
    return plan, (1 + extra) * plan.sum(-1), (1 + extra) * plan.sum(-2)


@pytest.mark.parametrize(("n", "m"), [(9, 6), (6, 9), (1, 3)])
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("direct", [False, True])
def test_adjoint(
    n: int, m: int, strict: bool, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the dense pseudo-inverse; ``direct`` sends every problem to the fallback."""
    if direct:
        monkeypatch.setattr(_adjoint, "_LIMIT", -1.0)
        # Of an iteration that gives up at once nothing is left.
        monkeypatch.setattr(_adjoint, "_MOST_ITERATIONS", 0)
    plan, s, t = problem(n + 1, m + 2, 0.05, strict)
    full = torch.cat(
        [torch.cat([torch.diag_embed(s), plan], 2),
         torch.cat([plan.transpose(1, 2), torch.diag_embed(t)], 2)], 1,
    )  # fmt: skip
    expected = (full @ torch.randn(2, full.shape[-1], 1).double()).squeeze(-1)
    u, v = _adjoint.solve_two_sided(
        plan, s, t, expected[:, : n + 1], expected[:, n + 1 :], torch.tensor([strict] * 2)
    )
    found = (full @ torch.cat([u, v], 1).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    square = plan @ plan.transpose(1, 2)
    stiff = square.sum(-1)
    right = (square @ torch.randn(2, n + 1, 1).double()).squeeze(-1)
    w = _adjoint.solve_symmetric(square, stiff, right)
    found = stiff * w + (square @ w.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-12)


# --- hard inputs


def hessian_vector(function: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    first = torch.autograd.grad(function(*inputs), inputs, create_graph=True)
    generator = torch.Generator().manual_seed(3)
    total = sum((g * torch.randn(g.shape, generator=generator).to(g)).sum() for g in first)
    return torch.autograd.grad(total, inputs)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("reach", [None, 0.9])
def test_masked_points_are_as_left_out(cost: str, reach: float | None) -> None:
    x, y, a = leaf(6, 2), leaf(5, 2), torch.rand(6).double()
    a[4:] = 0
    a, b = a / a.sum(), torch.tensor([0.3, 0.3, 0.4, 0, 0]).double()

    def full(x: Tensor, y: Tensor) -> Tensor:
        return divergence(x, y, x_weight=a, y_weight=b, cost=cost, reach=reach, epsilon=1.0)

    def cropped(x: Tensor, y: Tensor) -> Tensor:
        return divergence(
            x[:4], y[:3], x_weight=a[:4], y_weight=b[:3], cost=cost, reach=reach, epsilon=1.0
        )

    first, second = hessian_vector(full, (x, y)), hessian_vector(cropped, (x, y))
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-10)


def test_weight_of_a_masked_point() -> None:
    """The Hessian at weight 0 is the limit of that at small weights."""
    x, y = torch.randn(4, 2).double(), torch.randn(3, 2).double()

    def hessian(small: float) -> Tensor:
        a = torch.tensor([0.5, 0.3, 0.2, small], dtype=torch.float64)
        return torch.autograd.functional.hessian(lambda w: value(x, y, x_weight=w, reach=0.8), a)

    torch.testing.assert_close(hessian(0.0), hessian(1e-9), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cost", COSTS)
def test_degenerate_clouds_are_finite(cost: str) -> None:
    zero, ones = torch.zeros(4, 2).double(), torch.ones(3, 2).double()
    for x, y in ((zero, zero[:3]), (ones[:2], ones), (zero[:1], ones[:1]), (ones, ones)):
        for reach in (None, 1.0):
            pair = (x.clone().requires_grad_(), y.clone().requires_grad_())
            out = hessian_vector(lambda x, y: divergence(x, y, cost=cost, reach=reach), pair)  # noqa: B023
            assert all(torch.isfinite(t).all() for t in out)


@pytest.mark.parametrize("epsilon", [1e-3, 0.02, 0.3])
@pytest.mark.parametrize("reach", [None, 1.0])
def test_not_converged_is_finite(epsilon: float, reach: float | None) -> None:
    for max_iter in (1, 3, 30):
        out = hessian_vector(
            lambda x, y: divergence(
                x, y, epsilon=epsilon, reach=reach, tol=1e-3, max_iter=max_iter  # noqa: B023
            ),
            (leaf(12, 2), leaf(9, 2)),
        )  # fmt: skip
        assert all(torch.isfinite(t).all() for t in out)


def test_far_from_the_origin_and_float32() -> None:
    x, y = torch.randn(8, 3).double(), torch.randn(7, 3).double()

    def apply(shift: float, dtype: torch.dtype) -> Tensor:
        inputs = tuple((t + shift).to(dtype).requires_grad_() for t in (x, y))
        out = hessian_vector(lambda x, y: divergence(x.double(), y.double(), epsilon=1.0), inputs)[
            0
        ]
        assert out.dtype == dtype
        return out.double()

    exact = apply(0.0, torch.float64)
    torch.testing.assert_close(apply(1e4, torch.float64), exact, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(apply(0.0, torch.float32), exact, rtol=1e-4, atol=1e-5)


def test_a_third_derivative_raises() -> None:
    x, y = leaf(4, 2), torch.randn(3, 2).double()
    (first,) = torch.autograd.grad(value(x, y), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable twice"):
        torch.autograd.grad(second.sum(), x, retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiable twice"):
        second.sum().backward()


def test_inputs_that_depend_on_each_other() -> None:
    """``y`` a function of ``x``, the same tensor twice: only explicit uses count as explicit."""

    def function(x):  # type: ignore[no-untyped-def]
        return value(x, x.sin()[:4], x_weight=x[:, 0].softmax(0), epsilon=1.0) + value(
            x, x, epsilon=1.0
        )

    twice(function, leaf(5, 2), first=True)
