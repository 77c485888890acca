"""Tables as CSV and Markdown, and figures."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from benches.teachers import analysis
from benches.teachers.analysis import SETTINGS, Gain, Grade, Pair, by_pair, curve, gains, grade
from benches.teachers.figures import draw_curves, draw_grades, draw_scatter
from benches.teachers.margins import QUESTIONS
from benches.teachers.problems import PROBLEMS
from ucmkd.checkpoint import write_atomically

NO_ZERO = ("MMD",)
"""Rules whose zero means nothing."""
PAIRED_PROBLEMS = tuple(name for name, problem in PROBLEMS.items() if problem.paired)
MANY = tuple(name for name in PAIRED_PROBLEMS if name.endswith("_many"))
"""Problems whose students have many labels: graded apart."""


def write_report(rows: list[dict[str, Any]], margins: list[dict[str, Any]], folder: Path) -> str:
    """``scores.csv``, ``gains.csv``, ``margins.csv``, ``rules.csv``, ``results.md`` and figures.

    Args:
        rows: Of the trainings.
        margins: Of the rules.
        folder: Where to.

    Returns:
        The text of ``results.md``.
    """
    known = analysis.scores(rows)
    measured = {}
    for setting in SETTINGS:
        found = gains(known, setting)
        many = analysis.part(found, MANY)
        measured[setting] = {pair: gain for pair, gain in found.items() if pair not in many}
        measured[f"{setting}, many labels"] = many
    measured = {setting: found for setting, found in measured.items() if found}
    rules = [rule for rule in QUESTIONS if any(row["rule"] == rule for row in margins)]
    everything = {
        setting: _grades(analysis.part(found, PAIRED_PROBLEMS), margins, rules)
        for setting, found in measured.items()
    }
    _write(folder / "scores.csv", _scores_csv(known))
    _write(folder / "gains.csv", _gains_csv(measured))
    _write(folder / "margins.csv", _margins_csv(margins))
    _write(folder / "rules.csv", _rules_csv(measured, margins, rules))
    text = _markdown(measured, everything, margins, rules)
    _write(folder / "results.md", text)
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for setting, found in measured.items():
        stem = setting.lower().replace(", ", "_").replace(" ", "_").replace("'s", "")
        draw_scatter(found, margins, rules, f"gain ({setting}) against margin",
                     figures / f"{stem}.png")  # fmt: skip
    draw_grades(everything, figures / "rules.png")
    chosen = [r for r in rules if r not in NO_ZERO and r != "CCH, mixed"]
    draw_curves(measured, margins, chosen, figures / "crossing.png")
    return text


def _grades(
    measured: dict[Pair, Gain], margins: list[dict[str, Any]], rules: list[str]
) -> dict[str, Grade]:
    found = {}
    for rule in rules:
        graded = grade(measured, by_pair(margins, rule), decides=rule not in NO_ZERO)
        if graded is not None:
            found[rule] = graded
    return found


def _write(path: Path, text: str) -> None:
    write_atomically(path, text.encode())


def _csv(header: list[str], lines: list[list[Any]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return stream.getvalue()


def _scores_csv(known: analysis.Scores) -> str:
    lines = [
        [scenario, method, seed, f"{row['accuracy']:.4f}", f"{row['balanced_accuracy']:.4f}"]
        for (scenario, method), seeds in known.items()
        for seed, row in sorted(seeds.items())
    ]
    return _csv(["scenario", "method", "seed", "accuracy", "balanced_accuracy"], sorted(lines))


def _gains_csv(measured: dict[str, dict[Pair, Gain]]) -> str:
    header = ["setting", "problem", "teacher", "student", "gain", "low", "high", "seeds",
              "accuracy_without", "teacher_accuracy"]  # fmt: skip
    lines = [
        [setting, *pair, *(f"{v:.2f}" for v in (g.mean, g.low, g.high)), g.seeds,
         f"{g.base:.2f}", f"{g.teacher:.2f}"]
        for setting, found in measured.items() for pair, g in found.items()
    ]  # fmt: skip
    return _csv(header, lines)


def _margins_csv(margins: list[dict[str, Any]]) -> str:
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in margins:
        key = (row["rule"], row["problem"], row["teacher"], row["student"])
        groups.setdefault(key, []).append(row)
    lines = []
    for key, part in groups.items():
        values = np.array([row["margin"] for row in part])
        deviation = float(values.std(ddof=1)) if len(values) > 1 else math.nan
        seconds = float(np.mean([row["seconds"] for row in part]))
        lines.append(
            [*key, f"{values.mean():.4f}", f"{deviation:.4f}", f"{(values > 0).mean():.2f}",
             len(values), f"{seconds:.3f}"]
        )  # fmt: skip
    header = ["rule", "problem", "teacher", "student", "margin", "deviation_over_seeds",
              "share_positive", "seeds", "seconds"]  # fmt: skip
    return _csv(header, lines)


def _cells(g: Grade) -> list[str]:
    return [
        _percent(g.agreement), _percent(g.agreement_once), str(g.significant),
        _number(g.spearman, 2), _number(g.within, 2), _number(g.regret, 1),
        _number(g.regret_forced, 1),
    ]  # fmt: skip


HEADER = ["rule", "sign, mean margin %", "sign, one seed %", "significant", "Spearman",
          "within student", "regret", "regret, forced"]  # fmt: skip


def _rules_csv(
    measured: dict[str, dict[Pair, Gain]], margins: list[dict[str, Any]], rules: list[str]
) -> str:
    lines = []
    for setting, found in measured.items():
        for name in [*PROBLEMS, "all paired"]:
            names = PAIRED_PROBLEMS if name == "all paired" else (name,)
            graded = _grades(analysis.part(found, names), margins, rules)
            lines += [[setting, name, rule, *_cells(g)] for rule, g in graded.items()]
    return _csv(["setting", "problem", *HEADER], lines)


def _markdown(
    measured: dict[str, dict[Pair, Gain]],
    grades: dict[str, dict[str, Grade]],
    margins: list[dict[str, Any]],
    rules: list[str],
) -> str:
    parts = ["# All results\n\nMade by `python -m benches.teachers`.\n"]
    for setting, part in grades.items():
        found = analysis.part(measured[setting], PAIRED_PROBLEMS)
        gained = sum(g.significant and g.mean > 0 for g in found.values())
        lost = sum(g.significant and g.mean < 0 for g in found.values())
        always = _percent(gained / (gained + lost) if gained + lost else math.nan)
        parts.append(
            f"## Rules, {setting}\n\n{len(found)} ordered pairs; {gained} gains and {lost} losses "
            "are significant. Always distilling has the right sign in "
            f"{always} % of them.\n"
        )
        parts.append(_table(HEADER, [[rule, *_cells(g)] for rule, g in part.items()]))
    parts.append("## Verdicts of a single seed, paired\n")
    head = ["rule", "helps %", "right %", "does not help %", "right %"]
    parts.append(_table(head, _verdict_lines(measured.get("paired", {}), margins, rules)))
    parts.append("## Where the gain ends, and where the margin says so\n")
    parts.append(
        _table(["", "blur, pixels", "noise, grey levels"], _crossings(measured, margins, rules))
    )
    for setting, gained_pairs in measured.items():
        parts.append(f"## Gains, {setting}\n")
        lines = [
            [*pair, f"{g.base:.1f}", f"{g.teacher:.1f}", _signed(g.mean),
             f"{_signed(g.low)} … {_signed(g.high)}", "yes" if g.significant else ""]
            for pair, g in gained_pairs.items()
        ]  # fmt: skip
        head = ["problem", "teacher", "student", "without", "teacher's own", "gain",
                "95 % interval", "significant"]  # fmt: skip
        parts.append(_table(head, lines))
    return "\n".join(parts)


def _verdict_lines(
    measured: dict[Pair, Gain], margins: list[dict[str, Any]], rules: list[str]
) -> list[list[str]]:
    lines = []
    for rule in rules:
        found = analysis.verdicts(measured, margins, rule) if rule not in NO_ZERO else None
        if found is not None:
            shares = (found.helps, found.helps_right, found.against, found.against_right)
            lines.append([rule, *map(_percent, shares)])
    return lines


def _crossings(
    measured: dict[str, dict[Pair, Gain]], margins: list[dict[str, Any]], rules: list[str]
) -> list[list[str]]:
    lines = []
    for label, values in [
        *((f"gain, {s}", {p: g.mean for p, g in found.items()}) for s, found in measured.items()),
        *((f"margin, {r}", {p: float(np.mean(list(m.values())))
           for p, m in by_pair(margins, r).items()}) for r in rules if r not in NO_ZERO),
    ]:  # fmt: skip
        cells = []
        for group in ("blur", "noise"):
            points = [(x, values[("digits", t, s)]) for x, t, s in curve("digits", group)
                      if ("digits", t, s) in values]  # fmt: skip
            found = analysis.crossing([x for x, _ in points], [y for _, y in points])
            always = points and min(y for _, y in points) > 0
            cells.append("never" if always else _number(found, 1))
        lines.append([label, *cells])
    return lines


def _table(header: list[str], lines: list[list[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.0f}"


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")
