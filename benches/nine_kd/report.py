"""The table of the nine methods, as in the paper: mean ± interval, and the test against CE."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benches.nine_kd.learners import METHODS
from benches.nine_kd.problem import CONDITIONS
from benches.nine_kd.study import STEPS, Row
from ucmkd.statistics import PairedTest, holm, paired_difference, t_interval
from ucmkd.study.text import estimate, p_text, signed


@dataclass(frozen=True)
class Line:
    """A method under a condition.

    Attributes:
        condition, method: Which.
        mean: Test accuracy, percent.
        half_width: Of the 95 % interval over the seeds.
        source: Test accuracy of what it learned from; NaN without.
        factor: Of the published weight.
        gain: Against cross-entropy; None for cross-entropy itself.
        p_value: Of the gain, after Holm's adjustment within the condition; NaN without.
        seconds: Of a training, median.
        seeds: How many.
    """

    condition: str
    method: str
    mean: float
    half_width: float
    source: float
    factor: float
    gain: PairedTest | None
    p_value: float
    seconds: float
    seeds: int


def lines(rows: Sequence[Row], steps: int = STEPS) -> list[Line]:
    """All lines, from the seeds that every method of a condition has."""
    return [line for condition in CONDITIONS for line in _condition(rows, condition, steps)]


def _condition(rows: Sequence[Row], condition: str, steps: int) -> list[Line]:
    known = {
        (row["method"], int(row["seed"])): row for row in rows
        if (row["part"], row["condition"], row["steps"]) == ("final", condition, str(steps))
    }  # fmt: skip
    seeds = sorted(
        seed for seed in {s for _, s in known} if all((m, seed) in known for m in METHODS)
    )
    if len(seeds) < 2:
        return []
    score = {m: [float(known[m, s]["test"]) for s in seeds] for m in METHODS}
    one = known["ce", seeds[0]]
    sizes = {name: int(one[name]) for name in ("train_size", "test_size")}
    gains = {m: paired_difference(score[m], score["ce"], **sizes) for m in METHODS if m != "ce"}
    adjusted = dict(zip(gains, holm([gain.p_value for gain in gains.values()]), strict=True))
    found = []
    for name in METHODS:
        own = [known[name, seed] for seed in seeds]
        interval = t_interval(score[name])
        source = [float(row["source_test"]) for row in own if row["source_test"]]
        found.append(
            Line(
                condition, name, interval.mean, interval.half_width,
                float(np.mean(source)) if source else math.nan, float(own[0]["factor"]),
                gains.get(name), float(adjusted.get(name, math.nan)),
                float(np.median([float(row["seconds"]) for row in own])), len(seeds),
            )
        )  # fmt: skip
    return found


def markdown(found: Sequence[Line]) -> str:
    """``table.md``: one table of all conditions, one table of tests for each."""
    parts = [
        "# Nine distillation methods on one input\n",
        "Made by `python -m benches.nine_kd`. A small convolutional network (8 and 16 channels, "
        "1 898 parameters) on the 8×8 images of UCI optical digits; the teacher has stages of two "
        "convolutions with 32 channels inside and the same shapes between the stages. The labels "
        "of the training are spoiled for both; validation and test labels are not. Weights: a "
        "factor of the published one, chosen once, on clean labels and the validation set of "
        "another seed.\n",
        _overview(found),
    ]
    for condition, title in CONDITIONS.items():
        own = [line for line in found if line.condition == condition]
        if own:
            parts += [f"## {title[0].upper()}{title[1:]}\n", _details(own)]
    parts.append(
        "Test accuracy in percent, mean ± 95 % interval over the seeds. Gain: against "
        "cross-entropy, paired by seed, with interval and p of the corrected resampled t-test "
        "(Nadeau and Bengio); p after Holm's adjustment over the rows of a table. Learned from: "
        "the test accuracy of the teacher, for DML of the other student, for ONE of the gated "
        "ensemble. Weight: times the published one; the smallest that was tried for "
        f"{', '.join(_smallest(found))}.\n"
    )
    return "\n".join(parts)


def _smallest(found: Sequence[Line]) -> list[str]:
    chosen = {line.method: line.factor for line in found}
    return [
        method.title for name, method in METHODS.items()
        if len(method.factors) > 1 and chosen.get(name) == min(method.factors)
    ] or ["none"]  # fmt: skip


def _overview(found: Sequence[Line]) -> str:
    cell = {(line.condition, line.method): estimate(line.mean, line.half_width) for line in found}
    present = [c for c in CONDITIONS if any(line.condition == c for line in found)]
    rows = [[method.title, *(cell[c, name] for c in present)] for name, method in METHODS.items()]
    teacher = ["*teacher*"]
    for c in present:
        (value,) = (x.source for x in found if (x.condition, x.method) == (c, "hinton"))
        teacher.append(f"{value:.1f}")
    return _table(["", *(CONDITIONS[c] for c in present)], [*rows, teacher])


def _details(own: Sequence[Line]) -> str:
    header = ["", "seeds", "accuracy", "gain", "p", "seeds ahead", "learned from", "weight",
              "seconds"]  # fmt: skip
    rows = []
    for line in own:
        gain = line.gain
        compared = ["–", "–", "–"] if gain is None else [
            f"{signed(gain.mean)} ± {gain.half_width:.1f}", p_text(line.p_value),
            f"{gain.wins}",
        ]  # fmt: skip
        source = "–" if math.isnan(line.source) else f"{line.source:.1f}"
        weight = "–" if line.method == "ce" else f"{line.factor:g}"
        rows.append(
            [METHODS[line.method].title, str(line.seeds), estimate(line.mean, line.half_width),
             *compared, source, weight, f"{line.seconds:.1f}"]
        )  # fmt: skip
    return _table(header, rows)


def _table(header: list[str], rows: list[list[str]]) -> str:
    rule = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows)) + "\n"


def draw(found: Sequence[Line], path: Path) -> None:
    """Gains with their intervals, a panel for each condition."""
    from matplotlib.figure import Figure

    present = [c for c in CONDITIONS if any(line.condition == c for line in found)]
    figure = Figure(figsize=(3.4 * max(len(present), 1) + 1.2, 3.6), layout="constrained")
    panels = figure.subplots(1, max(len(present), 1), sharey=True, squeeze=False)[0]
    for panel, condition in zip(panels, present, strict=False):
        own = [x for x in found if x.condition == condition and x.gain is not None]
        for k, line in enumerate(reversed(own)):
            gain = line.gain
            assert gain is not None
            sure = line.p_value < 0.05
            colour = "#8a8d91" if not sure else "#1b6ca8" if gain.mean > 0 else "#d1495b"
            panel.errorbar(gain.mean, k, xerr=gain.half_width, fmt="o", color=colour, capsize=2.5)
        panel.axvline(0, color="#333333", linewidth=0.8)
        panel.set_yticks(range(len(own)), [METHODS[x.method].title for x in reversed(own)])
        panel.set_title(CONDITIONS[condition], fontsize=10)
        panel.set_xlabel("gain over cross-entropy, points", fontsize=9)
        panel.grid(axis="x", alpha=0.25)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
