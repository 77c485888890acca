"""The predicted gain: unbiased estimates, coverage, signs, real features, hard and bad input."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ucmkd.theory import predicted_gain
from ucmkd.theory.gaussian import GaussianModel, PredictedGain, estimate_quantities
from ucmkd.theory.gaussian.inputs import principal, tail_weight

Array = NDArray[np.float64]
W = np.full(5, 0.3)
CASES: dict[str, dict[str, Any]] = {
    "helpful": {"teacher": 0.9 * W, "noise": 0.5, "teacher_noise": 0.1, "noise_covariance": 0.05},
    "middling": {"teacher": 0.6 * W, "noise": 0.5, "teacher_noise": 0.6, "noise_covariance": 0.3},
    "harmful": {"teacher": 0.3 * W, "noise": 0.5, "teacher_noise": 0.9, "noise_covariance": 0.62},
}


def draw(count: int, seed: int, case: dict[str, Any]) -> tuple[Array, Array, Array]:
    """Features ``(count, 5)``, labels and teacher's answers ``(count,)``."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 5))
    slope = case["noise_covariance"] / case["noise"]
    label = math.sqrt(case["noise"]) * rng.standard_normal(count)
    rest = math.sqrt(case["teacher_noise"] - slope * case["noise_covariance"])
    answer = x @ case["teacher"] + slope * label + rest * rng.standard_normal(count)
    return x, x @ W + label, answer


def truth(case: dict[str, Any], **options: Any) -> GaussianModel:
    """The model of a student with 40 labels and an intercept, one more dimension."""
    model = GaussianModel.from_weights(
        W, **{name: value for name, value in case.items()}, samples=40, **options
    )
    return dataclasses.replace(model, dimension=6)


def test_estimates_are_unbiased() -> None:
    """The plug-in of B is too large by d(σ² - 2c + σ_t²)/N, here .37; the estimate is not."""
    case = CASES["harmful"]
    found = np.array([estimate_quantities(*_columns(draw(30, s, case))) for s in range(2000)])
    b, w, v = 0.49 * 0.45, 0.45, 0.09 * 0.45
    expected = np.array([0.5, 0.9, 0.62, b, w, v])
    error = found.std(axis=0) / math.sqrt(len(found))
    assert np.abs((found.mean(axis=0) - expected) / error).max() < 3.0
    assert error[3] < 0.005


def _columns(parts: tuple[Array, ...]) -> tuple[Array, Array, Array]:
    x, y, t = parts
    return x, y.reshape(len(x), -1), t.reshape(len(x), -1)


def test_estimates_by_hand() -> None:
    # x = ±1, y = x + ε with ε = (1, -1, 1, -1)/2 orthogonal to x and 1, t = 3 + η, η = ε.
    x = np.array([[1.0], [1.0], [-1.0], [-1.0]])
    e = np.array([[0.5], [-0.5], [0.5], [-0.5]])
    found = estimate_quantities(x, x + e, 3.0 + e)
    # residuals' sums of squares 1, freedom 2; D = 3 - x: no noise, F² = 4/3, mean 9 - 4/(4·3)
    assert (found.noise, found.teacher_noise, found.noise_covariance) == pytest.approx((0.5,) * 3)
    assert found.mismatch == pytest.approx(4 / 3 + 9 - 1 / 3)
    assert found.signal == pytest.approx((4 - 0.5) / 3)
    assert found.teacher_signal == pytest.approx(-0.5 / 3)


@pytest.mark.parametrize("name", CASES)
def test_intervals_cover_the_truth(name: str) -> None:
    """The nominal 95 % within what 60 data sets can tell, for gain, margin and own part."""
    model = truth(CASES[name])
    margin = 1 - model.noise_covariance / model.noise
    at_half = model.gain(0.5)
    constant = model.constant_teacher()
    own = model.best_gain() - constant.best_gain()
    hits = np.zeros(4)
    for seed in range(60):
        x, y, t = draw(250, seed, CASES[name])
        best = predicted_gain(x, y, t, n_labelled=40, dims=5, subsamples=60)
        half = predicted_gain(x, y, t, n_labelled=40, dims=5, subsamples=60, weight=0.5)
        hits += [
            best.low <= model.best_gain() <= best.high,
            best.margin.low <= margin <= best.margin.high,
            best.over_constant.low <= own <= best.over_constant.high,
            half.low <= at_half <= half.high,
        ]
    assert hits.min() >= 53


