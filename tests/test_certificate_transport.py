"""Wasserstein distances from above: exact values, blocks, and the finite-sample terms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import wasserstein_distance
from torch import Tensor

from ucmkd.theory import certificate_transport
from ucmkd.theory.certificate_kernel import kernel_form
from ucmkd.theory.certificate_sampling import (
    class_deviation,
    mmd_deviation,
    plug_in_deviation,
    wasserstein_deviation,
)
from ucmkd.theory.certificate_transport import _parts, diameter, wasserstein

pytestmark = pytest.mark.usefixtures("one_thread")  # many small problems


def exact(x: Tensor, y: Tensor, p: float = 2) -> float:
    """By the assignment problem, for equal numbers."""
    cost = torch.cdist(x.double(), y.double(), p=p).numpy()
    return float(cost[linear_sum_assignment(cost)].mean())


def test_by_hand_on_a_line() -> None:
    # Sorted: 0 to 1 and 1 to 3; then half of 2 to 0 and half to 5.
    x, y = torch.tensor([[1.0], [0.0]]), torch.tensor([[1.0], [3.0]])
    assert wasserstein(x, y) == pytest.approx(1.5, rel=1e-6)
    assert wasserstein(torch.tensor([[2.0]]), torch.tensor([[0.0], [5.0]])) == 2.5
    a, b = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]])
    assert wasserstein(a, b) == 5 and wasserstein(a, b, distance="chebyshev") == 4
    assert wasserstein(b.expand(7, 2), b.expand(3, 2)) == 0


@pytest.mark.parametrize("distance", ["euclidean", "chebyshev"])
@pytest.mark.parametrize("shape", [(5, 1), (60, 2), (120, 30)])
def test_just_above_the_exact_value(shape: tuple[int, int], distance) -> None:
    x, y = torch.randn(shape), 1.5 * torch.randn(shape) + 0.4
    truth = exact(x, y, 2 if distance == "euclidean" else math.inf)
    found = wasserstein(x, y, distance=distance)
    assert truth - 1e-9 <= found <= 1.03 * truth


def test_a_solver_that_ran_out_is_still_above() -> None:
    x, y = torch.randn(40, 3), torch.randn(40, 3) + 1
    truth = exact(x, y)
    crude = wasserstein(x, y, epsilon=1e-4, max_iter=1)
    assert crude >= truth - 1e-9 and crude > wasserstein(x, y)


def test_unequal_numbers_against_quantiles() -> None:
    x, y = torch.randn(37, 1), torch.randn(53, 1) * 2
    truth = wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy())
    assert truth - 1e-9 <= wasserstein(x, y) <= 1.05 * truth + 0.01


@pytest.mark.parametrize(("n", "m", "most"), [(100, 40, 16), (7, 100, 9), (64, 64, 10)])
def test_blocks_are_a_feasible_plan(n: int, m: int, most: int, monkeypatch) -> None:
    """Every point gives away its mass exactly, no block is larger than asked, the value above."""
    blocks = math.ceil(max(n, m) / most)
    for size in (n, m):
        mass = torch.zeros(size, dtype=torch.float64)
        for rows, weight in _parts(size, blocks, torch.Generator().manual_seed(0)):
            assert float(weight.sum()) == pytest.approx(1) and bool((weight > 0).all())
            mass[rows] += weight / blocks
        torch.testing.assert_close(mass, torch.full_like(mass, 1 / size))
    shapes = []
    real = certificate_transport.transport_plan_cost
    monkeypatch.setattr(
        certificate_transport,
        "transport_plan_cost",
        lambda cost, **options: shapes.append(cost.shape) or real(cost, **options),
    )
    x, y = torch.randn(n, 2), torch.randn(m, 2) + 1
    found = wasserstein(x, y, max_points=most)
    assert len(shapes) == blocks and max(max(shape) for shape in shapes) <= most + 1
    assert found >= wasserstein(x, y, epsilon=0.001) - 0.01
    assert found == wasserstein(x, y, max_points=most)  # seeded


def test_large_clouds_need_no_large_plan(monkeypatch) -> None:
    largest = []
    real = torch.cdist

    def watched(a: Tensor, b: Tensor, **options) -> Tensor:
        largest.append(len(a) * len(b))
        return real(a, b, **options)

    monkeypatch.setattr(torch, "cdist", watched)
    x, y = torch.randn(10_000, 2), torch.randn(12_000, 2) + 0.5
    assert 0.5 < wasserstein(x, y, max_points=500, max_iter=50) < 1
    assert max(largest) <= 501 * 501
    # Of so many points the diameter is bounded by the radius.
    far = math.dist([0, 0], [6, 0])
    x[0], y[0] = torch.tensor([-3.0, 0]), torch.tensor([3.0, 0])
    assert far <= diameter(x, y) <= 2.5 * far
    assert max(largest) <= 501 * 501


def test_diameter_by_hand() -> None:
    assert diameter(torch.tensor([[0.0, 0], [1, 1]]), torch.tensor([[3.0, 4]])) == 5


def test_deviations_by_hand() -> None:
    # log(1/.05) = 2.995732; D √(.5 · 2.995732 · (1/100 + 1/400)) = 2 · √.018723
    assert wasserstein_deviation(2, 100, 400, 0.05) == pytest.approx(2 * math.sqrt(0.0187233), 1e-5)
    # 2(.1 + .05) + √(2 log(40) · 500/40000), log 40 = 3.688879
    expected = 0.3 + math.sqrt(2 * 3.688879 * 0.0125)
    assert mmd_deviation(100, 400, 0.05) == pytest.approx(expected, rel=1e-6)
    # τD = 1, M = 2: (3 + 1/e)²/100 and (1 + min(log 3, 1))²/400
    root = math.sqrt(0.5 * math.log(10) * ((3 + math.exp(-1)) ** 2 / 100 + 4 / 400))
    found = plug_in_deviation(
        lipschitz=0.5, diameter=2, loss_bound=2, num_classes=3, n=100, m=400, delta=0.1
    )
    assert found == pytest.approx(root, rel=1e-12)
    # Classes of 6 and 4 of 10 against 5 and 8; L D = 2 and 4.
    squares = 6 * 0.2**2 + 4 * 0.4**2 + 5 * (2 * 0.6 * 2 / 5) ** 2 + 8 * (2 * 0.4 * 4 / 8) ** 2
    lipschitz = torch.tensor([1.0, 2.0, 9.0], dtype=torch.float64)
    counts = torch.tensor([6, 4, 0]), torch.tensor([5, 8, 3])
    found = class_deviation(lipschitz, *counts, 2.0, 0.1)
    assert found == pytest.approx(math.sqrt(0.5 * math.log(10) * squares), rel=1e-12)
    assert class_deviation(lipschitz, *counts[::-1], 2.0, 0.1) == math.inf


def test_one_sample_moves_the_distance_by_at_most_its_share() -> None:
    """What McDiarmid's inequality needs: D/n, here nearly attained."""
    x, y = torch.rand(10, 1), torch.rand(30, 1)
    before = wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy())
    for place in (0.0, 1.0):
        x[3] = place
        after = wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy())
        assert abs(after - before) <= 1 / 10 + 1e-9
        before = after


def test_coverage_of_the_population_distance() -> None:
    """Uniform on [0, 1] against [s, 1 + s], W1 = s: short of it by more than the term, never."""
    rng = np.random.default_rng(0)
    short = 0
    for _ in range(300):
        x, y = rng.uniform(size=20), 0.3 + rng.uniform(size=30)
        short += wasserstein_distance(x, y) + wasserstein_deviation(1.3, 20, 30, 0.2) < 0.3
    assert short <= 0.2 * 300


def test_kernel_form_bounds_the_difference_of_means() -> None:
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(30, 2, generator=generator)
        y = torch.randn(50, 2, generator=generator) * (0.2 + seed / 3) + seed / 4
        values = [torch.sin((3 * z).sum(1)) + z[:, 0] ** 2 for z in (x, y)]
        form = kernel_form(x, y, *values)
        assert float(values[0].mean() - values[1].mean()) <= form.value
        assert float(values[1].mean() - values[0].mean()) <= form.value
    same = kernel_form(x, x, values[0], values[0])
    assert same.mmd < 1e-6
    point = torch.zeros(3, 2)
    assert kernel_form(point, point, torch.ones(3), torch.ones(3)).value < 1e-3
