"""Estimators of mutual information against literal transcriptions, closed forms and hand counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import digamma

from ucmkd.information import Estimator, information_difference, mutual_information
from ucmkd.information.copula import fit_gaussian, fit_student, student_term
from ucmkd.information.discrete import discrete
from ucmkd.information.gaussian import (
    _digamma,
    canonical_correlations,
    gaussian,
    gaussian_bias,
    gaussian_information,
    shrinkage_intensity,
)
from ucmkd.information.intervals import Spread, neighbour_rate, subsample_interval, widened
from ucmkd.information.ksg import ksg1, ksg2, ksg_limit
from ucmkd.information.mixed import gao, ross
from ucmkd.information.neighbours import count_within, kth_distance
from ucmkd.information.reduction import fit_pca, normal_scores
from ucmkd.information.tasks import TASKS
from ucmkd.information.variables import Variable, one_hot


def pairs(n: int, d: int, seed: int = 0, rho: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d))
    return x, rho * x + math.sqrt(1 - rho**2) * rng.standard_normal((n, d))


def test_gaussian_information_by_hand() -> None:
    # ρ = .5 → .1438, .75 → .4133, .9 → .8304; independent coordinates add up
    for rho, nats in ((0.5, 0.1438), (0.75, 0.4133), (0.9, 0.8304)):
        assert gaussian_information(np.array([rho])) == pytest.approx(nats, abs=5e-5)
    assert gaussian_information(np.array([0.5, 0.9])) == pytest.approx(0.1438 + 0.8304, abs=1e-4)
    assert gaussian_information(np.array([1.0])) == math.inf


def test_canonical_correlations_are_those_of_the_covariance() -> None:
    x, y = pairs(200, 3)
    y = y[:, :2] @ np.array([[1.0, 2.0], [-1.0, 0.5]]) + 7.0
    z = np.cov(np.concatenate([x, y], axis=1).T)
    a, b, c = z[:3, :3], z[3:, 3:], z[:3, 3:]
    square = np.linalg.eigvals(np.linalg.solve(a, c) @ np.linalg.solve(b, c.T)).real
    expected = np.sqrt(np.sort(square)[::-1][:2])
    assert canonical_correlations(x, y) == pytest.approx(expected, abs=1e-9)


def test_digamma_against_scipy() -> None:
    for value in (0.5, 1.0, 1.5, 7.9, 8.0, 40.0, 1e4):
        assert _digamma(value) == pytest.approx(float(digamma(value)), abs=1e-12)


def test_gaussian_bias_is_the_mean_of_the_plug_in() -> None:
    # d = 3 + 2, n = 12: far from d_x d_y / 2n = .25. Independent pairs, so the truth is 0.
    rng = np.random.default_rng(0)
    found = [
        gaussian_information(
            canonical_correlations(rng.standard_normal((12, 3)), rng.standard_normal((12, 2)))
        )
        for _ in range(3000)
    ]
    error = np.std(found) / math.sqrt(len(found))
    assert gaussian_bias(3, 2, 12) == pytest.approx(np.mean(found), abs=3.5 * error)
    assert gaussian_bias(3, 2, 12) > 0.3
    assert gaussian_bias(2, 5, 100_000) == pytest.approx(10 / 200_000, rel=1e-3)


def test_gaussian_has_no_bias_under_dependence_either() -> None:
    found = [gaussian(*pairs(20, 2, seed)) for seed in range(1500)]
    truth = -math.log(0.36)  # twice -½ log(1 - .64)
    assert np.mean(found) == pytest.approx(truth, abs=3.5 * np.std(found) / math.sqrt(1500))


@pytest.mark.parametrize("name", ["multinormal-dense-25-25-0.5", "multinormal-sparse-25-25-2-2.0"])
def test_gaussian_in_fifty_dimensions(name: str) -> None:
    x, y = TASKS[name].sample(2000, seed=7)
    assert gaussian(x, y) == pytest.approx(TASKS[name].truth, abs=0.15)


def test_shrinkage_where_the_covariance_is_singular() -> None:
    x, y = pairs(40, 60)
    rng = np.random.default_rng(1)
    dependent, none = gaussian(x, y), gaussian(x, rng.standard_normal((40, 60)))
    assert math.isfinite(dependent) and dependent > 0.5
    assert abs(none) < 0.2 * dependent
    z = np.concatenate([x, y], axis=1)
    z = (z - z.mean(0)) / z.std(0)
    assert 0.0 < shrinkage_intensity(z) < 1.0


def test_subsets_are_shrunk_only_where_all_samples_are() -> None:
    # 160 samples in 50 dimensions: enough for all, too few in a half of them.
    x, y = TASKS["multinormal-sparse-25-25-2-2.0"].sample(160, seed=1)
    out = mutual_information(x, y, method="gaussian")
    assert out.covers(TASKS["multinormal-sparse-25-25-2-2.0"].truth)
    assert not any("shrunk" in note for note in out.warnings)


def test_classes_count_as_their_indicators() -> None:
    # 50 labels of 10 classes beside 10 dimensions: 19 columns, which unshrunk show 4 nats.
    rng = np.random.default_rng(0)
    x, label = rng.standard_normal((50, 10)), np.repeat(np.arange(10), 5)
    out = mutual_information(x, label, method="gaussian", margins="raw", subsamples=0)
    plain = gaussian(x, one_hot(label))
    assert out.value == pytest.approx(max(0.0, plain), abs=1e-12) and out.value < 0.5
    assert any("50 samples for 19 dimensions" in note for note in out.warnings)


def test_shrinkage_intensity_literally() -> None:
    z = np.random.default_rng(3).standard_normal((15, 3))
    z = (z - z.mean(0)) / z.std(0)
    n = len(z)
    top = bottom = 0.0
    for i in range(3):
        for j in range(3):
            if i != j:
                w = z[:, i] * z[:, j]
                top += n / (n - 1) ** 3 * ((w - w.mean()) ** 2).sum()
                bottom += w.mean() ** 2
    assert shrinkage_intensity(z) == pytest.approx(min(1.0, top / bottom), rel=1e-10)


def _literal_ksg1(x: np.ndarray, y: np.ndarray, k: int) -> float:
    n, total = len(x), 0.0
    for i in range(n):
        dx = [np.abs(x[i] - x[j]).max() for j in range(n)]
        dy = [np.abs(y[i] - y[j]).max() for j in range(n)]
        reach = sorted(max(dx[j], dy[j]) for j in range(n) if j != i)[k - 1]
        nx = sum(dx[j] < reach for j in range(n) if j != i)
        ny = sum(dy[j] < reach for j in range(n) if j != i)
        total += digamma(nx + 1) + digamma(ny + 1)
    return float(digamma(k) + digamma(n) - total / n)


def _literal_ksg2(x: np.ndarray, y: np.ndarray, k: int) -> float:
    n, total = len(x), 0.0
    for i in range(n):
        dx = np.array([np.abs(x[i] - x[j]).max() for j in range(n)])
        dy = np.array([np.abs(y[i] - y[j]).max() for j in range(n)])
        joint = np.maximum(dx, dy)
        joint[i] = np.inf
        near = np.argsort(joint)[:k]
        nx = int((dx <= dx[near].max()).sum()) - 1
        ny = int((dy <= dy[near].max()).sum()) - 1
        total += digamma(nx) + digamma(ny)
    return float(digamma(k) - 1 / k + digamma(n) - total / n)


@pytest.mark.parametrize("d", [1, 2, 6])
@pytest.mark.parametrize("k", [1, 4])
def test_ksg_literally(d: int, k: int) -> None:
    x, y = pairs(60, d)
    assert ksg1(x, y, k=k) == pytest.approx(_literal_ksg1(x, y, k), abs=1e-12)
    assert ksg2(x, y, k=k) == pytest.approx(_literal_ksg2(x, y, k), abs=1e-12)


def test_ksg_on_a_function_is_its_limit() -> None:
    x = np.random.default_rng(0).standard_normal((300, 1))
    assert ksg1(x, x, k=3) == pytest.approx(ksg_limit(300, 3), abs=1e-12)


def test_ross_literally() -> None:
    rng = np.random.default_rng(5)
    x, label, k = rng.standard_normal((50, 2)), rng.integers(3, size=50), 3
    x[:, 0] += label
    total = 0.0
    for i in range(50):
        d = np.abs(x - x[i]).max(axis=1)
        same = np.sort(d[(label == label[i]) & (np.arange(50) != i)])
        m = int((d <= same[k - 1]).sum()) - 1
        total += digamma(int((label == label[i]).sum())) + digamma(m)
    expected = digamma(50) + digamma(k) - total / 50
    assert ross(x, label, k=k) == pytest.approx(expected, abs=1e-12)


def test_gao_is_ksg_without_atoms_and_the_plug_in_with_nothing_else() -> None:
    x, y = pairs(200, 2)
    assert gao(x, y, k=3) == pytest.approx(ksg1(x, y, k=3), abs=1e-12)
    a = np.repeat([0.0, 0.0, 1.0, 1.0], [400, 100, 100, 400])
    b = np.repeat([0.0, 1.0, 0.0, 1.0], [400, 100, 100, 400])
    # 2 x 2: cells .4 and .1, margins ½
    truth = 2 * (0.4 * math.log(1.6) + 0.1 * math.log(0.4))
    assert gao(a[:, None], b[:, None], k=3) == pytest.approx(truth, abs=0.01)


def test_gao_with_an_atom_in_a_density() -> None:
    # Points near the atom reach it with their border, which must count all of it.
    task = TASKS["1v1-erased-0.6-0.8"]
    found = [gao(*task.sample(1000, seed=seed)) for seed in range(12)]
    error = np.std(found) / math.sqrt(12)
    assert np.mean(found) == pytest.approx(task.truth, abs=3.5 * error)
    assert error < 0.01


def test_discrete_by_hand() -> None:
    a = np.repeat([0, 0, 1, 1], [30, 10, 10, 30])
    b = np.repeat([0, 1, 0, 1], [30, 10, 10, 30])
    # cells 3/8 and 1/8, margins ½: ¾ log 1.5 + ¼ log ½
    plain = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert discrete(a, b, correction=False) == pytest.approx(plain, abs=1e-12)
    # Miller and Madow: (2 + 2 - 4 - 1) / 160
    assert discrete(a, b) == pytest.approx(plain - 1 / 160, abs=1e-12)


@pytest.mark.parametrize("d", [1, 3, 7, 8, 12])
def test_neighbours_by_all_pairs(d: int) -> None:
    points = np.random.default_rng(d).integers(4, size=(80, d)).astype(float)  # many ties
    table = np.abs(points[:, None] - points[None]).max(axis=2)
    reach, near = kth_distance(points, 3)
    assert reach == pytest.approx(np.sort(table + np.diag([np.inf] * 80), axis=1)[:, 2])
    assert not (near == np.arange(80)[:, None]).any()
    for strict in (True, False):
        inside = table < reach[:, None] if strict else table <= reach[:, None]
        np.fill_diagonal(inside, False)
        assert (count_within(points, reach, strict=strict) == inside.sum(axis=1)).all()


def test_normal_scores_undo_increasing_maps() -> None:
    x, y = pairs(300, 2)
    plain = mutual_information(x, y, method="ksg", margins="normal", subsamples=0)
    bent = mutual_information(np.exp(x), y**3, method="ksg", margins="normal", subsamples=0)
    assert bent.value == plain.value > 0.5
    scores = normal_scores(x)
    assert scores.mean(axis=0) == pytest.approx([0.0, 0.0], abs=1e-12)


def test_pca_whitens_and_reports_its_share() -> None:
    x = np.random.default_rng(0).standard_normal((500, 3)) * np.array([3.0, 2.0, 0.0])
    reduction = fit_pca(x, 5)
    z = reduction(Variable(x, False)).values
    assert z.shape == (500, 2) and reduction.explained == pytest.approx(1.0)
    assert np.cov(z.T, bias=True) == pytest.approx(np.eye(2), abs=1e-9)
    assert fit_pca(x, 1).explained == pytest.approx(9 / 13, abs=0.05)


def test_student_copula_recovers_scatter_and_tails() -> None:
    task = TASKS["student-sparse-2-2-3"]
    x, y = task.sample(2000, seed=6)
    found = fit_student(x, y)
    assert found.dof == pytest.approx(3.0, rel=0.25)
    assert found.correlation[0, 2] == pytest.approx(0.8, abs=0.03)
    assert found.information == pytest.approx(task.truth, abs=0.06)
    assert found.log_likelihood > fit_gaussian(x, y).log_likelihood
    a, b = found.sample(2000, np.random.default_rng(0))
    assert fit_student(a, b).information == pytest.approx(found.information, abs=0.1)
    assert student_term(1e6, 2, 2) == pytest.approx(0.0, abs=1e-5)


def test_subsamples_give_the_error_of_a_mean() -> None:
    # For a mean, half of the rows: variance (1/m - 1/n) s² = s²/n, so the factor is 1.
    values = np.random.default_rng(0).standard_normal(400)
    spread = subsample_interval(
        lambda rows: float(values[rows].mean()), float(values.mean()), 400,
        subsamples=2000, confidence=0.95, seed=1,
    )  # fmt: skip
    assert spread.error == pytest.approx(values.std(ddof=1) / 20.0, rel=0.06)
    assert spread.high - values.mean() == pytest.approx(1.96 * spread.error, rel=0.02)
    assert abs(spread.drift) < 0.5 * spread.error


def test_bias_lengthens_one_side_only() -> None:
    # An estimate 5 - 3/√m without noise: at n = 400 it lacks .15, and half of the rows show it.
    def estimate(rows: np.ndarray) -> float:
        return 5.0 - 3.0 / math.sqrt(len(rows))

    spread = subsample_interval(estimate, 4.85, 400, subsamples=5, confidence=0.9, seed=0)
    assert spread.drift == pytest.approx(0.15, rel=1e-9)
    assert (spread.low, spread.high) == pytest.approx((4.85, 5.0))
    assert (neighbour_rate(2), neighbour_rate(4), neighbour_rate(50)) == (0.5, 0.25, 0.1)


def test_doubt_about_a_model_lengthens_one_side() -> None:
    spread = Spread(0.9, 1.1, 0.05, 0.0)
    assert widened(spread, 1.0, 0.04)[:2] == pytest.approx((0.9, 1.12))
    assert widened(spread, 1.0, -0.4)[:2] == pytest.approx((0.6, 1.1))


def test_discrete_sides_are_told_by_their_type() -> None:
    x, label = TASKS["labels-2-4"].sample(600, seed=1)
    out = mutual_information(torch.from_numpy(x), torch.from_numpy(label))
    assert out.method == "ross" and out.covers(TASKS["labels-2-4"].truth)
    swapped = mutual_information(torch.from_numpy(label), torch.from_numpy(x))
    assert swapped.value == out.value
    assert mutual_information(label, label > 1).method == "discrete"


def test_classifier_stays_below_the_entropy() -> None:
    x, label = TASKS["labels-2-4"].sample(600, seed=1)
    out = mutual_information(x, label, method="classifier")
    assert out.value == pytest.approx(TASKS["labels-2-4"].truth, abs=0.12)
    noise = np.random.default_rng(0).standard_normal((600, 20))
    assert mutual_information(noise, label, method="classifier").value < 0.02


def test_difference_uses_one_estimator_for_both() -> None:
    x, label = TASKS["labels-2-4"].sample(500, seed=1)
    rng = np.random.default_rng(0)
    near, far = (np.tile(x, 4) + s * rng.standard_normal((500, 8)) for s in (0.3, 30.0))
    estimator = Estimator("knn", reduce=2, subsamples=10)
    helps = information_difference((near, x), (x, label), estimator)
    harms = information_difference((far, x), (x, label), estimator)
    assert helps.low > 0.0 > harms.high
    assert (helps.first.method, helps.second.method) == ("ksg", "ross")
    assert helps.second.value == harms.second.value
    assert helps.value == pytest.approx(helps.first.value - helps.second.value, abs=1e-12)
    same = information_difference((x, near), (x, near), estimator)
    assert same.low == same.value == same.high == 0.0


def test_seeds_repeat() -> None:
    x, y = pairs(200, 2)
    one, two = (mutual_information(x, y, seed=4) for _ in range(2))
    assert (one.value, one.low, one.high) == (two.value, two.low, two.high)
