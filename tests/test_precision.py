"""What half precision and a far-away origin cost, against float64."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ucmkd import losses, ops, reference

pytestmark = pytest.mark.usefixtures("one_thread")
LOSSES = [losses.sinkhorn_align, losses.feature_align, losses.mmd_align]


def clouds(d: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(48, d, generator=generator, dtype=torch.float64)
    return x, 0.8 * torch.randn(40, d, generator=generator, dtype=torch.float64) + 0.4


def value_and_gradient(loss: Any, x: Tensor, y: Tensor, **options: Any) -> tuple[float, Tensor]:
    x = x.detach().clone().requires_grad_()
    value = loss(x, y, **options)
    value.backward()
    assert x.grad is not None and x.grad.dtype == x.dtype
    return value.item(), x.grad.double()


def options_of(loss: Any, dtype: torch.dtype) -> dict[str, Any]:
    if loss is losses.mmd_align:
        return {}
    return dict(tol=1e-10 if dtype == torch.float64 else 1e-5, max_iter=5000)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("loss", LOSSES)
def test_stated_error(backend: str, loss: Any, dtype: torch.dtype) -> None:
    """Against float64 of the same rounded features: float32's error, and one rounding of the
    gradient. Against the unrounded features: what the rounding itself moves, a few units of the
    type's eps."""
    x, y = clouds()
    low = x.to(dtype), y.to(dtype)
    eps = torch.finfo(dtype).eps
    value, gradient = value_and_gradient(loss, *low, **options_of(loss, dtype), backend=backend)
    exact = options_of(loss, torch.float64) | dict(backend="torch")
    same, same_gradient = value_and_gradient(loss, *(t.double() for t in low), **exact)
    assert value == pytest.approx(same, rel=1e-5)
    largest = float(same_gradient.abs().max())
    assert (gradient - same_gradient).abs().max() <= (eps + 1e-4) * largest
    true, true_gradient = value_and_gradient(loss, x, y, **exact)
    assert value == pytest.approx(true, rel=4 * eps + 1e-5)
    assert (gradient - true_gradient).norm() <= (4 * eps + 1e-4) * true_gradient.norm()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shift", [100.0, -100.0])
def test_shift(backend: str, loss: Any, shift: float) -> None:
    """Far from the origin, float32: values to 1e-5, gradients to 1e-3. The points lie on a grid
    on which the shift is exact, so that all of the error is the algorithm's."""
    x, y = ((t * 2**14).round() / 2**14 for t in clouds())
    options = options_of(loss, torch.float32) | dict(backend=backend)
    value, gradient = value_and_gradient(loss, x.float(), y.float(), **options)
    far = (x + shift).float(), (y + shift).float()
    assert torch.equal(far[0].double(), x + shift)
    moved, moved_gradient = value_and_gradient(loss, *far, **options)
    assert moved == pytest.approx(value, rel=1e-5)
    assert (moved_gradient - gradient).norm() <= 1e-3 * gradient.norm()
    assert (moved_gradient - gradient).abs().max() <= 1e-3 * gradient.abs().max()


@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean", "l1"])
@pytest.mark.parametrize("reach", [None, 1.0])
def test_shift_of_the_operator(backend: str, cost: str, reach: float | None) -> None:
    """The same for the raw operator, relaxed too, and for coincident points among the others."""
    x, y = ((t * 2**14).round() / 2**14 for t in clouds(6))
    y[:10] = x[:10]
    mean = float(reference.cost_matrix(x[None], y[None], cost).mean())
    options: dict[str, Any] = dict(
        epsilon=0.1 * mean, reach=None if reach is None else reach * mean, cost=cost
    )

    def solve(x: Tensor, y: Tensor, tol: float, backend: str) -> tuple[float, Tensor]:
        def loss(x: Tensor, y: Tensor) -> Tensor:
            return ops.sinkhorn(x, y, tol=tol, max_iter=5000, backend=backend, **options).value

        return value_and_gradient(loss, x, y)

    true, true_gradient = solve(x, y, 1e-10, "torch")
    for shift in (0.0, 100.0):
        value, gradient = solve((x + shift).float(), (y + shift).float(), 1e-5, backend)
        assert value == pytest.approx(true, rel=1e-5)
        assert (gradient - true_gradient).norm() <= 1e-3 * true_gradient.norm()


@pytest.mark.parametrize("offset", [30.0, 1000.0])
@pytest.mark.parametrize("cost", ["cosine", "chordal"])
def test_directions_that_are_nearly_the_same(backend: str, cost: str, offset: float) -> None:
    """Features with a large common part, as after a ReLU: angles of a thousandth keep their digits.
    Normalising in float32 moves a point by eps/2, a share ``eps * offset`` of what is compared."""
    x, y = ((t * 2**10).round() / 2**10 + offset for t in clouds())
    options = dict(cost=cost, tol=1e-5, max_iter=5000)
    value, gradient = value_and_gradient(
        losses.sinkhorn_align, x.float(), y.float(), **options, backend=backend
    )
    exact = options | dict(tol=1e-10, backend="torch")
    true, true_gradient = value_and_gradient(losses.sinkhorn_align, x, y, **exact)
    error = torch.finfo(torch.float32).eps * offset
    assert value == pytest.approx(true, rel=1e-5 + error)
    assert (gradient - true_gradient).norm() <= (1e-4 + 2 * error) * true_gradient.norm()


@pytest.mark.parametrize("times", [30.0, 1e4, 1e7])
def test_epsilon_many_times_the_costs(backend: str, times: float) -> None:
    """The divergence tends to the squared distance of the means; its three terms are as large as
    epsilon and cancel."""
    x, y = clouds()
    mean = float(reference.cost_matrix(x[None], y[None]).mean())
    options = dict(epsilon=times * mean, epsilon_scale=None, tol=1e-7)
    value, gradient = value_and_gradient(
        losses.sinkhorn_align, x.float(), y.float(), **options, backend=backend
    )
    exact = options | dict(tol=1e-10, backend="torch")
    true, true_gradient = value_and_gradient(losses.sinkhorn_align, x, y, **exact)
    limit = float((x.mean(0) - y.mean(0)).square().sum())
    assert true == pytest.approx(limit, rel=20 / times)
    assert value == pytest.approx(true, rel=1e-4)
    assert (gradient - true_gradient).norm() <= 1e-3 * true_gradient.norm()
