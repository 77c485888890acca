"""The picture of a ranking: a dot with its interval per teacher."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ucmkd.information.complementarity import TeacherRanking

COLOURS = {"helps": "#009E73", "does not help": "#D55E00", "cannot tell": "#7f7f7f"}


def draw_ranking(ranking: TeacherRanking, path: Path, *, title: str) -> None:
    """Write a PNG: margins with intervals, zero marked where the rule decides.

    Args:
        ranking: What to draw.
        path: Of the file; its folder must exist.
        title: One line.
    """
    count = len(ranking.candidates)
    figure = Figure(figsize=(7.0, 1.5 + 0.4 * count), dpi=120, layout="constrained")
    axis = figure.subplots()
    height = np.arange(count)[::-1]
    for y, c in zip(height, ranking.candidates, strict=True):
        reach = None if math.isnan(c.low) else [[c.margin - c.low], [c.high - c.margin]]
        axis.errorbar(
            c.margin, y, xerr=reach, fmt="o", capsize=3, color=COLOURS[c.verdict], label=c.verdict
        )
    if ranking.rule != "mmd":
        axis.axvline(0.0, color="0.6", linestyle="--", linewidth=1, zorder=0)
    axis.set_yticks(height, [candidate.name for candidate in ranking.candidates])
    axis.set_ylim(-0.7, count - 0.3)
    axis.set_xlabel(ranking.margin)
    axis.grid(axis="x", alpha=0.3)
    handles, labels = axis.get_legend_handles_labels()
    shown = dict(zip(labels, handles, strict=True))
    axis.legend(shown.values(), shown.keys(), fontsize="small")
    figure.suptitle(title, fontweight="bold")
    figure.savefig(path)
