"""From rows to numbers: means with intervals, paired differences, corrections for many tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ucmkd.statistics import holm, paired_difference, t_interval, wilcoxon
from ucmkd.study.config import CurveConfig, StudyConfig
from ucmkd.study.measures import CLASSIFIERS, shown_of
from ucmkd.study.store import Row
from ucmkd.tasks import Measure, Shown

RowId = tuple[str, str | None]
"""Method and control."""
ACCURACY = CLASSIFIERS.measures[0]


@dataclass(frozen=True)
class Estimate:
    """A mean over the seeds with its 95 % t interval, as it is shown.

    Attributes:
        mean: The mean.
        half_width: Of the interval; nan with one seed.
    """

    mean: float
    half_width: float


@dataclass(frozen=True)
class Difference:
    """A row minus another on the same seeds, as it is shown.

    Attributes:
        mean: Mean difference.
        half_width: Of its 95 % interval, by the corrected resampled t-test of Nadeau and Bengio.
        p_value: Of that test, after Holm's adjustment over its family.
        wilcoxon: p-value of Wilcoxon's signed-rank test, after the same adjustment.
        wins, losses: Seeds where the row is ahead and behind.
        n: Seeds that both have.
        lower: Whether less is better.
    """

    mean: float
    half_width: float
    p_value: float
    wilcoxon: float
    wins: int
    losses: int
    n: int
    lower: bool = False

    @property
    def better(self) -> bool:
        """Whether the mean is on the good side."""
        return self.mean < 0 if self.lower else self.mean > 0


@dataclass(frozen=True)
class Line:
    """One row of a scenario's table.

    Attributes:
        method, control: Which.
        label: What people read.
        n: Number of seeds.
        scores: Of each tested measure.
        means: Of the others; nan where no seed has it.
        curve: Its place on a curve.
        along: Where the method trains the teacher, its test accuracy afterwards minus before.
        along_before, along_after: Means of the two.
        alone: Of a student of several modalities, its accuracy with each by itself at the test.
    """

    method: str
    control: str | None
    label: str
    n: int
    scores: dict[str, Estimate]
    means: dict[str, float]
    curve: CurveConfig | None
    along: Difference | None = None
    along_before: float = math.nan
    along_after: float = math.nan
    alone: dict[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class ScenarioSummary:
    """What one scenario says.

    Attributes:
        name: Of the scenario.
        shown: What is measured and how it is told.
        lines: One for each method and control with results, in the order of the study.
        against: For each reference the differences of the other methods.
        controls: For each control the differences of the methods to their own.
        seeds: The most seeds that a line has.
        train_size, test_size: Medians over the rows.
        teachers: As ``against``, of the test accuracies of the teachers that were trained along.
    """

    name: str
    shown: Shown
    lines: list[Line]
    against: dict[str, dict[str, dict[str, Difference]]]
    controls: dict[str, dict[str, dict[str, Difference]]]
    seeds: int
    train_size: int
    test_size: int
    teachers: dict[str, dict[str, Difference]] = field(default_factory=dict)

    def line(self, method: str) -> Line:
        """The line of a method itself."""
        return next(line for line in self.lines if (line.method, line.control) == (method, None))


def summarise(study: StudyConfig, rows: Sequence[Row]) -> list[ScenarioSummary]:
    """Summaries of the scenarios that have results.

    Differences are paired by seed. The families of Holm's adjustment, for each scenario and each
    tested measure: all methods against one reference; all methods against their own controls
    of one kind.
    """
    found = []
    for name in study.scenarios:
        table: dict[RowId, dict[int, Row]] = {}
        for row in rows:
            if row["scenario"] == name:
                table.setdefault((row["method"], row["control"]), {})[row["seed"]] = row
        if table:
            found.append(_scenario(study, name, table))
    return found


def _scenario(study: StudyConfig, name: str, table: dict[RowId, dict[int, Row]]) -> ScenarioSummary:
    entries, shown = study.methods_of(name), shown_of(study)
    lines, kinds = [], dict[str, None]()
    for method, entry in entries.items():
        for control in (None, *entry.controls):
            if (method, control) in table:
                label = entry.label or method
                rows = table[method, control]
                lines.append(_line(shown, method, control, label, entry.curve, rows))
                kinds |= {} if control is None else {control: None}
    present = [method for method in entries if (method, None) in table]
    against = {
        reference: _family(
            shown,
            {m: (table[m, None], table[reference, None]) for m in present if m != reference},
        )
        for reference in study.references
        if reference in present
    }
    controls = {
        kind: _family(
            shown, {m: (table[m, None], table[m, kind]) for m in present if (m, kind) in table}
        )
        for kind in kinds
    }
    after = {m: _teacher(table[m, None], "after") for m in present}
    teachers = {
        reference: _adjusted(
            {m: (after[m], after[reference]) for m in present if m != reference}, ACCURACY
        )
        for reference in against
        if after[reference]
    }
    every = [row for part in table.values() for row in part.values()]
    return ScenarioSummary(
        name=name,
        shown=shown,
        lines=lines,
        against=against,
        controls=controls,
        seeds=max(line.n for line in lines),
        train_size=int(np.median([row["train_size"] for row in every])),
        test_size=int(np.median([row["test_size"] for row in every])),
        teachers=teachers,
    )


def _line(
    shown: Shown,
    method: str,
    control: str | None,
    label: str,
    curve: CurveConfig | None,
    rows: dict[int, Row],
) -> Line:
    def mean(measure: Measure) -> float:
        values = [row[measure.name] for row in rows.values() if row[measure.name] is not None]
        return measure.scale * float(np.mean(values)) if values else math.nan

    return Line(
        method=method,
        control=control,
        label=label,
        n=len(rows),
        scores={m.name: _estimate(_points(rows, sorted(rows), m)) for m in shown.tested},
        means={measure.name: mean(measure) for measure in shown.others},
        curve=curve if control is None else None,
        **_along(rows),
        alone=_alone(rows),
    )


def _alone(rows: dict[int, Row]) -> dict[str, Estimate]:
    """Accuracy with one modality at the test, of the seeds that know it."""
    known = [row["accuracy_alone"] for row in rows.values() if "accuracy_alone" in row]
    names = known[0] if known else {}
    return {
        name: _estimate(100.0 * np.array([values[name] for values in known]))
        for name in names
        if all(name in values for values in known)
    }


def _teacher(rows: dict[int, Row], when: str) -> dict[int, Row]:
    """The rows with the accuracy of a teacher that was trained along, ``before`` or ``after``."""
    key = f"teacher_test_{when}"
    return {seed: {**row, "accuracy": row[key]} for seed, row in rows.items() if key in row}


def _along(rows: dict[int, Row]) -> dict[str, Any]:
    """How a teacher that was trained along has changed, where the rows say so."""
    before, after = _teacher(rows, "before"), _teacher(rows, "after")
    if len(after) < 2:
        return {}
    found = _adjusted({"along": (after, before)}, ACCURACY)["along"]
    means = [100.0 * float(np.mean([row["accuracy"] for row in part.values()]))
             for part in (before, after)]  # fmt: skip
    return {"along": found, "along_before": means[0], "along_after": means[1]}


def _points(rows: dict[int, Row], seeds: Sequence[int], measure: Measure) -> NDArray[np.float64]:
    values = np.array([rows[seed][measure.name] for seed in seeds], dtype=np.float64)
    return measure.scale * values


def _estimate(points: NDArray[np.float64]) -> Estimate:
    if len(points) < 2:
        return Estimate(float(points.mean()), math.nan)
    interval = t_interval(points)
    return Estimate(interval.mean, interval.half_width)


def _family(
    shown: Shown, pairs: dict[str, tuple[dict[int, Row], dict[int, Row]]]
) -> dict[str, dict[str, Difference]]:
    """The differences of a family on each tested measure, adjusted together for each."""
    return {measure.name: _adjusted(pairs, measure) for measure in shown.tested}


def _adjusted(
    pairs: dict[str, tuple[dict[int, Row], dict[int, Row]]], measure: Measure
) -> dict[str, Difference]:
    raw: dict[str, dict[str, Any]] = {}
    for name, (rows, others) in pairs.items():
        seeds = sorted(rows.keys() & others.keys())
        if len(seeds) < 2:
            continue  # one difference has no interval
        first, second = _points(rows, seeds, measure), _points(others, seeds, measure)
        sides = [part[seed] for part in (rows, others) for seed in seeds]
        test = paired_difference(
            first,
            second,
            # Where they differ, the larger correction: the smaller training, the larger test set.
            train_size=min(row["train_size"] for row in sides),
            test_size=max(row["test_size"] for row in sides),
        )
        # What only the last bits of a score decide is no win.
        ahead, behind = test.wins, paired_difference(second, first).wins
        raw[name] = {
            "mean": test.mean,
            "half_width": test.half_width,
            "p_value": test.p_value,
            "wilcoxon": wilcoxon(first, second),
            "wins": behind if measure.lower else ahead,
            "losses": ahead if measure.lower else behind,
            "n": test.n,
            "lower": measure.lower,
        }
    for key in ("p_value", "wilcoxon"):
        adjusted = holm([values[key] for values in raw.values()])
        for values, p in zip(raw.values(), adjusted, strict=True):
            values[key] = float(p)
    return {name: Difference(**values) for name, values in raw.items()}
