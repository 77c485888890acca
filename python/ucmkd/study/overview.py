"""A study with several scenarios at one glance: all rows against all scenarios."""

from __future__ import annotations

from collections.abc import Sequence

from ucmkd.study.config import StudyConfig
from ucmkd.study.controls import MEANING
from ucmkd.study.summary import Difference, Metric, ScenarioSummary
from ucmkd.study.tables import INDENT, Table
from ucmkd.study.text import estimate, number, signed

NONE = "–"
LEVEL = 0.05
"""Adjusted p below which a difference gets its mark."""


def overview(study: StudyConfig, summaries: Sequence[ScenarioSummary]) -> list[Table]:
    """Two tables: accuracies of all methods, and their differences to their own controls.

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
    metric: Metric = "accuracy"
    rows = []
    for method, label in labels.items():
        cells = [label]
        for summary in summaries:
            line = next((x for x in summary.lines if (x.method, x.control) == (method, None)), None)
            if line is None:
                cells.append(NONE)
                continue
            first = next(iter(summary.against.values()), None)
            difference = None if first is None else first[metric].get(method)
            mark = "†" if _better(difference) else ""
            score = line.scores[metric]
            cells.append(f"{estimate(score.mean, score.half_width)}{mark}")
        rows.append(cells)
    reference = next((name for s in summaries for name in s.against), None)
    caption = "Test accuracy in percent, mean ± 95 % interval over the seeds."
    if reference is not None:
        caption += (
            f" †: above {labels[reference]}, p < .05 (corrected resampled t-test, "
            "Holm's adjustment within the scenario)."
        )
    return Table("All scenarios: accuracy", caption, ["", *(s.name for s in summaries)], rows)


def _own(labels: dict[str, str], summaries: Sequence[ScenarioSummary]) -> Table:
    rows, kinds = [], dict[str, None]()
    for method, label in labels.items():
        for control in dict.fromkeys(kind for s in summaries for kind in s.controls):
            found = [_difference(s, method, control) for s in summaries]
            if any(cell != NONE for cell in found):
                rows.append([f"{label} −{INDENT[0]}{control}", *found])
                kinds[control] = None
    meaning = "; ".join(f"{name}: {MEANING[name]}" for name in kinds)
    caption = (
        f"{meaning.capitalize()}. Points of accuracy and, behind the stroke, of balanced accuracy; "
        "the interval is that of the corrected resampled t-test. *: p < .05 after Holm's "
        "adjustment over all rows of the scenario with the same control."
    )
    header = ["", *(s.name for s in summaries)]
    return Table("All scenarios: what is the teacher's", caption, header, rows)


def _difference(summary: ScenarioSummary, method: str, control: str) -> str:
    families = summary.controls.get(control)
    if families is None or method not in families["accuracy"]:
        return NONE
    parts = []
    metrics: tuple[Metric, ...] = ("accuracy", "balanced_accuracy")
    for metric in metrics:
        d = families[metric][method]
        reach = f" ± {number(d.half_width)}" if metric == "accuracy" else ""
        parts.append(f"{signed(d.mean)}{reach}{'*' if _better(d) else ''}")
    return " / ".join(parts)


def _better(difference: Difference | None) -> bool:
    return difference is not None and difference.mean > 0 and difference.p_value < LEVEL
