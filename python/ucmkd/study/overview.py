"""A study with several scenarios at one glance: all rows against all scenarios."""

from __future__ import annotations

from collections.abc import Sequence

from ucmkd.study.config import StudyConfig
from ucmkd.study.summary import Difference, ScenarioSummary
from ucmkd.study.tables import INDENT, Table
from ucmkd.study.text import estimate, number, signed
from ucmkd.tasks import Shown

NONE = "–"
LEVEL = 0.05
"""Adjusted p below which a difference gets its mark."""
TOLD = 2
"""Measures in a cell of differences."""


def overview(study: StudyConfig, summaries: Sequence[ScenarioSummary]) -> list[Table]:
    """Two tables: the first score of all methods, and their differences to their own controls.

    A dagger marks what the study's first reference does not explain, a star what the own control
    does not, both by the corrected resampled t-test after Holm's adjustment within a scenario.

    Args:
        study: What was run.
        summaries: Of all scenarios, in their order.

    Returns:
        The tables that have rows; none for fewer than two scenarios, whose own tables say it all.
    """
    if len(summaries) < 2:
        return []
    labels = _labels(study, summaries)
    return [table for table in (_scores(labels, summaries), _own(labels, summaries)) if table.rows]


def _labels(study: StudyConfig, summaries: Sequence[ScenarioSummary]) -> dict[str, str]:
    """Methods with results and their labels, in the order of the study."""
    known = {line.method for summary in summaries for line in summary.lines}
    return {key: entry.label or key for key, entry in study.methods.items() if key in known}


def _scores(labels: dict[str, str], summaries: Sequence[ScenarioSummary]) -> Table:
    shown = summaries[0].shown
    measure, rows = shown.tested[0], []
    for method, label in labels.items():
        cells = [label]
        for summary in summaries:
            line = next((x for x in summary.lines if (x.method, x.control) == (method, None)), None)
            if line is None:
                cells.append(NONE)
                continue
            first = next(iter(summary.against.values()), None)
            difference = None if first is None else first[measure.name].get(method)
            mark = "†" if _better(difference) else ""
            score = line.scores[measure.name]
            cells.append(f"{estimate(score.mean, score.half_width, measure.form)}{mark}")
        rows.append(cells)
    reference = next((name for s in summaries for name in s.against), None)
    what = measure.title.replace(", %", " in percent")
    caption = f"{what[:1].upper()}{what[1:]}, mean ± 95 % interval over the seeds."
    if reference is not None:
        side = "below" if measure.lower else "above"
        caption += (
            f" †: {side} {labels[reference]}, p < .05 (corrected resampled t-test, "
            "Holm's adjustment within the scenario)."
        )
    header = ["", *(s.name for s in summaries)]
    return Table(f"All scenarios: {measure.short}", caption, header, rows)


def _own(labels: dict[str, str], summaries: Sequence[ScenarioSummary]) -> Table:
    shown = summaries[0].shown
    rows, kinds = [], dict[str, None]()
    for method, label in labels.items():
        for control in dict.fromkeys(kind for s in summaries for kind in s.controls):
            found = [_difference(s, method, control) for s in summaries]
            if any(cell != NONE for cell in found):
                rows.append([f"{label} −{INDENT[0]}{control}", *found])
                kinds[control] = None
    meaning = "; ".join(f"{name}: {shown.meaning[name]}" for name in kinds)
    caption = (
        f"{meaning.capitalize()}. {_measured(shown)}; the interval is that of the corrected "
        "resampled t-test. *: p < .05 after Holm's adjustment over all rows of the scenario with "
        "the same control."
    )
    header = ["", *(s.name for s in summaries)]
    return Table("All scenarios: what is the teacher's", caption, header, rows)


def _measured(shown: Shown) -> str:
    """Which differences stand in a cell."""
    names = [measure.title.removeprefix("test ").removesuffix(", %") for measure in shown.tested]
    behind = "".join(f" and, behind the stroke, of {name}" for name in names[1:TOLD])
    kind = "Points" if shown.unit == "Percentage points" else "Differences"
    return f"{kind} of {names[0]}{behind}"


def _difference(summary: ScenarioSummary, method: str, control: str) -> str:
    families, tested = summary.controls.get(control), summary.shown.tested
    if families is None or method not in families[tested[0].name]:
        return NONE
    parts = []
    for place, measure in enumerate(tested[:TOLD]):
        d = families[measure.name][method]
        reach = "" if place else f" ± {number(d.half_width, measure.form)}"
        parts.append(f"{signed(d.mean, measure.form)}{reach}{'*' if _better(d) else ''}")
    return " / ".join(parts)


def _better(difference: Difference | None) -> bool:
    return difference is not None and difference.better and difference.p_value < LEVEL
