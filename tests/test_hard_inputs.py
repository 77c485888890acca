"""Inputs on which a solver of this kind has gone wrong, and the right answers."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ucmkd import losses, ops, reference


def random_points(kind: str, seed: int) -> tuple[Tensor, Tensor, str]:
    rng = np.random.default_rng(seed)
    if kind == "binary":
        x, y = rng.normal(size=(32, 2)) > 0, rng.normal(size=(24, 2)) > 0
    elif kind == "one-hot":
        x, y = np.eye(4)[rng.integers(4, size=32)], np.eye(4)[rng.integers(4, size=32)]
    elif kind == "line":
        return *(torch.tensor(rng.normal(size=(n, 1))) for n in (12, 9)), "cosine"
    else:
        x, y = rng.normal(size=(9, 3)), rng.normal(size=(2, 3))
    return torch.tensor(x * 1.0), torch.tensor(y * 1.0), "sqeuclidean"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["binary", "one-hot", "line", "few columns"])
def test_acceleration_never_converges_to_something_else(kind: str, dtype: torch.dtype) -> None:
    """Few distinct points: the differences that Anderson mixing combines are dependent."""
    for seed in range(40):
        x, y, cost = random_points(kind, seed)
        mean = float(reference.cost_matrix(x[None], y[None], cost).mean())
        if mean == 0:
            continue
        for epsilon in (2e-3 * mean, 0.05 * mean):
            options = dict(epsilon=epsilon, cost=cost, backend="rust")
            tol = 1e-3 if dtype == torch.float32 else 1e-6
            out = ops.sinkhorn(x.to(dtype), y.to(dtype), tol=tol, **options)
            exact = ops.sinkhorn(x, y, tol=1e-8, max_iter=20_000, accelerate=False, **options)
            if bool(out.converged) and bool(exact.converged):
                assert out.value.item() == pytest.approx(exact.value.item(), rel=2e-3, abs=1e-6)


@pytest.mark.parametrize("sharp", [False, True])
def test_masks_on_both_sides(backend: str, sharp: bool) -> None:
    x = torch.tensor([[10.0, 0], [11, 1], [0, 0]], requires_grad=True)
    y = torch.tensor([[10.0, 1], [12, 0], [0, 0]])
    w = torch.tensor([0.5, 0.5, 0.0])
    options = dict(sharp=sharp, tol=1e-5, backend=backend)
    value = losses.sinkhorn_align(x, y, student_weight=w, teacher_weight=w, **options)
    value.backward()
    cropped = x.detach()[:2].clone().requires_grad_()
    expected = losses.sinkhorn_align(cropped, y[:2], **options)
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    torch.testing.assert_close(x.grad[:2], cropped.grad, rtol=1e-3, atol=1e-3)
    assert not x.grad[2].any()
    options = dict(epsilon=0.1, x_weight=w, y_weight=w, backend=backend)
    plan = ops.transport_plan(x, y, **options)
    assert torch.isfinite(plan).all() and not plan[2].any() and not plan[:, 2].any()
    assert torch.isfinite(ops.barycentric_map(x, y, **options)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reach", [None, 1.0])
def test_absurd_warm_starts(backend: str, dtype: torch.dtype, reach: float | None) -> None:
    x, y = torch.randn(20, 5).to(dtype), torch.randn(14, 5).to(dtype)
    options = dict(epsilon=0.5, reach=reach, backend=backend)
    expected = ops.sinkhorn(x, y, **options).value.item()
    noise = torch.randn(14).to(dtype)
    for start in (
        500.0,
        -500.0,
        1e4,
        -1e8,
        1e10,
        1e3 * noise,
        1e6 * noise,
        1e30 * noise,
        torch.nan,
    ):
        g = torch.zeros(14, dtype=dtype) + start
        out = ops.sinkhorn(x, y, y_potential=g, **options)
        bound = 1e-4 if dtype == torch.float32 else 1e-6
        assert out.value.item() == pytest.approx(expected, rel=bound)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reach", [0.05, 0.1, 0.5])
def test_transport_that_does_not_pay(backend: str, dtype: torch.dtype, reach: float) -> None:
    """Where every cost is far above the reach all mass is destroyed: ρ(m_a+m_b) + ε m_a m_b."""
    x = torch.randn(16, 64).to(dtype).requires_grad_()
    y = torch.randn(16, 64).to(dtype)
    value = ops.sinkhorn(x, y, epsilon=0.05, reach=reach, backend=backend).value
    value.backward()
    assert value.item() == pytest.approx(2 * reach + 0.05, rel=1e-5)
    assert torch.isfinite(x.grad).all()


def test_mmd_with_an_outlier(backend: str) -> None:
    rng = np.random.default_rng(2)
    x, y = torch.tensor(rng.normal(size=(32, 8))), torch.tensor(rng.normal(size=(32, 8))) + 1
    x[0] = 1e6
    exact = ops.mmd(x, y, backend="torch").item()
    assert ops.mmd(x.float(), y.float(), backend=backend).item() == pytest.approx(exact, rel=1e-3)
    apart = ops.mmd(x[1:] + 1e4, y, bandwidth=2.0, backend="torch").item()
    value = ops.mmd((x[1:] + 1e4).float(), y.float(), bandwidth=2.0, backend=backend)
    assert value.item() == pytest.approx(apart, rel=1e-3)


@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean"])
def test_what_is_left_of_the_masks_coincides(backend: str, cost: str) -> None:
    x = torch.tensor([[1.0, 2], [3, 4]], requires_grad=True)
    w = torch.tensor([1.0, 0], requires_grad=True)
    value = losses.sinkhorn_align(
        x, x.detach(), student_weight=w, teacher_weight=w.detach(), cost=cost, backend=backend
    )
    value.backward()
    assert value.item() == 0
    assert torch.isfinite(x.grad).all() and torch.isfinite(w.grad).all()


def test_sharp_is_differentiable_once(backend: str) -> None:
    x = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    y = torch.randn(5, 2, dtype=torch.float64)
    value = losses.sinkhorn_align(x, y, sharp=True, backend=backend)
    (first,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        first.sum().backward()


@pytest.mark.parametrize("loss", [losses.sinkhorn_align, losses.mmd_align, losses.feature_align])
def test_features_whose_squares_overflow(loss) -> None:  # type: ignore[no-untyped-def]
    x, y = torch.randn(6, 4), torch.randn(5, 4)
    with pytest.raises(ValueError, match="student must be small enough for squared distances"):
        loss(x * 1e20, y)
    with pytest.raises(TypeError, match=r"teacher_weight must be a torch\.Tensor"):
        loss(x, y, teacher_weight=[0.2] * 5)
