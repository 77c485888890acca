"""What mutual information says to data and options that it cannot take as they are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from ucmkd.information import Estimator, Training, information_difference, mutual_information

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((60, 2)), RNG.standard_normal((60, 3))
LABEL = RNG.integers(3, size=60)


@pytest.mark.parametrize(
    ("x", "y", "error", "says"),
    [
        (X, Y[:50], ValueError, "same samples in the same order, got 60 and 50"),
        ([1.0, 2.0], Y, TypeError, "x must be a tensor or a numpy array, got list"),
        (X.astype(complex), Y, TypeError, "x must hold real numbers"),
        (X, Y[:, :, None], ValueError, r"y must have shape \(n,\) or \(n, d\)"),
        (X[:0], Y[:0], ValueError, "x must have shape"),
        (np.where(X > 2.0, np.nan, X), Y, ValueError, "x must be finite, got .* missing"),
        (X, np.where(Y > 2.0, np.inf, Y), ValueError, "y must be finite"),
        (X, np.zeros(60, dtype=int), ValueError, "at least 2 classes, got only class 0"),
        (np.zeros((60, 2), dtype=int), Y, ValueError, "must be one class per sample"),
        (X[:7], Y[:7], ValueError, "at least 10 samples for an interval"),
    ],
)
def test_data(x: Any, y: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        mutual_information(x, y, method="ksg" if len(x) == 7 else "auto")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "kraskov"}, "method must be one of auto, knn"),
        ({"method": "ross"}, "'ross' needs one continuous and one discrete side"),
        ({"method": "discrete"}, "'discrete' needs two discrete sides.*use 'ksg'"),
        ({"k": 0}, "k must be at least 1"),
        ({"reduce": 0}, "reduce must be None or at least 1"),
        ({"margins": "ranks"}, "margins must be one of"),
        ({"shrinkage": 1.5}, "shrinkage must be 'auto' or in"),
        ({"folds": 1}, "folds must be at least 2"),
        ({"confidence": 95}, "confidence must lie in"),
        ({"subsamples": 1}, "subsamples must be 0 or at least 2"),
        ({"subsamples": -3}, "subsamples must be 0 or at least 2, got -3"),
        ({"shrinkage": True}, "shrinkage must be 'auto' or in"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"k": 59}, "at least 61 samples for 'auto' with k=59, got 60"),
        ({"method": "infonce", "k": 20}, "at least 88 samples for 'infonce'"),
        ({"method": "ksg", "k": 59}, "at least 61 samples for 'ksg' with k=59, got 60"),
    ],
)
def test_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        mutual_information(X, Y, **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"k": 2.5}, "k must be an integer, got float"),
        ({"k": "3"}, "k must be an integer, got str"),
        ({"k": True}, "k must be an integer, got bool"),
        ({"reduce": 1.5}, "reduce must be an integer, got float"),
        ({"folds": 2.5}, "folds must be an integer, got float"),
        ({"subsamples": 2.5}, "subsamples must be an integer, got float"),
        ({"seed": "a"}, "seed must be an integer, got str"),
        ({"confidence": "a"}, r"confidence must be a number in \(0, 1\), got str"),
        ({"training": {"steps": 3}}, "training must be a Training, got dict"),
        ({"progress": 3}, "progress must be None or callable, got int"),
    ],
)
def test_options_of_the_wrong_kind(options: dict[str, Any], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        mutual_information(X, Y, **options)


def test_numpy_integers_are_integers() -> None:
    three, two = np.int64(3), np.int32(2)
    out = mutual_information(X, Y, method="ksg", k=three, reduce=two, seed=two)  # type: ignore[arg-type]
    assert out.value == mutual_information(X, Y, method="ksg", reduce=2, seed=2).value


@pytest.mark.parametrize("options", [{"method": "student"}, {"method": "gaussian", "shrinkage": 0}])
def test_too_few_samples_for_the_dimensions(options: dict[str, Any]) -> None:
    x, y = RNG.standard_normal((2, 22, 5))
    with pytest.raises(ValueError, match=r"at least 11 samples for .* in 10 dimensions"):
        mutual_information(x[:10], y[:10], subsamples=0, **options)
    with pytest.raises(ValueError, match="at least 22 samples for an interval"):
        mutual_information(x[:21], y[:21], **options)
    out = mutual_information(x, y, **options)
    assert out.low <= out.value <= out.high
    assert not any("shrunk" in note for note in out.warnings)
    # Columns that others explain need no samples of their own.
    copied = np.repeat(x[:12, :1], 5, axis=1)
    mutual_information(copied, y[:12, :1], **options)


def test_labels_where_two_continuous_sides_are_needed() -> None:
    with pytest.raises(ValueError, match=r"'ksg' needs two continuous sides.*use 'ross'"):
        mutual_information(X, LABEL, method="ksg")
    rare = LABEL.copy()
    rare[:] = 0
    rare[:3] = 1
    with pytest.raises(ValueError, match="every class at least folds=5 times, got 3"):
        mutual_information(X, rare, method="classifier")
    with pytest.raises(ValueError, match="at least 2 samples, got every class once"):
        mutual_information(X, np.arange(60), method="ross", subsamples=0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"width": 0}, "width must be at least 1"),
        ({"batch": 1}, "batch must be at least 2"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"validation": 0.0}, "validation must lie in"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative"),
    ],
)
def test_training_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Training(**options)
    with pytest.raises(TypeError, match="steps must be an integer, got float"):
        Training(steps=2.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="dropout must be a number, got str"):
        Training(dropout="a")  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["auto", "ksg", "classifier"])
def test_differences_across_estimators_are_refused(method: str) -> None:
    with pytest.raises(ValueError, match="method must treat both pairs alike"):
        information_difference((X, Y), (Y, LABEL), Estimator(method))
    with pytest.raises(ValueError, match="must hold the same samples"):
        information_difference((X, Y), (Y[:50], LABEL[:50]), Estimator("knn"))


def test_constant_columns_are_left_out_and_constant_sides_say_nothing() -> None:
    padded = np.concatenate([X, np.full((60, 1), 3.0)], axis=1)
    out, plain = (mutual_information(side, Y, method="ksg") for side in (padded, X))
    assert out.value == plain.value
    assert any("x: 1 of 3 columns are constant" in note for note in out.warnings)
    nothing = mutual_information(np.ones((60, 2)), Y)
    assert (nothing.value, nothing.low, nothing.high) == (0.0, 0.0, 0.0)
    assert nothing.method == "constant"
    assert nothing.warnings == ("x is constant: it carries no information",)


def test_ties_are_broken_and_named() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((400, 1))
    y = np.round(0.8 * x + 0.6 * rng.standard_normal((400, 1)), 1)
    out = mutual_information(x, y, method="ksg")
    assert out.value == pytest.approx(0.51, abs=0.15)
    assert any("tied" in note for note in out.warnings)


def test_copies_of_samples_are_named() -> None:
    rows = RNG.integers(60, size=60)
    out = mutual_information(X[rows], Y[rows], method="ksg")
    assert any("occur more than once" in note for note in out.warnings)


def test_saturation_is_named() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((300, 1))
    strong = mutual_information(x, x + 1e-4 * rng.standard_normal((300, 1)), method="ksg")
    assert any("saturated: KSG cannot report more than" in note for note in strong.warnings)
    wide = rng.standard_normal((300, 10))
    assert any("saturated" in n for n in mutual_information(wide, wide, method="ksg").warnings)
    linear = mutual_information(x, 2.0 * x, method="gaussian")
    assert linear.value == math.inf and "linear function" in linear.warnings[-1]


def test_more_dimensions_than_samples() -> None:
    wide = torch.from_numpy(RNG.standard_normal((60, 4000)))
    out = mutual_information(wide, Y)
    assert out.method == "gaussian" and math.isfinite(out.high)
    assert any("shrunk" in note for note in out.warnings)
    reduced = mutual_information(wide, Y, reduce=2)
    assert any("4000 dimensions reduced to 2" in note for note in reduced.warnings)
    label = mutual_information(wide, torch.from_numpy(LABEL))
    assert label.method == "classifier" and label.value < 0.2


def test_atoms_are_seen() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((300, 1))
    out = mutual_information(x, np.maximum(x + rng.standard_normal((300, 1)), 0.0))
    assert out.method == "mixed"
