"""Subsets that keep the classes' proportions, or change them as asked."""

from __future__ import annotations

import numpy as np
import pytest

from ucmkd.data import reweighted_subset, stratified_subset

LABELS = np.repeat([0, 1, 2], [60, 30, 10])


def counts(rows: np.ndarray) -> list[int]:
    return np.bincount(LABELS[rows], minlength=3).tolist()


@pytest.mark.parametrize(
    ("count", "expected"),
    # 25: 15, 7.5, 2.5, the place left goes to the first of two equal remainders.
    [(50, [30, 15, 5]), (25, [15, 8, 2]), (3, [1, 1, 1]), (4, [2, 1, 1]), (100, [60, 30, 10])],
)
def test_stratified_subset(count: int, expected: list[int]) -> None:
    rows = stratified_subset(LABELS, count, 0)
    assert counts(rows) == expected
    assert np.array_equal(rows, np.unique(rows))
    assert np.array_equal(rows, stratified_subset(LABELS, count, 0))
    if count < 100:
        assert not np.array_equal(rows, stratified_subset(LABELS, count, 1))


def test_stratified_subset_of_a_pool() -> None:
    pool = np.arange(50, 100)
    rows = stratified_subset(LABELS, 10, 0, pool=pool)
    assert counts(rows) == [2, 6, 2] and rows.min() >= 50
    assert len(stratified_subset(LABELS, 2, 0)) == 2  # fewer places than classes
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        stratified_subset(LABELS, 0, 0)


def test_reweighted_subset() -> None:
    rows = reweighted_subset(LABELS, [0.1, 0.4, 0.4], 0)
    assert counts(rows) == [15, 30, 10]
    assert counts(reweighted_subset(LABELS, [1, 1e-6, 1], 0)) == [60, 1, 10]
    # Weights count relative to the classes that are there.
    assert counts(reweighted_subset(LABELS, [9, 2, 1], 0, pool=np.arange(60, 100))) == [0, 30, 5]
    for weights, message in (([1, 0, 1], "positive"), ([1, 1], "must be 3, one per class, got 2")):
        with pytest.raises(ValueError, match=message):
            reweighted_subset(LABELS, weights, 0)
