"""The statistics against values worked out by hand and against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ucmkd import statistics

A = [71.0, 74.0, 70.0, 78.0, 73.5]
B = [68.0, 75.0, 66.0, 72.0, 70.5]


def test_t_interval_by_hand() -> None:
    # mean 2, s² = 1, J = 3: 2 ± 4.302653 / √3
    out = statistics.t_interval([1.0, 2.0, 3.0])
    assert out.mean == 2.0 and out.n == 3
    assert out.half_width == pytest.approx(4.30265273 / math.sqrt(3), rel=1e-8)
    assert out.high - out.mean == pytest.approx(out.mean - out.low)


def test_t_interval_against_scipy() -> None:
    low, high = stats.t.interval(0.9, 4, loc=np.mean(A), scale=stats.sem(A))
    out = statistics.t_interval(A, confidence=0.9)
    assert (out.low, out.high) == pytest.approx((low, high), rel=1e-12)


def test_paired_difference_is_the_paired_t_test() -> None:
    expected = stats.ttest_rel(A, B)
    interval = expected.confidence_interval(0.95)
    out = statistics.paired_difference(A, B)
    assert out.statistic == pytest.approx(expected.statistic, rel=1e-12)
    assert out.p_value == pytest.approx(expected.pvalue, rel=1e-12)
    assert (out.low, out.high) == pytest.approx((interval.low, interval.high), rel=1e-12)
    assert (out.dof, out.n, out.wins) == (4, 5, 4)


def test_corrected_resampled_by_hand() -> None:
    # d = 3, -1, 4, 6, 3: mean 3, Σ(d-3)² = 26, s² = 6.5; factor 1/5 + 100/400 = .45
    # t = 3 / √(.45 · 6.5) = 3 / √2.925
    out = statistics.paired_difference(A, B, train_size=400, test_size=100)
    assert out.mean == pytest.approx(3.0)
    assert out.statistic == pytest.approx(3.0 / math.sqrt(2.925), rel=1e-12)
    assert out.p_value == pytest.approx(2 * stats.t.sf(3.0 / math.sqrt(2.925), 4), rel=1e-12)
    assert out.half_width == pytest.approx(2.776445105 * math.sqrt(2.925), rel=1e-9)


def test_correction_widens_by_the_known_factor() -> None:
    plain = statistics.paired_difference(A, B)
    corrected = statistics.paired_difference(A, B, train_size=400, test_size=100)
    assert corrected.half_width / plain.half_width == pytest.approx(math.sqrt(0.45 / 0.2))
    assert corrected.p_value > plain.p_value


def test_correction_controls_false_alarms_where_the_plain_test_does_not() -> None:
    # Splits that share an error of variance rho: the plain test rejects far too often.
    rng = np.random.default_rng(0)
    plain, corrected = 0, 0
    for _ in range(400):
        d = rng.normal(size=10) + math.sqrt(0.25) * rng.normal()
        plain += statistics.paired_difference(d, np.zeros(10)).p_value < 0.05
        out = statistics.corrected_resampled_ttest(d, train_size=400, test_size=100)
        corrected += out.p_value < 0.05
    assert plain > 0.15 * 400
    assert corrected < 0.08 * 400


def test_degenerate_differences() -> None:
    same = statistics.paired_difference([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (same.mean, same.p_value, same.half_width, same.wins) == (0.0, 1.0, 0.0, 0)
    shifted = statistics.paired_difference([1.5, 2.5, 3.5], [1.0, 2.0, 3.0])
    assert shifted.p_value == 0.0 and math.isinf(shifted.statistic)


def test_equal_differences_of_rounded_scores() -> None:
    # .3 - .2, .4 - .3, … differ in their last bits.
    shifted = statistics.paired_difference([0.3, 0.4, 0.5, 0.6], [0.2, 0.3, 0.4, 0.5])
    assert shifted.p_value == 0.0 and math.isinf(shifted.statistic) and shifted.half_width == 0.0
    same = statistics.paired_difference([0.1 + 0.2, 0.3, 0.7], [0.3, 0.3, 0.1 + 0.6])
    assert (same.mean, same.statistic, same.p_value, same.wins) == (0.0, 0.0, 1.0, 0)
    assert statistics.paired_difference([0.1 + 0.2, 0.4], [0.3, 0.3]).wins == 1
    # Small differences of large scores are differences.
    close = statistics.paired_difference([1e4 + 0.01, 1e4, 1e4 - 0.02], [1e4, 1e4 + 0.02, 1e4])
    expected = stats.ttest_rel([1e4 + 0.01, 1e4, 1e4 - 0.02], [1e4, 1e4 + 0.02, 1e4])
    assert close.p_value == pytest.approx(expected.pvalue, rel=1e-12)


@pytest.mark.parametrize("samples", [541, 1024, 300, 7, 2**20])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_wilcoxon_of_shares_is_that_of_counts(samples: int, scale: float) -> None:
    rng = np.random.default_rng(samples)
    for _ in range(100):
        a = rng.integers(3 * samples // 4, samples + 1, size=10)
        b = np.maximum(a - rng.integers(-3, 7, size=10), 0)
        a[0] = samples  # a share of 1: multiples of a decimal unit would be hit in the middle
        shares = scale * (a / samples), scale * (b / samples)
        assert statistics.wilcoxon(*shares) == statistics.wilcoxon(a, b)


def test_wilcoxon_at_the_ends_of_the_numbers() -> None:
    assert statistics.wilcoxon([0.0, 0.0], [0.0, -0.0]) == 1.0
    assert statistics.wilcoxon([5e-324, 1e-323], [0.0, 0.0]) == 0.5  # their unit is 0
    assert statistics.wilcoxon([2e-300, 3e-300], [1e-300, 1e-300]) == 0.5


def test_wilcoxon_against_scipy_and_by_hand() -> None:
    assert statistics.wilcoxon(A, B) == pytest.approx(stats.wilcoxon(A, B).pvalue)
    # All five differences positive: 2 / 2⁵.
    assert statistics.wilcoxon([2, 3, 4, 5, 6], [1, 1, 1, 1, 1]) == pytest.approx(2 / 32)
    assert statistics.wilcoxon([1.0, 2.0], [1.0, 2.0]) == 1.0


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .04 times 4 3 2 1 = .04 .06 .06 .04 -> running maximum
    out = statistics.holm([0.03, 0.01, 0.04, 0.02])
    assert out == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert statistics.holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert statistics.holm([]).shape == (0,)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8))
def test_holm_bounds_and_order(p: list[float]) -> None:
    out = statistics.holm(p)
    assert np.all(out >= np.asarray(p)) and np.all(out <= 1.0)
    assert np.all(out <= np.minimum(1.0, len(p) * np.asarray(p)) + 1e-12)  # never above Bonferroni
    assert np.all(np.diff(out[np.argsort(p, kind="stable")]) >= 0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statistics.t_interval([1.0]), "values must be one-dimensional"),
        (lambda: statistics.t_interval([1.0, math.nan]), "values must be finite"),
        (lambda: statistics.t_interval([1.0, 2.0], confidence=1.0), "confidence"),
        (lambda: statistics.paired_difference([1.0, 2.0], [1.0, 2.0, 3.0]), "2 and 3"),
        (lambda: statistics.paired_difference([1, 2], [1, 3], train_size=3), "together"),
        (
            lambda: statistics.corrected_resampled_ttest([1, 2], train_size=0, test_size=1),
            "train_size must be at least 1, got 0",
        ),
        (
            lambda: statistics.corrected_resampled_ttest(A, train_size=math.nan, test_size=1),
            "train_size must be at least 1, got nan",
        ),
        (
            lambda: statistics.paired_difference(A, B, train_size=4, test_size=math.nan),
            "test_size must be at least 1, got nan",
        ),
        (lambda: statistics.wilcoxon([1.0, 2.0], [1.0, 2.0, 3.0]), "2 and 3"),
        (lambda: statistics.holm([0.1, 1.2]), r"\[0, 1\]"),
        (lambda: statistics.holm([[0.1]]), "one dimension"),
    ],
)
def test_bad_input(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
