"""The exact risk of the Gaussian model: known values, closed forms, simulation."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest

from ucmkd.theory.gaussian import GaussianModel, simulate_risk, weight_from_penalty

W = np.full(10, math.sqrt(0.05))  # ‖w*‖² = .5
HELPFUL: dict[str, Any] = {"noise": 0.5, "teacher_noise": 0.1, "noise_covariance": 0.05}
HARMFUL: dict[str, Any] = {"noise": 0.5, "teacher_noise": 0.9, "noise_covariance": 0.6}


def test_published_values_of_a_helpful_teacher() -> None:
    model = GaussianModel.from_weights(W, 0.9 * W, **HELPFUL, samples=40)
    assert model.excess_risk() == pytest.approx(0.1724, abs=5e-5)
    assert model.excess_risk(0.5) == pytest.approx(0.0616, abs=5e-5)
    assert model.best_weight() == pytest.approx(0.875, abs=5e-4)
    assert model.cch().label_information == pytest.approx(0.347, abs=5e-4)
    assert model.cch().teacher_information == pytest.approx(0.810, abs=5e-4)
    assert model.cch().says_helps and model.cch().premise and model.helps()


def test_published_values_of_a_harmful_teacher() -> None:
    model = GaussianModel.from_weights(W, 0.3 * W, **HARMFUL, samples=40)
    assert model.excess_risk(0.5) == pytest.approx(0.2854, abs=5e-5)
    assert model.cch().teacher_information == pytest.approx(0.024, abs=5e-4)
    assert not model.cch().says_helps and not model.helps() and not model.helps(0.5)
    assert model.best_weight() == 0.0 and model.best_gain() == 0.0


def test_by_hand() -> None:
    # d = 2, n = 7: K = 1/2. w = (1, 0), v = (0, 2): B = 5. R(1/2) = 5/4 + (4/4 + 2/4 + 3/4)/2.
    model = GaussianModel.from_weights(
        [1, 0], [0, 2], noise=4, teacher_noise=3, noise_covariance=1, samples=7
    )
    assert model.noise_factor == 0.5 and model.mismatch == 5.0
    assert model.excess_risk(0.5) == pytest.approx(1.25 + 0.5 * (1 + 0.5 + 0.75))
    # α* = (3/2) / (5 + (4 - 2 + 3)/2) = .2, gain (9/4) / 7.5 = .3
    assert model.best_weight() == pytest.approx(0.2)
    assert model.best_gain() == pytest.approx(0.3)
    assert model.helps(0.39) and not model.helps(0.41)


def test_covariance_enters_through_its_norm() -> None:
    sigma = np.array([[2.0, 1.0], [1.0, 3.0]])
    model = GaussianModel.from_weights([1, 0], [0, 1], covariance=sigma, **HELPFUL, samples=9)
    # (v - w)ᵀΣ(v - w) with v - w = (-1, 1): 2 - 2 + 3
    assert (model.mismatch, model.signal, model.teacher_signal) == pytest.approx((3.0, 2.0, 3.0))


def test_several_outputs_are_summed() -> None:
    w, v = np.array([[1.0, 0.0], [0.5, 1.0]]), np.array([[0.0, 0.0], [0.5, 2.0]])
    parts = [
        GaussianModel.from_weights(
            w[:, j], v[:, j], noise=1 + j, teacher_noise=2 - j, noise_covariance=0.3 * j, samples=9
        )
        for j in range(2)
    ]
    whole = GaussianModel.from_weights(
        w, v, noise=3.0, teacher_noise=3.0, noise_covariance=0.3, samples=9
    )
    assert whole.excess_risk(0.3) == pytest.approx(sum(part.excess_risk(0.3) for part in parts))


@pytest.mark.parametrize(
    ("pairs", "paired"), [(0, True), (30, True), (30, False)], ids=["labelled", "more", "apart"]
)
def test_agrees_with_simulation(pairs: int, paired: bool) -> None:
    """Within 3 standard errors over teachers, dimensions, sample counts and weights."""
    alpha = np.array([0.0, 0.1, 0.4, 0.8, 1.0])
    root = np.random.default_rng(5).standard_normal((6, 6))
    scores = []
    for d, samples, (share, numbers) in itertools.product(
        (1, 3, 6), (14, 25), ((0.9, HELPFUL), (0.3, HARMFUL), (-0.5, HELPFUL))
    ):
        sigma = root[:d] @ root[:d].T
        w = np.linspace(0.2, 0.6, d)
        v = share * w + np.linspace(0.1, -0.2, d)
        shape: dict[str, Any] = {"unlabelled_pairs": pairs, "labelled_paired": paired}
        model = GaussianModel.from_weights(
            w, v, covariance=sigma, **numbers, samples=samples, **shape
        )
        exact = np.array([model.excess_risk(float(a)) for a in alpha])
        drawn = simulate_risk(
            w, v, covariance=sigma, **numbers, samples=samples, alpha=alpha, repetitions=5000,
            seed=len(scores) + 1, **shape,
        )  # fmt: skip
        scores.append((drawn.mean - exact) / drawn.standard_error)
    z = np.concatenate(scores)
    assert np.abs(z).max() < 3.0
    # Not because the standard errors were too large to see anything.
    assert 0.5 < z.std() < 1.6


def test_simulation_would_notice_a_wrong_formula() -> None:
    model = GaussianModel.from_weights(W, 0.3 * W, **HARMFUL, samples=40)
    drawn = simulate_risk(W, 0.3 * W, **HARMFUL, samples=40, alpha=0.5, repetitions=4000)
    without_covariance = dataclasses.replace(model, noise_covariance=0.0).excess_risk(0.5)
    assert abs(drawn.mean[0] - model.excess_risk(0.5)) < 3 * drawn.standard_error[0]
    assert abs(drawn.mean[0] - without_covariance) > 10 * drawn.standard_error[0]


def test_best_weight_minimises_the_risk() -> None:
    grid = np.linspace(0, 1, 2001)
    for pairs, paired in ((0, True), (50, True), (50, False)):
        model = GaussianModel.from_weights(
            W, 0.7 * W, noise=0.5, teacher_noise=0.4, noise_covariance=0.2, samples=30,
            unlabelled_pairs=pairs, labelled_paired=paired,
        )  # fmt: skip
        risks = [model.excess_risk(float(a)) for a in grid[::20]]
        assert model.excess_risk(model.best_weight()) <= min(risks) + 1e-9
        assert model.best_gain() == pytest.approx(model.excess_risk() - min(risks), rel=1e-3)


def test_best_gain_has_its_closed_form() -> None:
    k, c, s, t, b = 10 / 29, 0.2, 0.5, 0.4, 0.49 * 0.5
    model = GaussianModel.from_weights(
        W, 0.3 * W, noise=s, teacher_noise=t, noise_covariance=c, samples=40
    )
    assert model.best_gain() == pytest.approx(k**2 * (s - c) ** 2 / (b + k * (s - 2 * c + t)))


def test_a_teacher_that_is_the_label_changes_nothing() -> None:
    model = GaussianModel.from_weights(
        W, W, noise=0.5, teacher_noise=0.5, noise_covariance=0.5, samples=40
    )
    assert model.gain(0.7) == pytest.approx(0.0, abs=1e-12)
    assert model.best_weight() == 0.0 and not model.helps()


def test_weights_above_one_are_clipped() -> None:
    # A noiseless teacher of the truth whose error is opposed to nothing: all weight to it.
    model = GaussianModel.from_weights(
        W, W, noise=0.5, teacher_noise=0.1, noise_covariance=0.15, samples=40
    )
    assert model.best_weight() == 1.0
    assert model.best_gain() == pytest.approx(10 / 29 * 0.4)


def test_scalar_case_is_the_correlations_rule() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for r1, r2, r12 in rng.uniform(-0.99, 0.99, (400, 3)):
        if 1 - r1**2 - r2**2 - r12**2 + 2 * r1 * r2 * r12 < 1e-6:
            continue
        model = GaussianModel.from_correlations(r1, r2, r12, samples=10)
        helps = 1 - r1**2 - r2**2 + r1 * r2 * r12 > 0
        assert model.helps() == helps
        assert model.cch().says_helps == (abs(r12) > abs(r2))
        seen.add((helps, model.cch().says_helps))
    # Right both ways and conservative; never a false yes.
    assert seen == {(True, True), (True, False), (False, False)}


def test_scalar_case_from_three_variables() -> None:
    """The correlations' model is the one of t = ρ₁x₁ regressed on x₂, by least squares on draws."""
    r1, r2, r12, scale = 0.8, 0.5, 0.6, 1.3
    root = np.linalg.cholesky([[1, r12, r1], [r12, 1, r2], [r1, r2, 1]])
    x1, x2, y = root @ np.random.default_rng(0).standard_normal((3, 400_000))
    t = scale * r1 * x1
    w, v = (x2 @ y) / (x2 @ x2), (x2 @ t) / (x2 @ x2)
    drawn = np.cov(y - w * x2, t - v * x2)
    model = GaussianModel.from_correlations(r1, r2, r12, samples=10, scale=scale)
    expected = (model.noise, model.teacher_noise, model.noise_covariance, model.mismatch)
    found = (drawn[0, 0], drawn[1, 1], drawn[0, 1], (w - v) ** 2)
    assert found == pytest.approx(expected, abs=5e-3)


