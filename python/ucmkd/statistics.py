"""Statistics for comparing methods over repeated splits: intervals, paired tests, Holm.

Pure functions on float64 arrays. Repeated random splits of one data set share most of their
training rows, so the plain t-test over splits is far too optimistic; use
:func:`corrected_resampled_ttest`, or :func:`paired_difference` with ``train_size`` and
``test_size``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

try:
    from scipy import stats
except ImportError as error:
    raise ImportError(
        "ucmkd.statistics needs scipy: install it with pip install 'ucmkd[train]'"
    ) from error

Values: TypeAlias = "Sequence[float] | NDArray[np.floating]"

# What of the largest score counts as rounding noise in a difference of two scores. A power of two:
# the differences of shares k/n then lie at no border between two multiples of it.
_NOISE = 2.0**-30


class Interval(NamedTuple):
    """A mean with its confidence interval.

    Attributes:
        mean: The sample mean.
        low: Lower end.
        high: Upper end.
        n: Number of values J.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        """Half the length of the interval, the number after a ±."""
        return 0.5 * (self.high - self.low)


class PairedTest(NamedTuple):
    """A paired comparison over J splits.

    Attributes:
        mean: Mean difference.
        low: Lower end of the interval of the mean difference.
        high: Upper end.
        statistic: The t statistic.
        p_value: Two-sided.
        dof: Degrees of freedom, J - 1.
        n: Number of splits J.
        wins: Number of splits with a positive difference.
    """

    mean: float
    low: float
    high: float
    statistic: float
    p_value: float
    dof: int
    n: int
    wins: int

    @property
    def half_width(self) -> float:
        """Half the length of the interval, the number after a ±."""
        return 0.5 * (self.high - self.low)


def t_interval(values: Values, *, confidence: float = 0.95) -> Interval:
    """Student's t interval of a mean: ``x̄ ± t_{J-1, (1+confidence)/2} · s / √J``.

    ``s² = Σ(x_j - x̄)² / (J - 1)``. For repeated splits of one data set this understates the
    uncertainty (the values are not independent); it then describes the spread over the splits.

    Args:
        values: ``(J,)``, J at least 2, finite.
        confidence: In (0, 1).

    Raises:
        ValueError: Fewer than two values, a value that is not finite, or a bad ``confidence``.
    """
    x = _vector(values, "values")
    _check_confidence(confidence)
    mean = float(x.mean())
    reach = _quantile(confidence, len(x) - 1) * math.sqrt(float(x.var(ddof=1)) / len(x))
    return Interval(mean, mean - reach, mean + reach, len(x))


def corrected_resampled_ttest(
    differences: Values, *, train_size: int, test_size: int, confidence: float = 0.95
) -> PairedTest:
    """The t-test of Nadeau and Bengio for differences over repeated random splits.

    ``t = d̄ / √((1/J + n_test/n_train) · s²)`` with J - 1 degrees of freedom and
    ``s² = Σ(d_j - d̄)² / (J - 1)``. The added ``n_test/n_train`` stands for the covariance that
    overlapping training sets cause: more splits shrink ``1/J``, never that term. Differences that
    agree to 2⁻³⁰ of the largest count as equal: the interval then has no length.

    Source: Nadeau and Bengio, "Inference for the Generalization Error", Machine Learning 52
    (2003), section 3.

    Args:
        differences: ``(J,)`` score of one method minus score of the other, per split.
        train_size: Rows that were not in the test set of a split.
        test_size: Rows in the test set of a split.
        confidence: Of the interval, in (0, 1).

    Raises:
        ValueError: Fewer than two differences, one that is not finite, or a bad size.
    """
    for name, size in (("train_size", train_size), ("test_size", test_size)):
        if not size >= 1:  # NaN is not, either
            raise ValueError(f"{name} must be at least 1, got {size}")
    return _paired_test(_vector(differences, "differences"), test_size / train_size, confidence)


