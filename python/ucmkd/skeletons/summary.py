"""Means with intervals and paired tests of the study, as tables."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ucmkd.statistics import holm, paired_difference, t_interval
from ucmkd.study.text import p_text, signed

from .streams import STREAMS
from .study import CONDITIONS, Row

COLUMNS = (*STREAMS, "ensemble")


@dataclass(frozen=True)
class Difference:
    """CMD minus the streams alone, in points, paired by seed.

    Attributes:
        labels: Per class.
        stream: Or ``ensemble``.
        mean: Over the seeds.
        half_width: Of its 95 % interval by the corrected resampled t-test.
        p: Of that test.
        holm: p after Holm's adjustment over all rows.
        wins: Seeds ahead.
        seeds: How many.
    """

    labels: int
    stream: str
    mean: float
    half_width: float
    p: float
    holm: float
    wins: int
    seeds: int


def values(rows: Sequence[Row], labels: int, condition: str, stream: str) -> list[float]:
    """Accuracies of one cell, by seed."""
    found = {
        row.seed: row.accuracy
        for row in rows
        if (row.labels, row.condition, row.stream) == (labels, condition, stream)
    }
    return [found[seed] for seed in sorted(found)]


def differences(rows: Sequence[Row]) -> list[Difference]:
    """What the mutual term changes, in every column of the table.

    Raises:
        ValueError: Fewer than two seeds.
    """
    tests = []
    for labels in sorted({row.labels for row in rows}):
        for stream in COLUMNS:
            test = paired_difference(
                values(rows, labels, "mutual", stream), values(rows, labels, "alone", stream),
                train_size=rows[0].train_size, test_size=rows[0].test_size,
            )  # fmt: skip
            tests.append((labels, stream, test))
    adjusted = holm([test.p_value for _, _, test in tests])
    return [
        Difference(
            labels, stream, test.mean, test.half_width, test.p_value, float(p), test.wins, test.n
        )
        for (labels, stream, test), p in zip(tests, adjusted, strict=True)
    ]


def markdown(rows: Sequence[Row], command: str) -> str:
    """The page: one table for each number of labels, and how it was made."""
    found = {(d.labels, d.stream): d for d in differences(rows)}
    seeds = len({row.seed for row in rows})
    parts = ["# Mutual distillation of skeleton streams on pen trajectories"]
    for labels in sorted({row.labels for row in rows}):
        lines = [f"| {labels} labels per class | {' | '.join(COLUMNS)} |", "|:--|--:|--:|--:|--:|"]
        for condition, name in CONDITIONS.items():
            cells = []
            for stream in COLUMNS:
                interval = t_interval(values(rows, labels, condition, stream))
                cells.append(f"{interval.mean:.1f} ± {interval.half_width:.1f}")
            lines.append(f"| {name} | {' | '.join(cells)} |")
        some = [found[labels, stream] for stream in COLUMNS]
        cells = [f"{signed(d.mean)} ± {d.half_width:.1f}" for d in some]
        lines.append(f"| the mutual term: difference | {' | '.join(cells)} |")
        cells = [f"{p_text(d.p)} ({p_text(d.holm)}), {d.wins}/{d.seeds}" for d in some]
        lines.append(f"| p (Holm), seeds ahead | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    parts.append(
        f"Test accuracy in percent of a logistic regression on frozen features, mean ± 95 % "
        f"interval over {seeds} seeds. The encoders learn without labels from {rows[0].train_size} "
        f"trajectories of UCI pen-based digits, {rows[0].test_size} others are the test; the "
        "ensemble adds up the streams' log-probabilities. Differences are paired by seed, with the "
        f"corrected resampled t-test; Holm's adjustment is over all {len(found)} differences. Made "
        f"by `{command}`; every accuracy is in `results.csv`, every difference in "
        "`differences.csv`."
    )
    return "\n\n".join(parts) + "\n"


def write(lines: Sequence[Any], path: Path) -> None:
    """Dataclasses of one kind as a CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        names = [field.name for field in fields(lines[0])]
        writer.writerow(names)
        for line in lines:
            cells = [getattr(line, name) for name in names]
            writer.writerow(f"{v:.5g}" if isinstance(v, float) else v for v in cells)
