"""Unbalanced transport against an independent convex solver (scipy on the dual, float64).

The update ``f <- ρ f + (1-ρ) T(f)``, often taken for the relaxed one, has the fixed point of the
*balanced* problem; here the value and the mass of the plan come from a solver that iterates
nothing of the kind.
"""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from ucmkd import ops

pytestmark = pytest.mark.usefixtures("one_thread")
Reach = tuple[float | None, float | None]


def problem(masses: tuple[float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(6, 2)), rng.normal(size=(5, 2)) + 0.7
    a, b = rng.random(6) + 0.2, rng.random(5) + 0.2
    return x, y, masses[0] * a / a.sum(), masses[1] * b / b.sum()


def convex_dual(
    cost: np.ndarray, a: np.ndarray, b: np.ndarray, epsilon: float, reach: Reach
) -> tuple[float, np.ndarray]:
    """Maximises the concave dual by quasi-Newton; returns the value and the plan."""
    n = len(a)

    def conjugate(h: np.ndarray, rho: float | None) -> tuple[np.ndarray, np.ndarray]:
        if rho is None:
            return h, np.ones_like(h)
        return rho * (1 - np.exp(-h / rho)), np.exp(-h / rho)

    def plan_of(z: np.ndarray) -> np.ndarray:
        return np.outer(a, b) * np.exp((z[:n, None] + z[None, n:] - cost) / epsilon)

    def negative(z: np.ndarray) -> tuple[float, np.ndarray]:
        plan = plan_of(z)
        (u, du), (v, dv) = conjugate(z[:n], reach[0]), conjugate(z[n:], reach[1])
        value = a @ u + b @ v - epsilon * (plan.sum() - a.sum() * b.sum())
        slope = np.concatenate([a * du - plan.sum(1), b * dv - plan.sum(0)])
        return -value, -slope

    best = minimize(
        negative, np.zeros(n + len(b)), jac=True, method="BFGS",
        options=dict(gtol=1e-11, maxiter=5000),
    )  # fmt: skip
    assert np.abs(best.jac).max() < 1e-7
    return -best.fun, plan_of(best.x)


@pytest.mark.parametrize("masses", [(1.0, 1.0), (0.5, 2.0), (3.0, 1.0)])
@pytest.mark.parametrize("epsilon", [0.1, 0.5, 3.0])
@pytest.mark.parametrize(
    "reach", [(0.05, 0.05), (0.3, 0.3), (5.0, 5.0), (0.2, 2.0), (None, 0.5), (0.5, None)]
)
def test_value_and_mass(
    backend: str, masses: tuple[float, float], epsilon: float, reach: Reach
) -> None:
    x, y, a, b = problem(masses)
    cost = ((x[:, None] - y[None]) ** 2).sum(-1)
    value, plan = convex_dual(cost, a, b, epsilon, reach)
    options = dict(
        epsilon=epsilon, reach=reach, x_weight=torch.tensor(a), y_weight=torch.tensor(b),
        tol=1e-10, max_iter=20_000, backend=backend,
    )  # fmt: skip
    points = torch.tensor(x), torch.tensor(y)
    out = ops.sinkhorn(*points, **options)
    assert bool(out.converged)
    assert out.value.item() == pytest.approx(value, rel=1e-8)
    found = ops.transport_plan(*points, **options)
    np.testing.assert_allclose(found.numpy(), plan, atol=1e-6 * plan.max())
    assert float(found.sum()) == pytest.approx(plan.sum(), rel=1e-6)
    given = ops.sinkhorn_cost(torch.tensor(cost), **options)
    assert given.value.item() == pytest.approx(value, rel=1e-8)


def test_the_wrong_fixed_point(backend: str) -> None:
    """At ρ = 0.05, ε = 0.1 the balanced plan has mass 1; the relaxed one far less."""
    x, y, a, b = problem((1.0, 1.0))
    cost = ((x[:, None] - y[None]) ** 2).sum(-1)
    f, g = np.zeros(6), np.zeros(5)
    for _ in range(20_000):  # the wrong update
        f = 0.05 * f - 0.95 * 0.1 * np.log((b * np.exp((g - cost) / 0.1)).sum(1))
        g = 0.05 * g - 0.95 * 0.1 * np.log((a * np.exp((f - cost.T) / 0.1)).sum(1))
    wrong = (np.outer(a, b) * np.exp((f[:, None] + g[None] - cost) / 0.1)).sum()
    assert wrong == pytest.approx(1.0, rel=1e-6)
    right = convex_dual(cost, a, b, 0.1, (0.05, 0.05))[1].sum()
    assert right < 0.5
    found = ops.transport_plan(
        torch.tensor(x), torch.tensor(y), x_weight=torch.tensor(a), y_weight=torch.tensor(b),
        epsilon=0.1, reach=0.05, tol=1e-10, max_iter=20_000, backend=backend,
    ).sum()  # fmt: skip
    assert found.item() == pytest.approx(right, rel=1e-6)
