"""The pictures of a study: scores of a scenario, and curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ucmkd.study.summary import Line, ScenarioSummary
from ucmkd.study.tables import full_label
from ucmkd.tasks import Measure

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("--", ":", "-.", (0, (6, 2, 1, 2, 1, 2)))


def draw_scores(summary: ScenarioSummary, path: Path) -> None:
    """A dot with its interval per row, the tested measures beside each other.

    Methods are filled, controls hollow; a dashed line marks each reference.
    """
    count, tested = len(summary.lines), summary.shown.tested
    figure = Figure(figsize=(_wide(tested), 1.6 + 0.32 * count), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(tested), sharey=True, squeeze=False)[0]
    height = np.arange(count)[::-1]
    for axis, measure in zip(axes, tested, strict=True):
        for y, line in zip(height, summary.lines, strict=True):
            _dot(axis, float(y), line, measure.name)
        for reference in summary.against:
            value = summary.line(reference).scores[measure.name].mean
            axis.axvline(value, color="0.6", linestyle="--", linewidth=1, zorder=0)
        axis.set_xlabel(measure.title)
        axis.grid(axis="x", alpha=0.3)
        axis.set_ylim(-0.7, count - 0.3)
    axes[0].set_yticks(height, [full_label(line) for line in summary.lines])
    title = f"{summary.name}: mean and 95 % interval ({summary.seeds} seeds)"
    figure.suptitle(title, fontweight="bold")
    _save(figure, path)


def _wide(tested: Sequence[Measure]) -> float:
    """Inches: room for the labels of the rows, and for each measure."""
    return {1: 6.5, 2: 10.0}.get(len(tested), 3.0 + 2.75 * len(tested))


def _dot(axis: Any, y: float, line: Line, measure: str) -> None:
    value = line.scores[measure]
    colour = COLOURS[0] if line.control is None else COLOURS[1]
    axis.errorbar(
        value.mean, y, xerr=None if value.half_width != value.half_width else value.half_width,
        fmt="o" if line.control is None else "s", capsize=3, color=colour,
        markerfacecolor=colour if line.control is None else "w",
    )  # fmt: skip


def draw_curves(summary: ScenarioSummary, label: str, path: Path) -> bool:
    """Scores against the curves' x, with bands; False where no row is on a curve.

    Args:
        summary: Of the scenario.
        label: What x is.
        path: Of the PNG file.
    """
    groups: dict[str, list[Line]] = {}
    for line in summary.lines:
        if line.curve is not None:
            groups.setdefault(line.curve.group, []).append(line)
    if not groups:
        return False
    tested = summary.shown.tested
    figure = Figure(figsize=(_wide(tested), 4.2), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(tested), squeeze=False)[0]
    places = sorted({line.curve.x for part in groups.values() for line in part if line.curve})
    for axis, measure in zip(axes, tested, strict=True):
        for number, (group, lines) in enumerate(groups.items()):
            _curve(axis, group, lines, measure.name, number)
        for number, reference in enumerate(summary.against):
            line = summary.line(reference)
            if line.curve is None:
                axis.axhline(
                    line.scores[measure.name].mean, color="0.35", linewidth=1.2, label=line.label,
                    linestyle=DASHES[number % len(DASHES)],
                )  # fmt: skip
        _scale(axis, places)
        axis.set_xlabel(label)
        axis.set_ylabel(measure.title)
        axis.grid(alpha=0.3)
    figure.legend(
        *axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=3
    )
    figure.suptitle(
        f"{summary.name}: mean and 95 % band ({summary.seeds} seeds)", fontweight="bold"
    )
    _save(figure, path)
    return True


def _curve(axis: Any, group: str, lines: Sequence[Line], measure: str, number: int) -> None:
    ordered = sorted(lines, key=lambda line: line.curve.x if line.curve else 0.0)
    x = [line.curve.x for line in ordered if line.curve]
    mean = np.array([line.scores[measure].mean for line in ordered])
    reach = np.nan_to_num([line.scores[measure].half_width for line in ordered])
    colour = COLOURS[number % len(COLOURS)]
    axis.plot(x, mean, color=colour, marker=MARKERS[number % len(MARKERS)], label=group)
    axis.fill_between(x, mean - reach, mean + reach, color=colour, alpha=0.15, linewidth=0)


def _scale(axis: Any, places: Sequence[float]) -> None:
    """Numbers of pairs grow by factors, and zero must have its place."""
    positive = [x for x in places if x > 0]
    if len(positive) > 1 and min(places) >= 0 and positive[-1] >= 8 * positive[0]:
        if min(places) > 0:
            axis.set_xscale("log")
        else:
            axis.set_xscale("symlog", linthresh=positive[0], linscale=0.4)
    axis.set_xticks(places, [f"{x:g}" for x in places])
    axis.minorticks_off()


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, facecolor="white")
