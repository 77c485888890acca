"""KSG carried on to no neighbours, and nonlinear canonical functions, against other ways."""

from __future__ import annotations

import math

import numpy as np
import pytest
from benches.information_fresh import bounded, normal, shear, twist
from scipy.special import digamma

from ucmkd.information import mutual_information
from ucmkd.information.canonical import _leading, _Moments, _Space
from ucmkd.information.canonical_estimate import _between, canonical
from ucmkd.information.canonical_kernels import Kernel, coordinates, features
from ucmkd.information.extrapolation import ksg_line
from ucmkd.information.gaussian import canonical_correlations
from ucmkd.information.ksg import ksg1
from ucmkd.information.neighbours import kth_distance, kth_distances
from ucmkd.information.tasks import TASKS
from ucmkd.information.tasks_families import draw_normal, sparse_covariance

pytestmark = pytest.mark.usefixtures("one_thread")


def _literal_value(x: np.ndarray, y: np.ndarray, k: int) -> float:
    n, total = len(x), 0.0
    for i in range(n):
        dx, dy = np.abs(x - x[i]).max(axis=1), np.abs(y - y[i]).max(axis=1)
        reach = np.sort(np.delete(np.maximum(dx, dy), i))[k - 1]
        total += digamma((dx < reach).sum()) + digamma((dy < reach).sum())
    return float(digamma(k) + digamma(n) - total / n)


@pytest.mark.parametrize("width", [1, 2])
def test_line_literally(width: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, width))
    y = x + rng.standard_normal((40, width))
    t = np.array([k ** (1 / (2 * width)) for k in range(2, 17, 2)])
    values = np.array([_literal_value(x, y, k) for k in range(2, 17, 2)])
    slope = ((t - t.mean()) * (values - values.mean())).sum() / ((t - t.mean()) ** 2).sum()
    assert ksg_line(x, y, k=2) == pytest.approx(values.mean() - slope * t.mean(), abs=1e-10)


def test_line_without_enough_samples_is_ksg() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((7, 1)), rng.standard_normal((7, 1))
    assert ksg_line(x, y, k=4) == pytest.approx(ksg1(x, y, k=4), abs=1e-12)


@pytest.mark.parametrize("width", [2, 9])
def test_several_neighbours_at_once(width: int) -> None:
    points = np.random.default_rng(0).standard_normal((50, width))
    found = kth_distances(points, np.array([1, 4]))
    assert found[:, 0] == pytest.approx(kth_distance(points, 1)[0])
    assert found[:, 1] == pytest.approx(kth_distance(points, 4)[0])


def test_line_takes_the_bias_of_sharp_edges_away() -> None:
    task = bounded(0.15, 1)
    pairs = [task.sample(1000, seed=seed) for seed in range(12)]
    plain = np.array([ksg1(x, y, k=3) for x, y in pairs]) - task.truth
    line = np.array([ksg_line(x, y, k=3) for x, y in pairs]) - task.truth
    assert plain.mean() < -4.0 * plain.std() / math.sqrt(12)
    assert abs(line.mean()) < 3.0 * line.std() / math.sqrt(12)
    assert np.square(line).mean() < np.square(plain).mean()


def test_kernels_by_hand() -> None:
    a, b = np.array([[3.0, 4.0]]), np.array([[0.0, 2.0]])
    # ‖a - b‖² = 13, d = 2, s = ½: 13 / (2 · ¼ · 2)
    assert Kernel("gaussian", 0.5)(a, b)[0, 0] == pytest.approx(math.exp(-13.0))
    # a·b = 8, norms 5 and 2: (1 + 8)/3 · exp(-9/2)
    assert Kernel("turning", 1.0)(a, b)[0, 0] == pytest.approx(3.0 * math.exp(-4.5))


@pytest.mark.parametrize("kernel", [Kernel("gaussian", 1.0), Kernel("turning", 0.5)])
def test_features_have_the_kernel_as_product(kernel: Kernel) -> None:
    rows = np.random.default_rng(0).standard_normal((90, 2))
    found = features(kernel, rows, seed=1)
    assert found @ found.T == pytest.approx(kernel(rows, rows), abs=1e-5)


def test_coordinates_are_white() -> None:
    rows = np.random.default_rng(0).standard_normal((200, 3)) @ np.diag([1.0, 5.0, 0.2])
    rows = np.concatenate([rows, rows[:, :1]], axis=1)  # one column says nothing new
    white = coordinates(rows)
    assert white.T @ white / 200 == pytest.approx(np.eye(3), abs=1e-10)


