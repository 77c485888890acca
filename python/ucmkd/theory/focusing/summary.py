"""The Gaussian study's means with intervals, as a table and a picture."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .study import General, Shared

#: What the second part compares with no teacher, and its caption.
TEACHERS = {
    "distilled": ("whole teacher", "#56B4E9"),
    "refitted_distilled": ("whole teacher of the students' data", "#0072B2"),
    "chance_distilled": ("channels by chance", "#999999"),
    "general_distilled": ("modality-general channels", "#D55E00"),
}


class Mean(NamedTuple):
    """Over the seeds, in points, with its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Line:
    """A line of the table: one γ, one kind of teacher; accuracies in percent, gains in points."""

    part: str
    gamma: float
    teacher: str
    seeds: int
    teacher_accuracy: float
    no_teacher: float
    distilled: float
    gain: float
    gain_error: float


def gain(rows: Sequence[Shared] | Sequence[General], field: str = "distilled") -> Mean:
    """Accuracy with a teacher minus that without, paired by seed.

    Args:
        rows: Of one γ.
        field: Which student.
    """
    values = np.array([getattr(row, field) - row.student for row in rows])
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Mean(float(values.mean()), float(error))


def table(first: Sequence[Shared], second: Sequence[General]) -> Iterator[Line]:
    """Lines of both parts, by γ."""
    for gamma in sorted({row.gamma for row in first}):
        part = [row for row in first if row.gamma == gamma]
        yield _line("share", gamma, "whole teacher", part, "teacher", "distilled")
    for gamma in sorted({row.gamma for row in second}):
        some = [row for row in second if row.gamma == gamma]
        for field, (name, _) in TEACHERS.items():
            teacher = {"distilled": "teacher", "general_distilled": "general_teacher"}.get(field)
            yield _line("focus", gamma, name, some, teacher, field)


def _line(
    part: str,
    gamma: float,
    name: str,
    rows: Sequence[Shared] | Sequence[General],
    teacher: str | None,
    field: str,
) -> Line:
    def mean(of: str) -> float:
        return float(np.mean([getattr(row, of) for row in rows]))

    found = gain(rows, field)
    known = math.nan if teacher is None else mean(teacher)
    return Line(part, gamma, name, len(rows), known, mean("student"), mean(field), *found)


def write(lines: Sequence[Line], path: Path) -> None:
    """The table as a CSV; an empty cell where nothing was measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Line)])
        for line in lines:
            values = [getattr(line, field.name) for field in fields(Line)]
            writer.writerow(
                ("" if math.isnan(v) else f"{v:.4g}") if isinstance(v, float) else v for v in values
            )


def draw(lines: Sequence[Line], path: Path) -> None:
    """Gains over γ of both parts, with 95 % intervals, as a PNG. Needs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("draw needs matplotlib: pip install 'ucmkd[train]'") from error
    figure = Figure(figsize=(10.0, 4.2), dpi=90, layout="constrained")
    axes: Any = figure.subplots(1, 2, sharey=True)
    colours = dict(TEACHERS.values())
    for axis, part, title in (
        (axes[0], "share", "More decisive features in common"),
        (axes[1], "focus", "A teacher that focuses on them"),
    ):
        for name in dict.fromkeys(line.teacher for line in lines if line.part == part):
            some = [line for line in lines if (line.part, line.teacher) == (part, name)]
            axis.errorbar(
                [line.gamma for line in some], [line.gain for line in some],
                [1.96 * line.gain_error for line in some], marker="o", markersize=4, capsize=2,
                color=colours[name], label=name,
            )  # fmt: skip
        axis.axhline(0.0, color="0.7", linewidth=0.8)
        axis.set(xlabel="γ, share of decisive features in common", title=title)
    axes[0].set_ylabel("gain over no teacher (points)")
    axes[1].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, facecolor="white")
