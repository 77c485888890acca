"""The pictures of the study."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benches.teachers.analysis import Gain, Grade, Pair, by_pair, curve
from benches.teachers.problems import PROBLEMS

COLOURS = {
    "brca": "#D55E00",
    "mfeat": "#0072B2",
    "digits": "#009E73",
    "speech": "#CC79A7",
    "mfeat_many": "#56B4E9",
    "digits_many": "#E69F00",
}


def draw_scatter(
    measured: dict[Pair, Gain], rows: list[dict[str, Any]], rules: list[str], title: str, path: Path
) -> None:
    """Gain against margin, one panel for each rule that was asked; filled: significant."""
    rules = [r for r in rules if by_pair(rows, r).keys() & measured.keys()] or rules
    columns = min(4, len(rules))
    lines = math.ceil(len(rules) / columns)
    figure = Figure(figsize=(3.3 * columns, 3.0 * lines), dpi=70, layout="constrained")
    axes = np.atleast_1d(figure.subplots(lines, columns, sharey=True)).reshape(-1)
    for axis, rule in zip(axes, rules, strict=False):
        margin = by_pair(rows, rule)
        for name, colour in COLOURS.items():
            for filled in (True, False):
                found = [
                    (float(np.mean(list(margin[p].values()))), g)
                    for p, g in measured.items()
                    if p in margin and p[0] == name and g.significant == filled
                ]
                axis.errorbar(
                    [x for x, _ in found],
                    [g.mean for _, g in found],
                    yerr=np.array([(g.mean - g.low, g.high - g.mean) for _, g in found])
                    .reshape(-1, 2)
                    .T,
                    fmt="o",
                    color=colour,
                    markerfacecolor=colour if filled else "w",
                    markersize=4,
                    linewidth=0.6,
                )
        axis.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        axis.axvline(0, color="0.7", linewidth=0.8, zorder=0)
        axis.set_title(rule, fontsize="medium")
        axis.set_xlabel("margin")
    for axis in axes[len(rules) :]:
        axis.set_visible(False)
    for axis in axes[::columns]:
        axis.set_ylabel("gain, points")
    shown = dict.fromkeys(pair[0] for pair in measured)
    for name in shown:
        axes[0].plot([], [], "o", color=COLOURS[name], label=name)
    axes[0].legend(fontsize="x-small")
    figure.suptitle(title, fontweight="bold")
    figure.savefig(path)


def draw_grades(grades: dict[str, dict[str, Grade]], path: Path) -> None:
    """Sign agreement and regret of every rule, one bar a setting; *: not asked of all pairs."""
    rules = list(dict.fromkeys(rule for part in grades.values() for rule in part))
    most = {setting: max(g.significant for g in part.values()) for setting, part in grades.items()}
    partly = {r for s, part in grades.items() for r, g in part.items() if g.significant < most[s]}
    figure = Figure(figsize=(10.0, 1.2 + 0.42 * len(rules)), dpi=100, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    height, width = np.arange(len(rules))[::-1], 0.8 / len(grades)
    palette = ("#0072B2", "#E69F00", "#56B4E9", "#CC79A7", "#009E73")
    for number, (setting, part) in enumerate(grades.items()):
        y = height + 0.4 - width * (number + 0.5)
        for axis, name, factor in ((axes[0], "agreement", 100.0), (axes[1], "regret", 1.0)):
            values = [factor * getattr(part[r], name) if r in part else math.nan for r in rules]
            axis.barh(y, values, width, color=palette[number], label=setting)
    axes[0].axvline(85, color="0.5", linestyle="--", linewidth=1)
    axes[0].set_xlabel("significant gains with the margin's sign, %")
    axes[1].set_xlabel("regret, points of accuracy")
    axes[0].set_yticks(height, [f"{rule}*" if rule in partly else rule for rule in rules])
    if partly:
        figure.supxlabel("*: asked of some of the pairs only", fontsize="small")
    axes[1].legend(fontsize="small", loc="center right")
    for axis in axes:
        axis.grid(axis="x", alpha=0.3)
    figure.savefig(path)


def draw_curves(
    measured: dict[str, dict[Pair, Gain]], rows: list[dict[str, Any]], rules: list[str], path: Path
) -> None:
    """Gains and margins while the teacher's pictures get worse."""
    problem = PROBLEMS["digits"]
    figure = Figure(figsize=(10.0, 7.0), dpi=100, layout="constrained")
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    for column, group in enumerate(("blur", "noise")):
        points = curve("digits", group)
        for setting, found in measured.items():
            known = [(x, found[(problem.name, t, s)]) for x, t, s in points
                     if (problem.name, t, s) in found]  # fmt: skip
            if not known:
                continue
            x = [place for place, _ in known]
            axes[0, column].plot(x, [g.mean for _, g in known], "o-", label=setting)
            axes[0, column].fill_between(
                x, [g.low for _, g in known], [g.high for _, g in known], alpha=0.15
            )
        for rule in rules:
            margin = by_pair(rows, rule)
            known_margins = [
                (x, float(np.mean(list(margin[(problem.name, t, s)].values()))))
                for x, t, s in points
                if (problem.name, t, s) in margin
            ]
            if known_margins:
                most = max(abs(value) for _, value in known_margins)
                axes[1, column].plot(
                    [x for x, _ in known_margins], [v / most for _, v in known_margins], ".-",
                    label=rule,
                )  # fmt: skip
        axes[1, column].set_xlabel({"blur": "blur, pixels", "noise": "noise, grey levels"}[group])
        for axis in axes[:, column]:
            axis.axhline(0, color="0.6", linewidth=0.8)
    axes[0, 0].set_ylabel("gain, points")
    axes[1, 0].set_ylabel("margin / its largest")
    axes[0, 1].legend(fontsize="small")
    handles, labels = axes[1, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize="small")
    figure.savefig(path)