def test_functions_of_linear_features_are_the_canonical_ones() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 3))
    y = 0.7 * x[:, :2] + rng.standard_normal((500, 2))
    moments = _Moments.of(x, y, np.ones(500, dtype=bool))
    f, g = moments.functions(x, y, ridge=0.0, count=2)
    found = [abs(np.corrcoef(f[:, i], g[:, i])[0, 1]) for i in range(2)]
    # Normal scores of nearly normal values change little.
    assert found == pytest.approx(canonical_correlations(x, y), abs=0.02)


@pytest.mark.parametrize("shape", [(4, 7), (7, 4)])
def test_leading_vectors(shape: tuple[int, int]) -> None:
    table = np.random.default_rng(0).standard_normal(shape)
    left, right = _leading(table, 2)
    size = np.linalg.svd(table, compute_uv=False)[:2]
    assert left.T @ table @ right == pytest.approx(np.diag(size), abs=1e-10)
    assert left.T @ left == pytest.approx(np.eye(2), abs=1e-10)


def test_held_out_samples_do_not_teach() -> None:
    rng = np.random.default_rng(0)
    x, y = draw_normal(sparse_covariance(2, 2, 1, 2.0), 2, 300, rng)
    parts = np.array_split(rng.permutation(300), 3)
    shuffled = y.copy()
    shuffled[parts[0]] = y[np.roll(parts[0], 1)]
    spaces = [_Space(x, other, parts) for other in (y, shuffled)]
    first, second = (space.held_out(1e-3, 1)[0][0] for space in spaces)
    assert np.array_equal(first, second)
    assert not np.allclose(spaces[0].own(1e-3, 1)[0], spaces[1].own(1e-3, 1)[0])
    assert not np.allclose(*(space.held_out(1e-3, 1)[1][0] for space in spaces))


def test_between_by_hand() -> None:
    # s = .8: .9 + .1/1.8 · .9
    assert _between(0.9, 1.0) == pytest.approx(0.95)
    assert _between(0.0, 0.2) == 0.0 and _between(0.4, 0.3) == 0.4


def test_independent_sides_have_no_information() -> None:
    x, y = np.random.default_rng(0).standard_normal((2, 800, 2))
    found = canonical(x, y, k=3, seed=0)
    assert found.own > 0.0 and abs(found.held_out) < 0.04 and abs(found.value) < 0.04


def test_no_information_from_the_parts() -> None:
    # Unstable third functions: put together, the parts would show .95 nats.
    task = TASKS["student-identity-3-3-2"]
    found = canonical(*task.sample(600, seed=113), k=3, seed=0)
    assert found.held_out == pytest.approx(task.truth, abs=0.15)


@pytest.mark.parametrize(
    "task",
    [
        normal("twist", 3, 2.0, twist(0.3, 1, 2), twist(0.25, 0, 2)),
        normal("shear", 3, 1.5, shear, shear),
    ],
    ids=lambda task: task.name,
)
def test_canonical_where_neighbours_fall_short(task) -> None:  # type: ignore[no-untyped-def]
    x, y = task.sample(1000, seed=5)
    out = mutual_information(x, y, subsamples=10, seed=2)
    assert out.method == "canonical" and "functions of either side" in out.reason
    assert out.covers(task.truth)
    neighbours = mutual_information(x, y, method="ksg", margins="normal", subsamples=0).value
    assert neighbours < out.value and abs(out.value - task.truth) < task.truth - neighbours


def test_canonical_when_asked() -> None:
    x, y = TASKS["multinormal-sparse-2-2-2-2.0"].sample(600, seed=1)
    out = mutual_information(x, y, method="canonical", subsamples=8)
    assert out.reason == "as asked" and out.low < out.value <= out.high
    assert out.value == pytest.approx(TASKS["multinormal-sparse-2-2-2-2.0"].truth, abs=0.12)
    again = mutual_information(x, y, method="canonical", subsamples=0)
    assert again.value == out.value and math.isnan(again.low)


def test_canonical_needs_samples_and_two_continuous_sides() -> None:
    x = np.random.default_rng(0).standard_normal((150, 2))
    with pytest.raises(ValueError, match="at least 400 samples for an interval"):
        mutual_information(x.repeat(2, axis=0), x.repeat(2, axis=0), method="canonical")
    with pytest.raises(ValueError, match="at least 200 samples for 'canonical'"):
        mutual_information(x, x, method="canonical", subsamples=0)
    with pytest.raises(ValueError, match="needs two continuous sides"):
        mutual_information(x, (x[:, 0] > 0).astype(int), method="canonical")
