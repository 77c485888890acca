"""From results to the numbers that tables, figures and sentences share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ucmkd.demo.experiment import Record
from ucmkd.statistics import Interval, PairedTest, holm, paired_difference, t_interval

Metric = Literal["accuracy", "balanced_accuracy"]
METRICS: tuple[Metric, ...] = ("accuracy", "balanced_accuracy")
SHORT: dict[Metric, str] = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy"}


@dataclass(frozen=True)
class Outcome:
    """The results of one scene, with what the statistics need.

    Attributes:
        results: For each row one record per split.
        class_names: Names of the classes.
        train_size: Samples outside the test set in a split.
        test_size: Samples of the test set.
    """

    results: dict[str, list[Record]]
    class_names: tuple[str, ...]
    train_size: int
    test_size: int

    @property
    def splits(self) -> int:
        """Number of splits."""
        return len(self.results["teacher"])

    def points(self, row: str, metric: Metric) -> NDArray[np.float64]:
        """Scores of a row in percent, one per split."""
        return 100.0 * np.array([record[metric] for record in self.results[row]])

    def interval(self, row: str, metric: Metric) -> Interval:
        """Mean and 95 % interval over the splits."""
        return t_interval(self.points(row, metric))

    def difference(self, row: str, reference: str, metric: Metric) -> PairedTest:
        """Corrected resampled t-test of ``row - reference``, in points."""
        return paired_difference(
            self.points(row, metric),
            self.points(reference, metric),
            train_size=self.train_size,
            test_size=self.test_size,
        )

    def recall(self, row: str) -> NDArray[np.float64]:
        """Mean recall per class in percent; splits without a class do not count for it."""
        table = [[np.nan if v is None else v for v in r["recall"]] for r in self.results[row]]
        return 100.0 * np.nanmean(np.array(table, dtype=np.float64), axis=0)


@dataclass(frozen=True)
class Comparison:
    """One difference with its p-value after Holm's adjustment over its family."""

    row: str
    reference: str
    metric: Metric
    test: PairedTest
    p_value: float

    @property
    def significant(self) -> bool:
        """At the 5 % level, after the adjustment."""
        return self.p_value < 0.05


def compare(
    outcome: Outcome, pairs: Sequence[tuple[str, str]], metric: Metric
) -> dict[tuple[str, str], Comparison]:
    """Differences of a family of ``(row, reference)``, adjusted together."""
    tests = [outcome.difference(row, reference, metric) for row, reference in pairs]
    adjusted = holm([test.p_value for test in tests])
    return {
        pair: Comparison(*pair, metric, test, float(p))
        for pair, test, p in zip(pairs, tests, adjusted, strict=True)
    }