def paired_difference(
    first: Values,
    second: Values,
    *,
    train_size: int | None = None,
    test_size: int | None = None,
    confidence: float = 0.95,
) -> PairedTest:
    """Mean of ``first - second`` over the same splits, with interval and p-value.

    A difference of at most 2⁻³⁰ of the largest score is rounding noise: it is no win, and if all
    are, the mean is 0.

    Args:
        first: ``(J,)`` scores of one method.
        second: ``(J,)`` scores of the other on the same splits.
        train_size: With ``test_size``: use the corrected resampled t-test. Without both: the
            ordinary paired t-test, right only for independent repetitions.
        test_size: See ``train_size``.
        confidence: Of the interval, in (0, 1).

    Raises:
        ValueError: Different lengths, fewer than two splits, values that are not finite, or
            only one of the two sizes.
    """
    d, noise = _differences(first, second)
    if bool(np.all(np.abs(d) <= noise)):
        d = np.zeros_like(d)
    if (train_size is None) != (test_size is None):
        raise ValueError("train_size and test_size must be given together")
    if train_size is None or test_size is None:
        test = _paired_test(d, 0.0, confidence)
    else:
        test = corrected_resampled_ttest(
            d, train_size=train_size, test_size=test_size, confidence=confidence
        )
    return test._replace(wins=int((d > noise).sum()))


def wilcoxon(first: Values, second: Values) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test on the paired scores.

    Differences are rounded to multiples of 2⁻³⁰ of the largest score: what the scores' own
    rounding leaves must break no tie, and decide on no zero. Zero differences are dropped; without
    any non-zero difference the p-value is 1. Like the plain t-test, it takes the splits for
    independent.

    Raises:
        ValueError: Different lengths, fewer than two splits, or values that are not finite.
    """
    d, noise = _differences(first, second)
    if noise > 0.0:
        d = np.rint(d / noise)
    d = d[d != 0.0]
    return 1.0 if len(d) == 0 else float(stats.wilcoxon(d).pvalue)


def holm(p_values: Values) -> NDArray[np.float64]:
    """Holm's step-down adjustment for m tests, in the order given.

    With ``p_(1) ≤ … ≤ p_(m)``: ``p̃_(i) = max_{k ≤ i} min(1, (m - k + 1) p_(k))``. Rejecting
    where ``p̃ ≤ α`` keeps the probability of any false rejection at α, however the tests depend
    on each other.

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal
    of Statistics 6 (1979).

    Raises:
        ValueError: A value outside [0, 1] or not one dimension.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1:
        raise ValueError(f"p_values must have one dimension, got shape {p.shape}")
    if not bool(np.all((p >= 0.0) & (p <= 1.0))):
        raise ValueError("p_values must lie in [0, 1]")
    order = np.argsort(p, kind="stable")
    scaled = np.minimum(1.0, p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(scaled)
    return adjusted


def _paired_test(d: NDArray[np.float64], extra: float, confidence: float) -> PairedTest:
    """The t-test of a zero mean with variance factor ``1/J + extra``."""
    _check_confidence(confidence)
    count, mean = len(d), float(d.mean())
    # Equal differences leave rounding noise, .3 - .2 and .4 - .3 as much as a variance of equal
    # numbers, which would pass for a measured error.
    constant = bool(np.ptp(d) <= _NOISE * np.abs(d).max())
    error = 0.0 if constant else math.sqrt((1.0 / count + extra) * float(d.var(ddof=1)))
    if error > 0.0:
        statistic = mean / error
    else:
        statistic = 0.0 if mean == 0.0 else math.copysign(math.inf, mean)
    p_value = float(2.0 * stats.t.sf(abs(statistic), count - 1))
    reach = _quantile(confidence, count - 1) * error
    wins = int((d > 0.0).sum())
    return PairedTest(mean, mean - reach, mean + reach, statistic, p_value, count - 1, count, wins)


def _differences(first: Values, second: Values) -> tuple[NDArray[np.float64], float]:
    """``first - second`` ``(J,)``, and how much of it may be rounding noise."""
    a, b = _vector(first, "first"), _vector(second, "second")
    if len(a) != len(b):
        raise ValueError(f"first and second must have one length, got {len(a)} and {len(b)}")
    return a - b, _NOISE * float(max(np.abs(a).max(), np.abs(b).max()))


def _quantile(confidence: float, dof: int) -> float:
    return float(stats.t.ppf(0.5 * (1.0 + confidence), dof))


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")


def _vector(values: Values, name: str) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2:
        raise ValueError(f"{name} must be one-dimensional with at least 2 values, got {x.shape}")
    if not bool(np.isfinite(x).all()):
        raise ValueError(f"{name} must be finite")
    return x
