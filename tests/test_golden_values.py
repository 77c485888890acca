"""Values known to ten digits or more, from the literature or computed independently."""

import math

import pytest
import torch

from ucmkd import losses, ops

pytestmark = pytest.mark.usefixtures("one_thread")
TWO = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
ZERO, ONE = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
exactly = dict(tol=1e-13, max_iter=20_000)


def test_two_by_two(backend: str) -> None:
    """The example of POT's documentation, with the KL penalty."""
    eps = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    out = ops.sinkhorn_cost(TWO, epsilon=eps, backend=backend, **exactly)
    out.value.backward()
    assert out.value.item() == pytest.approx(0.3798854930, abs=1e-10)
    assert eps.grad.item() == pytest.approx(0.1109440717, abs=1e-10)
    plan = ops.transport_plan_cost(TWO, epsilon=1.0, backend=backend, **exactly)
    assert plan[0].tolist() == pytest.approx([0.36552929, 0.13447071], abs=1e-8)
    low = ops.sinkhorn_cost(TWO, epsilon=0.1, backend=backend, **exactly).value
    assert low.item() == pytest.approx(0.0693101782, abs=1e-10)


def test_unbalanced_diracs(backend: str) -> None:
    out = ops.sinkhorn(ZERO, ONE, epsilon=0.1, reach=1.0, backend=backend, **exactly)
    assert out.value.item() == pytest.approx(0.7955951690, abs=1e-10)


@pytest.mark.parametrize("cost", ["sqeuclidean", "l1"])
def test_diracs_of_other_masses(backend: str, cost: str) -> None:
    """min_p pc + ε KL(p|m n) + ρ KL(p|m) + ρ KL(p|n), solved by hand."""
    m, n, eps, rho, c = 0.7, 2.0, 0.3, 0.8, 1.0
    log_p = (eps * math.log(m * n) + rho * math.log(m) + rho * math.log(n) - c) / (eps + 2 * rho)
    p = math.exp(log_p)
    expected = eps * m * n + rho * (m + n) - (eps + 2 * rho) * p
    x = ZERO.clone().requires_grad_()
    weights = (torch.tensor([w], dtype=torch.float64) for w in (m, n))
    out = ops.sinkhorn(
        x, ONE, epsilon=eps, reach=rho, cost=cost, backend=backend, **exactly,
        **dict(zip(("x_weight", "y_weight"), weights, strict=True)),
    )  # fmt: skip
    out.value.backward()
    assert out.value.item() == pytest.approx(expected, abs=1e-10)
    slope = -2.0 if cost == "sqeuclidean" else -1.0
    assert x.grad.item() == pytest.approx(slope * p, abs=1e-10)


def test_gaussians(backend: str) -> None:
    """N(0,1), N(1,1) at ε = 2 by a fine grid; 400 by 400 points with their densities."""
    grid = torch.linspace(-7, 8, 401, dtype=torch.float64)
    x = grid[:, None]
    a, b = (torch.exp(-((grid - mean) ** 2) / 2) for mean in (0.0, 1.0))
    weights = dict(x_weight=a / a.sum(), y_weight=b / b.sum())
    options = dict(epsilon=2.0, backend=backend, tol=1e-11, max_iter=2000)
    assert ops.sinkhorn(x, x, **options, **weights).value.item() == pytest.approx(
        2.2451438476, abs=1e-8
    )
    divergence = losses.sinkhorn_align(
        x, x, student_weight=weights["x_weight"], teacher_weight=weights["y_weight"],
        epsilon_scale=None, **options,
    )  # fmt: skip
    assert divergence.item() == pytest.approx(1.0, abs=1e-8)
    image = ops.barycentric_map(x, x, **options, **weights)
    slope = (image[240] - image[160]) / (grid[240] - grid[160])
    assert slope.item() == pytest.approx(0.6180339887, abs=1e-6)


@pytest.mark.parametrize("price", [0.0, 2.0])
def test_label_cost_of_one_pair(backend: str, price: float) -> None:
    lam = torch.tensor(price, dtype=torch.float64, requires_grad=True)
    for label, differ in ((0, 0.0), (1, 1.0)):
        labels = dict(x_label=torch.tensor([0]), y_label=torch.tensor([label]))
        out = ops.sinkhorn(
            ZERO, 3 * ONE, epsilon=0.5, label_cost=lam, backend=backend, **labels, **exactly
        )
        assert out.value.item() == pytest.approx(9 + price * differ, abs=1e-9)
        (slope,) = torch.autograd.grad(out.value, lam)
        assert slope.item() == pytest.approx(differ, abs=1e-9)


@pytest.mark.parametrize("epsilon", [0.05, 0.5])
def test_planted_permutation(backend: str, epsilon: float) -> None:
    """Clouds that are permuted copies, slightly moved: the plan finds the permutation."""
    x = 3 * torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 2, indexing="ij"), -1).reshape(16, 2)
    order = torch.randperm(16)
    y = x[order] + 0.1
    plan = ops.transport_plan(x, y, epsilon=epsilon, backend=backend)
    assert torch.equal(plan.argmax(1), torch.argsort(order))
    assert plan.max(1).values == pytest.approx(1 / 16, rel=1e-3)


def test_mmd_fixture(backend: str) -> None:
    x = torch.tensor([[0, 0], [1, 0], [0, 2]], dtype=torch.float64)
    y = torch.tensor([[1, 1], [2, 0], [0, -1], [3, 1]], dtype=torch.float64)
    options = dict(scales=(1.0,), backend=backend)
    v = ops.mmd(x, y, bandwidth=1.0, **options)
    u = ops.mmd(x, y, bandwidth=1.0, estimator="u", **options)
    assert v.item() == pytest.approx(0.36543764050136296, rel=1e-12)
    assert u.item() == pytest.approx(-0.083146938128554, rel=1e-12)
    # The pooled off-diagonal median of the squared distances is 4.
    assert ops.mmd(x, y, **options).item() == pytest.approx(
        ops.mmd(x, y, bandwidth=2.0, **options).item(), rel=1e-12
    )