def test_criterion_with_its_premise_never_errs() -> None:
    rng = np.random.default_rng(1)
    said = 0
    for _ in range(6000):
        w, v = rng.standard_normal((2, 3)) * rng.uniform(0.1, 1.5, (2, 1))
        noise, teacher_noise = rng.uniform(0.05, 2.0, 2)
        c = rng.uniform(-1, 1) * math.sqrt(noise * teacher_noise)
        model = GaussianModel.from_weights(
            w, v, noise=noise, teacher_noise=teacher_noise, noise_covariance=c, samples=20
        )
        if model.cch().says_helps and model.cch().premise:
            said += 1
            assert model.helps() and model.gain(1e-6) > 0.0
    assert said > 100


def test_without_its_premise_the_criterion_can_err() -> None:
    model = GaussianModel.from_correlations(0.95, 0.3, 0.5, samples=10, scale=2.0)
    assert model.cch().says_helps and not model.cch().premise and not model.helps()


def test_threshold_with_unlabelled_pairs_is_where_the_slope_changes_sign() -> None:
    """c < σ²(1 + m(n-1)/((n-d)(n-d-3))) against the risk at a small weight."""
    n, m, d = 40, 25, 10
    factor = 1 + m * (n - 1) / ((n - d) * (n - d - 3))
    for share, helps in ((0.98, True), (1.02, False)):
        model = GaussianModel.from_weights(
            W, W, noise=0.5, teacher_noise=4.0, noise_covariance=share * 0.5 * factor, samples=n,
            unlabelled_pairs=m,
        )  # fmt: skip
        assert model.threshold == pytest.approx(0.5 * factor)
        assert model.helps() is helps and (model.gain(1e-4) > 0.0) is helps


