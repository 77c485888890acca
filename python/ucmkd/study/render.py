"""Tables as Markdown, LaTeX, HTML and on the terminal; numbers as CSV."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Sequence

import rich.table
from rich import box

from ucmkd.study.summary import Difference, ScenarioSummary
from ucmkd.study.tables import Table

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "\u00a0": "~", "±": r"$\pm$", "−": "$-$", "–": "--", "Δ": r"$\Delta$", "<": "$<$", ">": "$>$",
}  # fmt: skip


def markdown(table: Table) -> str:
    """A pipe table under a heading."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "|" + "|".join([":--", *["--:"] * (len(table.header) - 1)]) + "|"
    body = "\n".join([line(table.header), rule, *map(line, table.rows)])
    return f"### {table.title}\n\n{body}\n\n{table.caption}\n"


def latex(table: Table) -> str:
    """A ``table`` environment with a ``tabular``; needs no package."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(_tex, cells)) + r" \\"

    columns = "l" + "r" * (len(table.header) - 1)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(table.title)}. {_tex(table.caption)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\hline",
            line(table.header),
            r"\hline",
            *map(line, table.rows),
            r"\hline",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _tex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def as_html(table: Table) -> str:
    """A ``table`` element with its caption below."""

    def cells(values: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values)

    body = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in table.rows)
    return (
        f"<h3>{html.escape(table.title)}</h3>\n<div class='wide'><table>\n"
        f"<thead><tr>{cells(table.header, 'th')}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
        f"</div>\n<p class='caption'>{html.escape(table.caption)}</p>"
    )


def terminal(table: Table) -> rich.table.Table:
    """For a rich console."""
    shown = rich.table.Table(
        title=table.title, caption=table.caption, box=box.SIMPLE_HEAD, title_style="bold",
        title_justify="left", caption_style="dim", caption_justify="left", pad_edge=False,
        padding=(0, 1, 0, 0),
    )  # fmt: skip
    for number, name in enumerate(table.header):
        shown.add_column(name, justify="right" if number else "left", no_wrap=number > 0)
    for row in table.rows:
        shown.add_row(*row)
    return shown


def scores_csv(summaries: Sequence[ScenarioSummary]) -> str:
    """Scores at full precision: one line for each scenario, method, control and metric."""
    rows: list[tuple[object, ...]] = [
        (s.name, line.method, line.control or "", metric, line.n, e.mean, e.half_width)
        for s in summaries
        for line in s.lines
        for metric, e in line.scores.items()
    ]
    rows += [
        (s.name, line.method, line.control or "", name, line.n, mean, "")
        for s in summaries
        for line in s.lines
        for name, mean in line.means.items()
    ]
    header = ("scenario", "method", "control", "metric", "seeds", "mean", "half_width")
    return _csv(header, rows)


def differences_csv(summaries: Sequence[ScenarioSummary]) -> str:
    """Differences at full precision: one line for each scenario, method, other row and metric."""
    rows = []
    for s in summaries:
        families = [(reference, "", f) for reference, f in s.against.items()]
        families += [("", control, f) for control, f in s.controls.items()]
        for reference, control, family in families:
            for measure, differences in family.items():
                for method, d in differences.items():
                    other = reference or method
                    rows.append((s.name, method, other, control, measure, *_numbers(d)))
    header = (
        "scenario", "method", "other", "other_control", "metric", "seeds", "mean", "half_width",
        "p_holm", "wilcoxon_p_holm", "wins", "losses",
    )  # fmt: skip
    return _csv(header, rows)


def _numbers(d: Difference) -> tuple[float, ...]:
    return d.n, d.mean, d.half_width, d.p_value, d.wilcoxon, d.wins, d.losses


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if cell != cell else cell for cell in row] for row in rows)
    return stream.getvalue()
