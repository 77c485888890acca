"""Values and gradients that are known in closed form, on every backend.

The penalty is ε·KL(P | a⊗b) and the cost is not halved; float64 to 1e-8, float32 to 1e-4.
"""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ucmkd import losses, ops

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
DTYPES = [torch.float64, torch.float32]


def solver(dtype: torch.dtype) -> dict[str, float]:
    return dict(tol=1e-12 if dtype == torch.float64 else 1e-6, max_iter=3_000)


def close(value: Tensor, expected: float, dtype: torch.dtype) -> None:
    assert value.dtype == dtype
    assert value.item() == pytest.approx(expected, rel=TOLERANCE[dtype], abs=TOLERANCE[dtype] / 10)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("epsilon", [1.0, 0.1, 3.7])
def test_two_by_two(backend: str, dtype: torch.dtype, epsilon: float) -> None:
    cost = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=dtype)
    eps = torch.tensor(epsilon, dtype=dtype, requires_grad=True)
    out = ops.sinkhorn_cost(cost, epsilon=eps, backend=backend, **solver(dtype))
    out.value.backward()
    half = math.exp(-1 / epsilon)
    close(out.value.detach(), -epsilon * math.log((1 + half) / 2), dtype)
    diagonal = 0.5 / (1 + half)
    entropy = 2 * diagonal * math.log(4 * diagonal) + 2 * (0.5 - diagonal) * math.log(
        4 * (0.5 - diagonal)
    )
    close(eps.grad, entropy, dtype)
    plan = ops.transport_plan_cost(cost, epsilon=epsilon, backend=backend, **solver(dtype))
    close(plan[0, 0], diagonal, dtype)
    close(plan[0, 1], 0.5 - diagonal, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("debias", [False, True])
def test_diracs(backend: str, dtype: torch.dtype, debias: bool) -> None:
    x = torch.tensor([[1.0, 2.0, -1.0]], dtype=dtype, requires_grad=True)
    y = torch.tensor([[0.5, -1.0, 3.0]], dtype=dtype)
    value = losses.sinkhorn_align(
        x, y, epsilon=0.3, epsilon_scale=None, debias=debias, backend=backend
    )
    value.backward()
    close(value.detach(), float(((x.detach() - y) ** 2).sum()), dtype)
    torch.testing.assert_close(x.grad, 2 * (x.detach() - y), rtol=1e-6, atol=1e-6)
    out = ops.sinkhorn(x.detach(), y, epsilon=0.3, backend=backend)
    close((out.x_potential + out.y_potential).squeeze(), value.item(), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("epsilon", "reach"), [(0.1, 1.0), (1.0, 0.3), (0.01, 50.0)])
def test_unbalanced_diracs(backend: str, dtype: torch.dtype, epsilon: float, reach: float) -> None:
    x = torch.zeros(1, 1, dtype=dtype)
    y = torch.ones(1, 1, dtype=dtype)
    rho = torch.tensor(reach, dtype=dtype, requires_grad=True)
    out = ops.sinkhorn(x, y, epsilon=epsilon, reach=rho, backend=backend, **solver(dtype))
    out.value.backward()
    mass = math.exp(-1 / (epsilon + 2 * reach))
    close(out.value.detach(), (epsilon + 2 * reach) * (1 - mass), dtype)
    close(rho.grad, 2 * (1 - mass) - 2 * mass / (epsilon + 2 * reach), dtype)
    # The damped update that is often written down solves the balanced problem: mass 1.
    plan = ops.transport_plan(x, y, epsilon=epsilon, reach=reach, backend=backend, **solver(dtype))
    close(plan.sum(), mass, dtype)


def gaussian_grid(dtype: torch.dtype, mean: float, n: int = 400) -> tuple[Tensor, Tensor]:
    """A fine quadrature of N(mean, 1)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(min(n, 160))
    nodes, weights = torch.tensor(nodes + mean), torch.tensor(weights / weights.sum())
    keep = weights > 1e-25
    return nodes[keep].unsqueeze(1).to(dtype), (weights[keep] / weights[keep].sum()).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gaussians_in_one_dimension(backend: str, dtype: torch.dtype) -> None:
    """Janati et al. 2020: entropic transport of N(0,1) to N(1,1) at ε = 2, and its map's slope."""
    x, a = gaussian_grid(dtype, 0.0)
    y, b = gaussian_grid(dtype, 1.0)
    options = dict(epsilon=2.0, x_weight=a, y_weight=b, backend=backend, **solver(dtype))
    sigma2, root = 1.0, math.sqrt(5.0)
    expected = 3 - root + sigma2 * (1 - math.log(2 * sigma2)) + sigma2 * math.log(root + sigma2)
    close(ops.sinkhorn(x, y, **options).value, expected, dtype)
    divergence = losses.sinkhorn_align(
        x, y, epsilon=2.0, epsilon_scale=None, student_weight=a, teacher_weight=b,
        backend=backend, **solver(dtype),
    )  # fmt: skip
    close(divergence, 1.0, dtype)
    image = ops.barycentric_map(x, y, **options)
    middle = (x.abs() < 2).squeeze()
    slope = (image[middle][-1] - image[middle][0]) / (x[middle][-1] - x[middle][0])
    close(slope.squeeze(), (root - sigma2) / 2, dtype)


def clouds(dtype: torch.dtype, n: int = 23, m: int = 31, d: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    y = 0.7 * torch.randn(m, d, generator=generator, dtype=torch.float64) + 0.5
    return x.to(dtype), y.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_translation(backend: str, dtype: torch.dtype) -> None:
    x, y = clouds(dtype)
    shift = torch.tensor([0.3, -1.0, 2.0], dtype=dtype)
    options = dict(epsilon=0.5, backend=backend, **solver(dtype))
    base, moved = ops.sinkhorn(x, y, **options).value, ops.sinkhorn(x, y + shift, **options).value
    expected = base + (shift**2).sum() - 2 * shift @ (x.mean(0) - y.mean(0))
    close(moved, expected.item(), dtype)
    divergence = losses.sinkhorn_align(
        x, x + shift, epsilon=0.5, epsilon_scale=None, backend=backend, **solver(dtype)
    )
    close(divergence, float((shift**2).sum()), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_scale(backend: str, dtype: torch.dtype) -> None:
    x, y = clouds(dtype)
    s = 3.0
    small = ops.sinkhorn(x, y, epsilon=0.4, reach=1.5, backend=backend, **solver(dtype)).value
    large = ops.sinkhorn(
        s * x, s * y, epsilon=0.4 * s**2, reach=1.5 * s**2, backend=backend, **solver(dtype)
    ).value
    close(large, s**2 * small.item(), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_product_measures(backend: str, dtype: torch.dtype) -> None:
    """Transport of product measures adds up over the blocks of coordinates."""
    x, y = clouds(dtype, 4, 5, 1)
    u, v = clouds(dtype, 3, 6, 1)
    u, v = 2 * u + 1, v - 1
    options = dict(epsilon=0.6, backend=backend, **solver(dtype))

    def product(p: Tensor, q: Tensor) -> Tensor:
        return torch.cat([p.repeat_interleave(len(q), 0), q.repeat(len(p), 1)], 1)

    total = ops.sinkhorn(product(x, u), product(y, v), **options).value
    parts = ops.sinkhorn(x, y, **options).value + ops.sinkhorn(u, v, **options).value
    close(total, parts.item(), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reach", [None, 0.8])
def test_split_points_and_masks(backend: str, dtype: torch.dtype, reach: float | None) -> None:
    x, y = clouds(dtype)
    a = torch.full((23,), 1 / 23, dtype=dtype)
    options = dict(epsilon=0.5, reach=reach, backend=backend, **solver(dtype))
    base = ops.sinkhorn(x, y, **options)
    split = torch.cat([a[:1] * 0.3, a[:1] * 0.7, a[1:]])
    doubled = torch.cat([x[:1], x], 0)
    close(ops.sinkhorn(doubled, y, x_weight=split, **options).value, base.value.item(), dtype)
    padded = torch.cat([x, 100 * torch.ones(4, 3, dtype=dtype)], 0)
    masked = torch.cat([a, torch.zeros(4, dtype=dtype)])
    out = ops.sinkhorn(padded, y, x_weight=masked, **options)
    close(out.value, base.value.item(), dtype)
    assert torch.isfinite(out.x_potential).all()
    far = torch.cat([y, -50 * torch.ones(3, 3, dtype=dtype)], 0)
    b = torch.cat([torch.full((31,), 1 / 31, dtype=dtype), torch.zeros(3, dtype=dtype)])
    close(ops.sinkhorn(x, far, y_weight=b, **options).value, base.value.item(), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_epsilon(backend: str, dtype: torch.dtype) -> None:
    x, y = clouds(dtype)
    options = dict(epsilon_scale=None, backend=backend, **solver(dtype))
    far = losses.sinkhorn_align(x, y, epsilon=1e7 if dtype == torch.float64 else 1e3, **options)
    expected = float(((x.mean(0) - y.mean(0)) ** 2).sum())
    assert far.item() == pytest.approx(expected, rel=1e-6 if dtype == torch.float64 else 5e-2)
    energy = losses.sinkhorn_align(x, y, epsilon=1e7, cost="euclidean", **options)
    half = (
        torch.cdist(x, y).mean() - torch.cdist(x, x).mean() / 2 - torch.cdist(y, y).mean() / 2
    ).item()
    if dtype == torch.float64:
        assert energy.item() == pytest.approx(half, rel=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cost", ["sqeuclidean", "l1"])
def test_small_epsilon_is_sorting(backend: str, dtype: torch.dtype, cost: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(12, 1, generator=generator, dtype=torch.float64).to(dtype)
    y = 2 * torch.rand(12, 1, generator=generator, dtype=torch.float64).to(dtype) - 0.3
    power = 2 if cost == "sqeuclidean" else 1
    expected = (x.sort(0).values - y.sort(0).values).abs().pow(power).mean().item()
    value = ops.sinkhorn(
        x, y, epsilon=1e-3, cost=cost, tol=1e-3, max_iter=5_000, backend=backend
    ).value
    # The bias is at most ε·log n; an unconverged dual value is a little lower.
    assert expected - 1e-4 <= value.item() <= expected + 1e-3 * math.log(12) + 1e-5


@pytest.mark.parametrize("dtype", DTYPES)
def test_small_epsilon_is_assignment(backend: str, dtype: torch.dtype) -> None:
    from scipy.optimize import linear_sum_assignment

    x, y = clouds(dtype, 16, 16)
    cost = torch.cdist(x.double(), y.double()) ** 2
    expected = float(cost[linear_sum_assignment(cost.numpy())].mean())
    epsilon = 1e-3 * float(cost.mean())
    out = ops.sinkhorn(x, y, epsilon=epsilon, tol=1e-3, max_iter=20_000, backend=backend)
    assert bool(out.converged)
    assert expected * (1 - 1e-3) <= out.value.item() <= expected + epsilon * math.log(16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean", "cosine", "l1", "chordal"])
@pytest.mark.parametrize("reach", [None, (0.5, None), (None, 2.0), (0.4, 1.1)])
def test_optimality_conditions(
    backend: str,
    dtype: torch.dtype,
    cost: str,
    reach: tuple[float | None, float | None] | None,
) -> None:
    """Strict: P1 = a; relaxed: P1 = a·exp(-f/ρ); both sides."""
    x, y = clouds(dtype)
    a = torch.rand(23, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).to(dtype)
    b = torch.rand(31, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).to(dtype)
    a, b = a / a.sum(), b / b.sum()
    a[3] = b[5] = 0
    a, b = a / a.sum(), b / b.sum()
    if reach is not None:
        a = 1.7 * a
    options = dict(
        epsilon=0.3, cost=cost, x_weight=a, y_weight=b, reach=reach, backend=backend,
        **solver(dtype),
    )  # fmt: skip
    out = ops.sinkhorn(x, y, **options)
    plan = ops.transport_plan(x, y, **options)
    rho_x, rho_y = reach or (None, None)
    rows = a if rho_x is None else a * torch.exp(-out.x_potential / rho_x)
    columns = b if rho_y is None else b * torch.exp(-out.y_potential / rho_y)
    bound = 1e-9 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(plan.sum(1), rows, rtol=0, atol=bound)
    torch.testing.assert_close(plan.sum(0), columns, rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", DTYPES)
def test_restart_from_the_solution(backend: str, dtype: torch.dtype) -> None:
    x, y = clouds(dtype)
    options = dict(epsilon=0.3, tol=1e-4, backend=backend)
    first = ops.sinkhorn(x, y, **options)
    again = ops.sinkhorn(
        x, y, x_potential=first.x_potential, y_potential=first.y_potential, **options
    )
    assert int(first.iterations) > 3
    assert int(again.iterations) == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_mmd_fixture(backend: str, dtype: torch.dtype) -> None:
    x = torch.tensor([[0, 0], [1, 0], [0, 2]], dtype=dtype)
    y = torch.tensor([[1, 1], [2, 0], [0, -1], [3, 1]], dtype=dtype)
    options = dict(bandwidth=1.0, scales=(1.0,), backend=backend)
    close(ops.mmd(x, y, **options), 0.36543764050136296, dtype)
    close(ops.mmd(x, y, estimator="u", **options), -0.083146938128554, dtype)
    # The pooled off-diagonal median of the squared distances is 4.
    close(
        ops.mmd(x, y, scales=(1.0,), backend=backend),
        ops.mmd(x, y, bandwidth=2.0, scales=(1.0,), backend=backend).item(),
        dtype,
    )


def test_mmd_of_gaussians(backend: str) -> None:
    """Isotropic Gaussians: 2(1+2s²/σ²)^(-d/2) (1 - exp(-|Δ|²/2(σ²+2s²))), by quadrature in 1-D."""
    x, a = gaussian_grid(torch.float64, 0.0)
    y, b = gaussian_grid(torch.float64, 0.8)
    sigma = 1.5
    expected = 2 * (1 + 2 / sigma**2) ** -0.5 * (1 - math.exp(-(0.8**2) / (2 * (sigma**2 + 2))))
    value = ops.mmd(x, y, bandwidth=sigma, scales=(1.0,), x_weight=a, y_weight=b, backend=backend)
    assert value.item() == pytest.approx(expected, rel=1e-8)


def test_mmd_integer_weights_are_repeated_rows(backend: str) -> None:
    x, y = clouds(torch.float64)
    weight = torch.ones(23, dtype=torch.float64)
    weight[4] = 3
    repeated = torch.cat([x, x[4:5], x[4:5]])
    for scales in ((1.0,), (0.25, 0.5, 1.0, 2.0, 4.0), (0.3, 1.0)):
        one = ops.mmd(x, y, bandwidth=1.3, scales=scales, x_weight=weight / 25, backend=backend)
        two = ops.mmd(repeated, y, bandwidth=1.3, scales=scales, backend=backend)
        assert one.item() == pytest.approx(two.item(), rel=1e-10)