@pytest.mark.parametrize(("name", "helps"), [("helpful", True), ("harmful", False)])
@pytest.mark.parametrize("weight", [None, 0.5])
def test_signs(name: str, helps: bool, weight: float | None) -> None:
    for seed in range(20):
        found = predicted_gain(
            *draw(400, seed, CASES[name]), n_labelled=40, dims=5, weight=weight, subsamples=60
        )
        assert found.helps is helps
        assert (found.margin.value > 0) is helps


def test_undecided_on_the_edge() -> None:
    """At c = σ² the answer is None nearly always."""
    edge = {**CASES["harmful"], "noise_covariance": 0.5}
    found = [
        predicted_gain(*draw(300, s, edge), n_labelled=40, dims=5, subsamples=60).helps
        for s in range(40)
    ]
    assert found.count(None) >= 34


@pytest.mark.parametrize("paired", [True, False])
def test_unlabelled_pairs(paired: bool) -> None:
    model = truth(CASES["middling"], unlabelled_pairs=60, labelled_paired=paired)
    errors, hits = [], 0
    for seed in range(12):
        found = predicted_gain(
            *draw(800, seed, CASES["middling"]), n_labelled=40, dims=5, subsamples=40,
            unlabelled_pairs=60, labelled_paired=paired,
        )  # fmt: skip
        errors.append(found.value - model.best_gain())
        hits += found.low <= model.best_gain() <= found.high
        assert found.helps is True
    assert abs(float(np.mean(errors))) < 0.1 * model.best_gain()
    assert hits >= 9


