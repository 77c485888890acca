"""Classes so rare that a subset of half the samples may lack them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ucmkd.information import (
    Estimator,
    Training,
    complementarity,
    information_difference,
    mutual_information,
)

N = 200
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, 3))
TEACHER = X + 0.6 * RNG.standard_normal((N, 3))


def label(positives: int) -> np.ndarray:
    found = np.zeros(N, dtype=int)
    found[np.argsort(-X[:, 0])[:positives]] = 1
    return found


@pytest.mark.parametrize("positives", [1, 2, 5])
@pytest.mark.parametrize("method", ["auto", "knn", "gaussian", "mixed", "ross", "latent"])
def test_rare_classes(method: str, positives: int) -> None:
    out = mutual_information(X, label(positives), method=method, training=Training(steps=5))
    assert 0.0 <= out.low <= out.value <= out.high < math.inf


@pytest.mark.parametrize("method", ["knn", "gaussian", "mixed"])
def test_rare_classes_in_comparisons(method: str) -> None:
    found = complementarity({"t": TEACHER}, X, label(2), method=method).best
    assert found.low < found.margin < found.high and found.verdict == "helps"
    pairs = (TEACHER, X), (X, label(2))
    difference = information_difference(*pairs, Estimator(method))
    assert difference.low < difference.value < difference.high


def test_a_handful_of_labels_of_many_classes() -> None:
    few = np.full(N, -1)
    few[:12] = np.arange(12) // 2
    found = complementarity({"t": TEACHER}, X, few, rule="cch").best
    assert found.low < found.margin < found.high


def test_pairs_of_samples_are_classes_and_single_samples_are_none() -> None:
    for seed in range(20):
        out = mutual_information(X[:20], np.arange(20) // 2, method="ross", k=1, seed=seed)
        assert math.isfinite(out.low)
    for method in ("ross", "latent"):
        with pytest.raises(ValueError, match="x must have a class with at least 2 samples"):
            mutual_information(np.arange(N), X, method=method)


@pytest.mark.parametrize(("count", "folds"), [(2, 2), (3, 3)])
def test_classifier_with_as_many_samples_of_a_class_as_folds(count: int, folds: int) -> None:
    rare = label(count)
    out = mutual_information(X, rare, method="classifier", folds=folds)
    assert math.isfinite(out.value)
    every = np.arange(8 * count) % 8
    out = mutual_information(X[: len(every)], every, method="classifier", folds=folds)
    assert math.isfinite(out.value)
