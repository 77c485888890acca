"""The pictures of the demo: one PNG per scene."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ucmkd.demo.experiment import ALL_PAIRS, PICTURE_SPLIT, Row
from ucmkd.demo.numbers import METRICS, SHORT, Metric, Outcome
from ucmkd.demo.scenes import PAIRS, Scene

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOUR = {
    "ce": "#000000",
    "prior": "#999999",
    "self": "#E69F00",
    "ucmkd": "#CC79A7",
    "label_aware": "#56B4E9",
    "joint": "#0072B2",
    "placebo": "#D55E00",
    "kd": "#009E73",
}
CLASS_COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7",
    "#56B4E9", "#000000", "#999933", "#882255", "#999999",
)  # fmt: skip


def draw(scene: Scene, outcome: Outcome, path: Path) -> None:
    """Draw a scene into a PNG file."""
    figure = Figure(figsize=(12.5, 9.0), dpi=110, layout="constrained")
    axes = figure.subplots(2, 2)
    if scene.number == 2:
        for axis, metric in zip(axes[0], METRICS, strict=True):
            _pair_curve(axis, outcome, metric)
        aligned = ("joint@all", "joint alignment with all pairs")
    else:
        _scores(axes[0][0], outcome, scene.rows)
        _learning(axes[0][1], outcome, scene.rows)
        aligned = ("joint", "joint alignment")
    before = outcome.results["ce"][PICTURE_SPLIT], "before: student trained by cross-entropy"
    after = outcome.results[aligned[0]][PICTURE_SPLIT], f"after: {aligned[1]}"
    _features(axes[1], outcome, (before, after))
    figure.suptitle(
        f"Scene {scene.number}: {scene.title}  ({outcome.splits} splits)", fontweight="bold"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _scores(axis: Any, outcome: Outcome, rows: Sequence[Row]) -> None:
    """A dot with its interval per row and metric."""
    height = np.arange(len(rows))[::-1]
    for offset, marker, metric in ((0.14, "o", METRICS[0]), (-0.14, "s", METRICS[1])):
        for y, row in zip(height, rows, strict=True):
            value = outcome.interval(row.key, metric)
            axis.errorbar(
                value.mean, y + offset, xerr=value.half_width, fmt=marker, capsize=3,
                color=COLOUR[row.key], markerfacecolor=COLOUR[row.key] if marker == "o" else "w",
            )  # fmt: skip
    for metric, style in zip(METRICS, ("--", ":"), strict=True):
        reference = outcome.interval("ce", metric).mean
        axis.axvline(reference, color="0.7", linestyle=style, linewidth=1, zorder=0)
    axis.set_yticks(height, [row.label.strip() for row in rows])
    axis.set_xlabel("percent on the test set, mean and 95 % interval")
    axis.set_title("Scores: ● accuracy, □ balanced accuracy", fontsize=11)
    axis.grid(axis="x", alpha=0.3)


def _learning(axis: Any, outcome: Outcome, rows: Sequence[Row]) -> None:
    """Balanced accuracy on validation data against the step, mean over the splits."""
    for row in rows:
        curves = np.array([record["curve"] for record in outcome.results[row.key]])
        steps, mean = curves[0, :, 0], 100 * curves[:, :, 1:].mean(axis=(0, 2))
        axis.plot(
            steps, mean, color=COLOUR[row.key], label=row.label.strip(),
            linestyle="--" if row.key in ("placebo", "prior") else "-",
            linewidth=2.2 if row.key == "joint" else 1.4,
        )  # fmt: skip
    axis.set_xlabel("step")
    axis.set_ylabel("mean of accuracy and balanced accuracy, %")
    axis.set_title("Validation while training (what selects the model)", fontsize=11)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="best", ncols=2)


def _pair_curve(axis: Any, outcome: Outcome, metric: Metric) -> None:
    """Scores against the number of pairs, for the three ways to use them."""
    names = ["0", *("all" if n == ALL_PAIRS else str(n) for n in PAIRS)]
    place = np.arange(len(names))
    lines = (
        ("kd", "KD on the pairs (0: cross-entropy)", "ce"),
        ("self", "self-labelling + KD", "self"),
        ("joint", "joint alignment + KD", "joint"),
    )
    for shift, (key, label, start) in zip((-0.06, 0.0, 0.06), lines, strict=True):
        keys = [start, *(f"{key}@{name}" for name in names[1:])]
        values = [outcome.interval(k, metric) for k in keys]
        axis.errorbar(
            place + shift, [v.mean for v in values], yerr=[v.half_width for v in values],
            color=COLOUR[key], marker="o", markersize=5, capsize=3, label=label,
            linewidth=2.2 if key == "joint" else 1.5,
        )  # fmt: skip
    reference = outcome.interval("all_labels", metric).mean
    axis.axhline(reference, color="0.4", linestyle="--", label="cross-entropy with every label")
    placebo = outcome.interval("kd_placebo@all", metric).mean
    # A line so far below would flatten all others.
    axis.plot([], [], " ", label=f"(KD on all pairs, placebo teacher: {placebo:.1f} %)")
    axis.set_xticks(place, names)
    axis.set_xlabel("unlabelled samples measured in both modalities")
    axis.set_ylabel(f"test {SHORT[metric]}, %")
    axis.set_title(f"{SHORT[metric].capitalize()}, mean and 95 % interval", fontsize=11)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="lower right")


def _features(
    axes: Sequence[Any], outcome: Outcome, panels: Sequence[tuple[dict[str, Any], str]]
) -> None:
    """Teacher and student features in the plane of the teacher's two main components."""
    teacher = outcome.results["teacher"][PICTURE_SPLIT]
    points, label = np.array(teacher["feature"]), np.array(teacher["feature_label"])
    centre = points.mean(axis=0)
    plane = _principal(points - centre)
    for axis, (record, title) in zip(axes, panels, strict=True):
        student = np.array(record["feature"])
        student_label = np.array(record["feature_label"])
        for number, name in enumerate(outcome.class_names):
            colour = CLASS_COLOURS[number % len(CLASS_COLOURS)]
            own = (points[label == number] - centre) @ plane
            axis.scatter(*own.T, s=14, alpha=0.25, color=colour, linewidth=0)
            seen = (student[student_label == number] - centre) @ plane
            axis.scatter(
                *seen.T, s=26, marker="^", color=colour, edgecolor="white", linewidth=0.5,
                label=name,
            )  # fmt: skip
        axis.set_title(f"Features {title}", fontsize=11)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_xlabel("teacher's first principal component")
        axis.set_ylabel("second")
    axes[0].legend(
        fontsize=8, title="● teacher   ▲ student (test)", title_fontsize=8, loc="best",
        ncols=2 if len(outcome.class_names) > 5 else 1,
    )  # fmt: skip


def _principal(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The two main directions of centred points ``(n, d)``, as ``(d, 2)``."""
    directions = np.linalg.svd(points, full_matrices=False)[2][:2].T
    # A sign that does not depend on the linear algebra library.
    return directions * np.sign(directions[np.abs(directions).argmax(axis=0), [0, 1]])