def test_any_teacher_of_unlabelled_samples_helps_a_little_and_so_does_a_constant() -> None:
    model = GaussianModel.from_weights(
        W, -3 * W, **HARMFUL, samples=20, unlabelled_pairs=20, labelled_paired=False
    )
    assert math.isinf(model.threshold) and model.gain(1e-4) > 0.0 > model.gain(0.5)
    assert model.constant_teacher().best_gain() > model.best_gain()


def test_pairs_alone_are_a_regression_on_the_teacher() -> None:
    model = GaussianModel.from_weights(
        W, 0.9 * W, **HELPFUL, samples=8, unlabelled_pairs=31, labelled_paired=False
    )
    assert model.excess_risk(1.0) == pytest.approx(0.005 + 0.1 * 10 / 20)
    # Eight labels cannot determine ten weights.
    assert math.isinf(model.excess_risk()) and math.isinf(model.gain(0.5))


def test_weight_from_penalty() -> None:
    # 20 of mean weight 1/20 against 60 of 3/60: equal weights, half and half.
    assert weight_from_penalty(3.0, labelled=20, pairs=60) == 0.5
    assert weight_from_penalty(0.25, labelled=9, pairs=9) == pytest.approx(0.25 / 1.25)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 11}, "samples must exceed dimension"),
        ({"noise": 0.0}, "noise must be a positive number, got 0.0"),
        ({"teacher_noise": -1.0}, "teacher_noise must be a number, zero or more"),
        ({"noise": math.nan}, "noise must be a positive number, got nan"),
        ({"noise_covariance": 0.3}, "noise_covariance must lie within"),
        ({"labelled_paired": False}, "labelled_paired=False needs unlabelled_pairs"),
        ({"unlabelled_pairs": -1}, "unlabelled_pairs must be at least 0"),
        ({"teacher": W[:3]}, "teacher must have the shape of student"),
        ({"student": np.full(10, np.nan)}, "student must be finite"),
        ({"covariance": -np.eye(10)}, "covariance must be positive semi-definite"),
        ({"covariance": np.triu(np.ones((10, 10)))}, "covariance must be symmetric"),
    ],
)
def test_bad_numbers_are_named(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"student": W, "teacher": W, **HELPFUL, "samples": 40}
    with pytest.raises(ValueError, match=message):
        GaussianModel.from_weights(**(good | change))


def test_bad_weights_and_correlations_are_named() -> None:
    model = GaussianModel.from_weights(W, W, **HELPFUL, samples=40)
    with pytest.raises(ValueError, match=r"alpha must be a number in \[0, 1\], got 1.5"):
        model.excess_risk(1.5)
    with pytest.raises(TypeError, match="alpha must be"):
        model.excess_risk("half")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no three variables"):
        GaussianModel.from_correlations(0.9, 0.9, -0.9, samples=10)
    with pytest.raises(ValueError, match="student_label must lie inside"):
        GaussianModel.from_correlations(0.5, 1.0, 0.5, samples=10)
    with pytest.raises(ValueError, match="cch needs signal"):
        dataclasses.replace(model, signal=None).cch()
