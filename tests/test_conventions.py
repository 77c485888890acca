"""The conventions of other libraries: each against its formula, solved by hand here.

The libraries are not needed: what each returns is written out from its documentation and solved
with a plain loop in NumPy. Where one is installed, it is asked itself too.
"""

import numpy as np
import pytest
import torch

from ucmkd import losses, ops

pytestmark = pytest.mark.usefixtures("one_thread")
Array = np.ndarray
exactly = dict(tol=1e-11, max_iter=20_000)


def clouds() -> tuple[Array, Array, Array, Array]:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(7, 2)), rng.normal(size=(6, 2)) + 0.4
    a, b = rng.random(7) + 0.3, rng.random(6) + 0.3
    return x, y, a / a.sum(), b / b.sum()


def half_square(x: Array, y: Array) -> Array:
    return ((x[:, None] - y[None]) ** 2).sum(-1) / 2


def potentials(
    cost: Array, a: Array, b: Array, epsilon: float, reach: float | None
) -> tuple[Array, Array]:
    """Sinkhorn on potentials; ``f = -τ ε log Σ b e^{(g-C)/ε}``, τ = ρ/(ρ+ε)."""
    tau = 1.0 if reach is None else reach / (reach + epsilon)
    f, g = np.zeros(len(a)), np.zeros(len(b))
    kernel = np.exp(-cost / epsilon)  # the costs here are a few ε: nothing underflows
    for _ in range(3000):
        f = -tau * epsilon * np.log(kernel @ (b * np.exp(g / epsilon)))
        g = -tau * epsilon * np.log(kernel.T @ (a * np.exp(f / epsilon)))
    return f, g


def plan_of(cost: Array, a: Array, b: Array, epsilon: float) -> Array:
    f, g = potentials(cost, a, b, epsilon, None)
    return np.outer(a, b) * np.exp((f[:, None] + g - cost) / epsilon)


def geomloss_divergence(
    x: Array, y: Array, a: Array, b: Array, blur: float, reach: float | None
) -> float:
    """``SamplesLoss("sinkhorn", p=2, blur, reach)``: C = ½|x-y|², ε = blur², ρ = reach².

    Balanced ⟨a, f - p⟩ + ⟨b, g - q⟩; unbalanced (Sejourne et al. 2019, prop. 12, masses 1)
    (ρ+ε/2)(⟨a, e^{-p/ρ} - e^{-f/ρ}⟩ + ⟨b, e^{-q/ρ} - e^{-g/ρ}⟩).
    """
    epsilon, rho = blur**2, None if reach is None else reach**2
    f, g = potentials(half_square(x, y), a, b, epsilon, rho)
    # The symmetric potentials: the average of both sides' is a fixed point at convergence.
    p = sum(potentials(half_square(x, x), a, a, epsilon, rho)) / 2
    q = sum(potentials(half_square(y, y), b, b, epsilon, rho)) / 2
    if rho is None:
        return float(a @ (f - p) + b @ (g - q))
    left = a @ (np.exp(-p / rho) - np.exp(-f / rho))
    return float((rho + epsilon / 2) * (left + b @ (np.exp(-q / rho) - np.exp(-g / rho))))


def pot_sinkhorn2(cost: Array, a: Array, b: Array, reg: float) -> float:
    """``ot.sinkhorn2``: ⟨P, M⟩ of the plan diag(u) e^{-M/reg} diag(v)."""
    kernel = np.exp(-cost / reg)
    v = np.ones(len(b))
    for _ in range(5000):
        u = a / (kernel @ v)
        v = b / (kernel.T @ u)
    return float((u[:, None] * kernel * v * cost).sum())


def tensors(*arrays: Array) -> list[torch.Tensor]:
    return [torch.tensor(array) for array in arrays]


def align(backend: str, **options: object) -> float:
    x, y, a, b = tensors(*clouds())
    return losses.sinkhorn_align(
        x, y, student_weight=a, teacher_weight=b, epsilon_scale=None, backend=backend, **exactly,
        **options,
    ).item()  # fmt: skip


@pytest.mark.parametrize(("blur", "reach"), [(0.7, None), (1.0, None), (0.7, 0.9), (1.0, 2.0)])
def test_geomloss(backend: str, blur: float, reach: float | None) -> None:
    x, y, a, b = clouds()
    here = align(backend, epsilon=2 * blur**2, reach=None if reach is None else 2 * reach**2) / 2
    assert here == pytest.approx(geomloss_divergence(x, y, a, b, blur, reach), rel=1e-8)


@pytest.mark.parametrize("reg", [0.8, 3.0])
def test_pot(backend: str, reg: float) -> None:
    x, y, a, b = clouds()

    def there(p: Array, q: Array, u: Array, v: Array) -> float:
        return pot_sinkhorn2(2 * half_square(p, q), u, v, reg)

    transport = align(backend, epsilon=reg, sharp=True, debias=False)
    assert transport == pytest.approx(there(x, y, a, b), rel=1e-8)
    debiased = there(x, y, a, b) - (there(x, x, a, a) + there(y, y, b, b)) / 2
    assert align(backend, epsilon=reg, sharp=True) == pytest.approx(debiased, rel=1e-7)


@pytest.mark.parametrize("epsilon", [0.8, 3.0])
def test_ott_and_flash_sinkhorn(backend: str, epsilon: float) -> None:
    """``reg_ot_cost`` is ⟨P, C⟩ + ε KL(P | a⊗b) with the full squared distance."""
    x, y, a, b = clouds()
    cost = 2 * half_square(x, y)
    plan = plan_of(cost, a, b, epsilon)
    expected = (plan * cost).sum() + epsilon * (plan * np.log(plan / np.outer(a, b))).sum()
    points = tensors(x, y)
    weights = dict(zip(("x_weight", "y_weight"), tensors(a, b), strict=True))
    out = ops.sinkhorn(*points, epsilon=epsilon, backend=backend, **weights, **exactly)
    assert out.value.item() == pytest.approx(expected, rel=1e-9)


def test_installed_geomloss() -> None:
    geomloss = pytest.importorskip("geomloss", reason="GeomLoss is not installed")
    x, y, a, b = tensors(*clouds())
    for reach in (None, 1.1):
        loss = geomloss.SamplesLoss(
            "sinkhorn", p=2, blur=0.8, reach=reach, scaling=0.99, backend="tensorized"
        )
        here = align("rust", epsilon=2 * 0.8**2, reach=None if reach is None else 2 * reach**2) / 2
        assert loss(a, x, b, y).item() == pytest.approx(here, rel=1e-3)


def test_installed_pot() -> None:
    ot = pytest.importorskip("ot", reason="POT is not installed")
    x, y, a, b = clouds()
    cost = 2 * half_square(x, y)
    there = ot.sinkhorn2(a, b, cost, 0.8, numItermax=5000, stopThr=1e-12)
    assert align("rust", epsilon=0.8, sharp=True, debias=False) == pytest.approx(there, rel=1e-7)
    there = ot.bregman.empirical_sinkhorn_divergence(
        x, y, 0.8, a=a, b=b, numIterMax=5000, stopThr=1e-12
    )
    assert align("rust", epsilon=0.8, sharp=True) == pytest.approx(float(there), rel=1e-6)
