"""The Cross-modal Complementarity Hypothesis: I(H_T; H_S) against I(H_S; Y)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ucmkd.information.estimate import MIEstimate
from ucmkd.information.intervals import subsample_interval
from ucmkd.information.mixed import every_class_once
from ucmkd.information.rules.estimates import TRAINED, estimate
from ucmkd.information.rules.evidence import (
    Array,
    Codes,
    Evidence,
    Finding,
    Settings,
    with_half_the_labels,
)

AUTO = "knn"
"""What ``method="auto"`` is here: Kraskov's estimator, and Ross's, its form for classes."""

METHODS = ("knn", "mixed", "gaussian", *TRAINED)
"""Estimators that take features and classes alike, so that both sides come from one."""


def reduced(x: Array, dims: int) -> Array:
    """First principal components ``(n, r)``, whitened, r at most ``dims``."""
    x = x - x.mean(axis=0)
    left, size, _ = np.linalg.svd(x, full_matrices=False)
    keep = size[:dims] > 1e-10 * size[0]
    return np.asarray(left[:, :dims][:, keep] * np.sqrt(len(x)))


def cch(evidence: Evidence, settings: Settings) -> Finding:
    """``I(H_T; H_S) - I(H_S; Y)`` in nats: above zero, distillation helps.

    Both informations come from one estimator on one and the same reduction of H_S (principal
    components, as many as of H_T at most); the first over all rows, the second over the labelled
    ones. The criterion is sufficient and not necessary, and proved for jointly Gaussian data, a
    linear student and small weights only: a teacher below zero may help all the same.

    Where rows are paired by class alone, ``H_T - Y - H_S`` is a Markov chain and the margin cannot
    be above zero (data processing): it then ranks, and decides nothing.

    Interval: of the margin itself, by subsets of half the rows
    (:func:`ucmkd.information.intervals.subsample_interval`); for estimators that train a network
    both intervals added, which is wider than need be. Where one side is a linear function of the
    other, the Gaussian margin is infinite, and the interval reaches there from the smallest margin
    of a subset that is not.

    Source: Xie, Xu and Sanguinetti, arXiv 2510.13182.
    """
    method = AUTO if settings.method == "auto" else settings.method
    sides = _Sides(evidence, settings, method)
    everything = np.arange(len(evidence.labels))
    if method in TRAINED:
        first, second = sides.between(everything, True), sides.about_labels(everything, True)
        low, high = first.low - second.high, first.high - second.low
    else:
        first, second = sides.between(everything), sides.about_labels(everything)
        low, high = sides.interval(first.value - second.value)
    warnings = tuple(dict.fromkeys((*first.warnings, *second.warnings)))
    margin = first.value - second.value
    # A saturated I(H_T; H_S) may be any number above: a margin below zero then says nothing.
    saturated = any(warning.startswith("saturated") for warning in first.warnings)
    decides = not evidence.by_class and not (saturated and margin < 0)
    return Finding(margin, low, high, first.value, second.value, decides, warnings)


class _Sides:
    """Both informations on any rows; what only concerns the student is computed once."""

    def __init__(self, evidence: Evidence, settings: Settings, method: str) -> None:
        self.evidence, self.settings, self.method = evidence, settings, method
        self.teacher = reduced(evidence.teacher, settings.dims)
        self.student = reduced(evidence.student, settings.dims)

    def between(self, rows: NDArray[np.intp], interval: bool = False) -> MIEstimate:
        """I(H_T; H_S)."""
        return estimate(
            self.teacher[rows], self.student[rows], self.method, self.settings, interval=interval
        )

    def about_labels(self, rows: NDArray[np.intp], interval: bool = False) -> MIEstimate:
        """I(H_S; Y) of the labelled ones among the rows."""
        rows = rows[self.evidence.labels[rows] >= 0]
        key = ("cch", self.method, rows.tobytes(), interval)
        memory = self.evidence.memory
        if key not in memory:
            labels = self.evidence.labels[rows]
            memory[key] = (
                self._nothing(len(rows))
                if _tells_nothing(labels, self.method)
                else estimate(
                    self.student[rows], labels, self.method, self.settings, interval=interval
                )
            )
        found: MIEstimate = memory[key]
        return found

    def _nothing(self, samples: int) -> MIEstimate:
        return MIEstimate(
            0.0, math.nan, math.nan, self.settings.confidence, self.method,
            "labels that tell nothing", (), samples, 0.0,
        )  # fmt: skip

    def interval(self, value: float) -> tuple[float, float]:
        if not self.settings.subsamples:
            return math.nan, math.nan

        margins = []

        def margin(rows: NDArray[np.intp]) -> float:
            rows = with_half_the_labels(rows, self.evidence.labels)
            margins.append(self.between(rows).value - self.about_labels(rows).value)
            return margins[-1]

        with np.errstate(invalid="ignore"):  # infinite margins; see below
            found = subsample_interval(
                margin,
                value,
                len(self.evidence.labels),
                subsamples=self.settings.subsamples,
                confidence=self.settings.confidence,
                seed=self.settings.seed,
            )
        if np.isfinite([value, *margins]).all():
            return found.low, found.high
        return unbounded([value, *margins])


def unbounded(margins: list[float]) -> tuple[float, float]:
    """The interval of margins some of which are infinite: to there, from the last finite one.

    ``∞ - ∞``, both sides a linear function of the student, may be anything.

    Args:
        margins: Of all samples and of the subsets; at least one is not finite.
    """
    finite = [margin for margin in margins if math.isfinite(margin)]
    anything = any(math.isnan(margin) for margin in margins)
    low, high = min(finite, default=math.inf), max(finite, default=-math.inf)
    return (
        -math.inf if anything or -math.inf in margins else low,
        math.inf if anything or math.inf in margins else high,
    )


def _tells_nothing(labels: Codes, method: str) -> bool:
    """Labels of a subset that lacks all classes but one, or has no two samples of one."""
    return len(np.unique(labels)) < 2 or (method == AUTO and every_class_once(labels))