def _digits(scale: float) -> tuple[Array, NDArray[np.int64], Array]:
    """Left halves of digit images, labels, and soft answers of a fit to the right halves."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    found = load_digits()
    images = found.images / 16.0
    left, right = images[:, :, :4].reshape(-1, 32), images[:, :, 4:].reshape(-1, 32)
    order = np.random.default_rng(0).permutation(len(left))
    own, rest = order[:500], order[500:]
    teacher = LogisticRegression(C=scale, max_iter=200).fit(right[own], found.target[own])
    return left[rest], found.target[rest].astype(np.int64), teacher.predict_proba(right[rest])


@pytest.mark.parametrize(("pairs", "paired"), [(0, True), (300, True), (300, False)])
def test_real_features_and_classes(pairs: int, paired: bool) -> None:
    """Least squares on 60 labelled digits gains what was predicted from the others, to a fifth."""
    x, y, t = _digits(1.0)
    alpha, n = 0.4, 60
    found = predicted_gain(
        x, y, t, n_labelled=n, unlabelled_pairs=pairs, labelled_paired=paired, weight=alpha
    )
    centred = (x - x.mean(axis=0))[:, x.std(axis=0) > 0]
    left, _, _ = np.linalg.svd(centred, full_matrices=False)
    design = np.hstack([np.ones((len(x), 1)), left[:, : found.dimension] * math.sqrt(len(x))])
    target = np.eye(10)[y]
    rows = n + pairs
    of_label, of_answer = np.zeros((rows, 1)), np.full((rows, 1), alpha)
    of_label[:n] = 1 - alpha
    if not paired:
        of_answer[:n] = 0
    root = np.sqrt(of_label + of_answer)
    gains = []
    for seed in range(150):
        order = np.random.default_rng(seed).permutation(len(x))
        train, test = design[order[:rows]], design[order[rows:]]
        plain = np.linalg.lstsq(train[:n], target[order[:n]], rcond=None)[0]
        mixed = of_label * target[order[:rows]] + of_answer * t[order[:rows]]
        taught = np.linalg.lstsq(root * train, mixed / root, rcond=None)[0]
        errors = [((test @ w - target[order[rows:]]) ** 2).sum(1).mean() for w in (plain, taught)]
        gains.append(errors[0] - errors[1])
    assert found.value == pytest.approx(np.mean(gains), rel=0.2)
    assert found.helps is True and not found.warnings


def test_outputs_are_summed_over_classes() -> None:
    """Two classes hold the same error twice: every quantity doubles, the weight stays."""
    x, y, t = draw(300, 0, CASES["middling"])
    label = (y > 0).astype(np.int64)
    answer = 1 / (1 + np.exp(-t))
    both = predicted_gain(x, label, np.stack([1 - answer, answer], 1), n_labelled=40, dims=5)
    one = predicted_gain(x, label.astype(float), answer, n_labelled=40, dims=5)
    assert both.value == pytest.approx(2 * one.value)
    assert both.margin == pytest.approx(one.margin)
    assert both.weight == pytest.approx(one.weight)


def test_tensors_arrays_units_and_rotations_do_not_matter() -> None:
    x, y, t = draw(200, 0, CASES["helpful"])
    plain = predicted_gain(x, y, t, n_labelled=40, dims=5)
    tensors = predicted_gain(
        torch.tensor(x, requires_grad=True), torch.tensor(y), torch.tensor(t), n_labelled=40, dims=5
    )
    assert tensors == plain
    moved = np.hstack([x * [1, 10, 100, 1, 1e-3] - 7.0, np.full((200, 1), 3.0)])
    assert _numbers(predicted_gain(moved, y, t, n_labelled=40, dims=5)) == pytest.approx(
        _numbers(plain)
    )


def _numbers(found: PredictedGain) -> tuple[float, ...]:
    return (found.value, found.low, found.high, *found.margin, *found.over_constant, found.weight)


def test_fields_agree_with_each_other() -> None:
    x, y, t = draw(300, 1, CASES["middling"])
    found = predicted_gain(x, y, t, n_labelled=40, dims=5)
    assert found.value == pytest.approx(found.model.best_gain())
    assert found.weight == found.model.best_weight()
    assert found.excess_risk_without == pytest.approx(6 / 33 * found.quantities.noise)
    assert found.excess_risk_with == pytest.approx(found.excess_risk_without - found.value)
    assert found.relative.value == pytest.approx(found.value / found.excess_risk_without)
    assert found.low <= found.value <= found.high
    assert (found.dimension, found.reference_samples) == (5, 300)


def test_higher_confidence_is_wider() -> None:
    parts = draw(200, 0, CASES["helpful"])
    wide, narrow = (
        predicted_gain(*parts, n_labelled=40, dims=5, confidence=level) for level in (0.99, 0.8)
    )
    assert wide.value == narrow.value
    assert wide.low < narrow.low < narrow.high < wide.high


def test_constant_teacher_is_shrinkage() -> None:
    x, y, _ = draw(300, 0, CASES["helpful"])
    y -= y.mean()
    found = predicted_gain(x, y, np.zeros(300), n_labelled=40, dims=5)
    assert found.helps is True and found.value > 0
    assert found.over_constant.value == pytest.approx(0.0, abs=1e-4)
    assert any("shrinkage" in note for note in found.warnings)


def test_labels_as_teacher_gain_nothing() -> None:
    x, y, _ = draw(300, 0, CASES["helpful"])
    found = predicted_gain(x, y, y, n_labelled=40, dims=5)
    assert abs(found.value) < 1e-9 and found.margin.value == pytest.approx(0.0, abs=1e-9)


def test_few_labels_take_few_dimensions() -> None:
    x, y, t = draw(300, 0, CASES["helpful"])
    assert predicted_gain(x, y, t, n_labelled=12).dimension == 2
    assert predicted_gain(x, y, t, n_labelled=4).dimension == 1


def test_heavy_tails_are_told() -> None:
    x, y, t = draw(300, 0, CASES["helpful"])
    x[:3, 0] = 60.0
    assert any("heavy tails" in w for w in predicted_gain(x, y, t, n_labelled=40).warnings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.arange(99) % 3}, "must hold the same samples, got 100, 99 and 100"),
        ({"teacher_predictions": np.zeros((99, 3))}, "same samples, got 100, 100 and 99"),
        ({"labels": np.zeros(100, dtype=int)}, "at least two classes, got 0 only"),
        ({"labels": np.full(100, 3)}, r"labels must lie in 0..2.*got 3 to 3"),
        ({"student_features": np.full((100, 5), np.nan)}, "student_features must be finite"),
        ({"teacher_predictions": np.full((100, 3), np.inf)}, "teacher_predictions must be finite"),
        ({"student_features": np.ones((100, 5))}, "student_features must vary"),
        ({"student_features": np.ones((100, 5, 2))}, r"student_features must have shape \(N, wid"),
        ({"n_labelled": 3}, "n_labelled must be at least 4, got 3"),
        ({"n_labelled": 6, "dims": 4}, r"n_labelled must exceed dims \+ 2 = 6, got 6"),
        ({"dims": 6}, "dims must be at most the rank of student_features, 5, got 6"),
        ({"dims": 24}, r"at least 4 \(dims \+ 2\) = 104 rows, got 100"),
        ({"weight": 1.5}, "weight must be a number in"),
        ({"confidence": 1.0}, "confidence must lie in"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"subsamples": 2}, "subsamples must be at least 20"),
        ({"labelled_paired": False}, "labelled_paired=False needs unlabelled_pairs"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    rng = np.random.default_rng(0)
    good: dict[str, Any] = {
        "student_features": rng.standard_normal((100, 5)),
        "labels": rng.integers(0, 3, 100),
        "teacher_predictions": rng.dirichlet(np.ones(3), 100),
        "n_labelled": 50,
    }
    with pytest.raises(ValueError, match=message):
        predicted_gain(**(good | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0, 1] * 50}, "labels must be a tensor or an array, got list"),
        ({"confidence": "a"}, r"confidence must be a number in \(0, 1\), got str"),
        ({"seed": 1.5}, "seed must be an integer, got float"),
        ({"labels": np.array([True, False] * 50)}, "got booleans"),
        ({"student_features": "fou"}, "student_features must be a tensor or an array, got str"),
        ({"n_labelled": 20.0}, "n_labelled must be an integer, got float"),
    ],
)
def test_wrong_kinds_are_named(change: dict[str, Any], message: str) -> None:
    rng = np.random.default_rng(0)
    good: dict[str, Any] = {
        "student_features": rng.standard_normal((100, 5)),
        "labels": rng.integers(0, 3, 100),
        "teacher_predictions": rng.dirichlet(np.ones(3), 100),
        "n_labelled": 50,
    }
    with pytest.raises(TypeError, match=message):
        predicted_gain(**(good | change))


@pytest.mark.parametrize("width", [8, 90])
def test_components_are_those_of_the_singular_values(width: int) -> None:
    """Narrow and wide tables; whitened, standardised, constant columns dropped."""
    x = np.random.default_rng(0).standard_normal((60, width)) @ np.diag(np.arange(1, width + 1))
    x[:, 3] = 2.0
    found = principal(x, 4, 4)
    rest = np.delete(x, 3, axis=1)
    left, _, _ = np.linalg.svd((rest - rest.mean(0)) / rest.std(0), full_matrices=False)
    assert found.shape == (60, 4)
    np.testing.assert_allclose(found.T @ found / 60, np.eye(4), atol=1e-8)
    np.testing.assert_allclose(np.abs(found.T @ left[:, :4]), np.eye(4) * 60**0.5, atol=1e-6)


def test_rare_columns_are_not_blown_up() -> None:
    """A column that is almost always 0 would be the first component after standardising."""
    rng = np.random.default_rng(0)
    x = np.hstack([rng.standard_normal((400, 2)), np.zeros((400, 2))])
    x[0, 2:] = 0.1
    found = principal(x, 2, 2)
    assert tail_weight(found) < 1.5
    assert abs(found[0]).max() < 5.0
