"""Least squares on a table against the model, and the comparison on views."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from ucmkd.theory.gaussian import GaussianModel
from ucmkd.theory.gaussian.agreement import SETTINGS, compare, draw, summary
from ucmkd.theory.gaussian.rehearsal import measure_gain

W, V = np.array([0.5, -0.3, 0.2]), np.array([0.4, -0.2, 0.3])


@pytest.mark.parametrize(("pairs", "paired"), [(0, True), (40, True), (40, False)])
def test_measured_gain_is_the_models(pairs: int, paired: bool) -> None:
    """On a table of 10,000 Gaussian rows, which splits hardly exhaust."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((10_000, 3))
    e = rng.standard_normal((10_000, 1))
    h = 0.2 * e + math.sqrt(0.26) * rng.standard_normal((10_000, 1))
    model = GaussianModel.from_weights(
        W, V, noise=1.0, teacher_noise=0.3, noise_covariance=0.2, samples=20,
        unlabelled_pairs=pairs, labelled_paired=paired,
    )  # fmt: skip
    expected = dataclasses.replace(model, dimension=4).gain(0.4)
    found = measure_gain(
        x, x @ W[:, None] + e, x @ V[:, None] + h, n_labelled=20, weight=0.4,
        unlabelled_pairs=pairs, labelled_paired=paired, repetitions=1200,
    )  # fmt: skip
    assert found.low < expected < found.high
    assert found.high - found.low < 0.25 * expected


def test_no_weight_no_gain() -> None:
    rng = np.random.default_rng(0)
    x, y, t = rng.standard_normal((3, 100, 2))
    assert measure_gain(x, y, t, n_labelled=20, weight=0.0).gain == pytest.approx(0.0, abs=1e-12)


def test_rows_must_be_left() -> None:
    x = np.zeros((30, 2))
    with pytest.raises(ValueError, match="must leave rows to score on, got 30 of 30"):
        measure_gain(x, x, x, n_labelled=20, unlabelled_pairs=10, weight=0.5)


def test_every_ordered_pair_and_setting_is_compared(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 600)
    means = rng.standard_normal((3, 6))
    views = {
        name: means[labels] * size + rng.standard_normal((600, 6))
        for name, size in (("clear", 1.5), ("dim", 0.5))
    }
    rows = list(compare("mfeat", views, labels, repetitions=20))
    assert len(rows) == 2 * len(SETTINGS)
    assert {(row.teacher, row.student) for row in rows} == {("clear", "dim"), ("dim", "clear")}
    for row in rows:
        assert row.predicted_low <= row.predicted <= row.predicted_high
        assert abs(row.predicted - row.measured) < 0.5 * row.risk + 0.1 * abs(row.predicted)
    # The clear teacher of the dim student is worth more than the other way round.
    best = max(rows, key=lambda row: row.measured / row.risk)
    assert (best.teacher, best.student) == ("clear", "dim")
    path = tmp_path / "figures" / "agreement.png"
    draw(rows, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(summary(rows)) == []  # two pairs make no rank correlation
    assert len(list(summary(rows * 2))) == len(SETTINGS)
