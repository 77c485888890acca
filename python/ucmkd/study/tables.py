"""Summaries as tables of text, whatever they are written as in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ucmkd.study.summary import ACCURACY, Difference, Line, ScenarioSummary
from ucmkd.study.text import estimate, number, p_text, signed
from ucmkd.tasks import Measure, Shown


@dataclass(frozen=True)
class Table:
    """Cells of text; the first column is left-aligned, the others right.

    Attributes:
        title: One line.
        caption: What the numbers are.
        header: Names of the columns.
        rows: Cells.
        optional: Columns that a narrow terminal goes without, least important first.
    """

    title: str
    caption: str
    header: list[str]
    rows: list[list[str]]
    optional: tuple[str, ...] = ()

    def within(self, width: int) -> Table:
        """The table without as many optional columns as must go to fit in ``width`` characters."""
        table = self
        for name in self.optional:
            columns = zip(table.header, *table.rows, strict=True)
            if sum(max(map(len, cells)) + 2 for cells in columns) <= width:
                break
            kept = [k for k, head in enumerate(table.header) if head != name]
            rows = [[row[k] for k in kept] for row in table.rows]
            table = replace(table, header=[table.header[k] for k in kept], rows=rows)
        return table


INDENT = "\u00a0\u00a0"  # an ordinary space at the start of a cell is lost in HTML

_TESTS = (
    ", paired by seed; interval and p: corrected resampled t-test (Nadeau and Bengio); W: "
    "Wilcoxon's signed-rank test; p and W after Holm's adjustment over "
)


def row_label(line: Line) -> str:
    """The label; a control's own, to be read below its method's."""
    return line.label if line.control is None else f"{INDENT}{line.control}"


def full_label(line: Line) -> str:
    """The label with its control, to be read alone."""
    return line.label if line.control is None else f"{line.label}, {line.control}"


def tables(summary: ScenarioSummary) -> list[Table]:
    """All tables of a scenario: scores, then differences to references and to controls."""
    labels = {line.method: line.label for line in summary.lines}
    shown, tests = summary.shown, summary.shown.unit + _TESTS
    first = shown.tested[0].name
    found = [_scores(summary)]
    for reference, families in summary.against.items():
        title = f"{summary.name}: difference to {labels[reference]}"
        caption = f"{tests}the rows of this table. W/L: seeds ahead and behind."
        named = [(labels[method], families, method) for method in families[first]]
        found.append(_differences(shown, title, caption, named))
    # A method's controls stand together; what they are adjusted with is the same control of all.
    named = [
        (f"{line.label} − {control}", families, line.method)
        for line in summary.lines
        for control, families in summary.controls.items()
        if line.control is None and line.method in families[first]
    ]
    meaning = "; ".join(f"{name}: {shown.meaning[name]}" for name in summary.controls)
    caption = f"{meaning.capitalize()}. {tests}all rows with the same control."
    title = f"{summary.name}: difference to the own controls"
    found.append(_differences(shown, title, caption, named))
    found += [_alone(summary), _teachers(summary)]
    for reference, family in summary.teachers.items():
        rows = [[labels[method], *_cells(d, ACCURACY)] for method, d in family.items()]
        title = f"{summary.name}: teachers trained along, difference to {labels[reference]}"
        caption = f"Of their accuracies afterwards. {tests}the rows of this table."
        found.append(Table(title, caption, ["", "Δ", "p", "W", "W/L"], rows, ("W", "W/L")))
    return [table for table in found if table.rows]


def _alone(summary: ScenarioSummary) -> Table:
    """Students of several modalities with one of them at the test."""
    lines = [line for line in summary.lines if line.alone]
    names = list(dict.fromkeys(name for line in lines for name in line.alone))
    rows = [
        [row_label(line), *(estimate(e.mean, e.half_width) for e in line.alone.values())]
        for line in lines
        if list(line.alone) == names
    ]
    caption = (
        "Test accuracy in percent, mean ± 95 % interval over the seeds, of the same students where "
        "every other modality is missing: its columns are zero, the mean of the training."
    )
    header = ["", *(f"{name} alone" for name in names)]
    return Table(f"{summary.name}: with one modality", caption, header, rows)


def _teachers(summary: ScenarioSummary) -> Table:
    """What became of the teachers that methods train along."""
    header = ["", "before", "after", "Δ", "p", "W", "W/L"]
    rows = [
        [
            row_label(line),
            *map(number, (line.along_before, line.along_after)),
            *_cells(line.along, ACCURACY),
        ]
        for line in summary.lines
        if line.along is not None
    ]
    caption = (
        "The teacher's own accuracy on the test samples, in its modalities, when it was trained "
        "alone and after it was trained along with the student. Percentage points, paired by seed; "
        "interval and p: corrected resampled t-test; W: Wilcoxon's; neither is adjusted."
    )
    return Table(f"{summary.name}: teachers trained along", caption, header, rows, ("W", "W/L"))


def _scores(summary: ScenarioSummary) -> Table:
    shown = summary.shown
    header = ["", "seeds", *(measure.short for measure in (*shown.tested, *shown.others))]
    rows = []
    for line in summary.lines:
        cells = [row_label(line), str(line.n)]
        for measure in shown.tested:
            score = line.scores[measure.name]
            cells.append(estimate(score.mean, score.half_width, measure.form))
        cells += [number(line.means[measure.name], measure.form) for measure in shown.others]
        rows.append(cells)
    caption = (
        f"{shown.caption}, mean ± 95 % interval over the seeds; about {summary.train_size} "
        f"{shown.samples} outside the test set and {summary.test_size} in it. {shown.columns}"
    )
    # The calibration error tells more than the likelihood.
    first = ("NLL", "macro-F1", "teacher", "seconds")
    others = [measure.short for measure in shown.others]
    optional = (
        *(name for name in first if name in others),
        *(name for name in reversed(others) if name not in first),
        "seeds",
    )
    return Table(f"{summary.name}: scores", caption, header, rows, optional)


def _differences(
    shown: Shown,
    title: str,
    caption: str,
    named: Sequence[tuple[str, dict[str, dict[str, Difference]], str]],
) -> Table:
    """A table of (label, family, method)."""
    header = [""]
    for measure in shown.tested:
        header += [f"Δ {measure.short}", "p", "W", "W/L"]
    rows = []
    for label, families, method in named:
        cells = [label]
        for measure in shown.tested:
            cells += _cells(families[measure.name][method], measure)
        rows.append(cells)
    return Table(title, caption, header, rows, optional=("W", "W/L"))


def _cells(d: Difference, measure: Measure) -> list[str]:
    return [
        f"{signed(d.mean, measure.form)} ± {number(d.half_width, measure.form)}",
        p_text(d.p_value),
        p_text(d.wilcoxon),
        f"{d.wins}/{d.losses}",
    ]


def all_tables(summaries: Sequence[ScenarioSummary]) -> list[Table]:
    """The tables of all scenarios, in their order."""
    return [table for summary in summaries for table in tables(summary)]
