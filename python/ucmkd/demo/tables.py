"""The tables of the demo."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from ucmkd.demo.experiment import ALL_PAIRS, Row
from ucmkd.demo.numbers import METRICS, Comparison, Metric, Outcome, compare
from ucmkd.demo.scenes import PAIRS
from ucmkd.study.text import p_text, signed

HEAD: dict[Metric, str] = {"accuracy": "accuracy", "balanced_accuracy": "balanced"}


def _table(title: str, caption: str | None = None) -> Table:
    return Table(
        title=title,
        caption=caption,
        box=box.SIMPLE_HEAD,
        title_style="bold",
        title_justify="left",
        caption_style="dim",
        caption_justify="left",
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


def _difference(c: Comparison) -> str:
    text = f"{signed(c.test.mean)}±{c.test.half_width:.1f}"
    if not c.significant:
        return f"[dim]{text}[/]"
    return f"[{'green' if c.test.mean > 0 else 'red'}]{text}[/]"


def score_table(outcome: Outcome, rows: Sequence[Row]) -> Table:
    """Scores of all rows, and their differences to tuned cross-entropy."""
    table = _table(
        "Test scores",
        f"Percent, mean ± 95 % interval over {outcome.splits} splits. Differences in points: "
        "corrected resampled t-test (Nadeau and Bengio), p after Holm; dim: not significant.",
    )
    table.add_column("", no_wrap=True)
    for metric in METRICS:
        table.add_column(HEAD[metric], justify="right", no_wrap=True)
    for metric in METRICS:
        table.add_column(f"Δ {HEAD[metric]}", justify="right", no_wrap=True)
        table.add_column("p", justify="right", no_wrap=True)
    others = [(row.key, "ce") for row in rows if row.key != "ce"]
    tests = {metric: compare(outcome, others, metric) for metric in METRICS}
    for row in rows:
        cells = []
        for metric in METRICS:
            value = outcome.interval(row.key, metric)
            cells.append(f"{value.mean:.1f}±{value.half_width:.1f}")
        for metric in METRICS:
            if row.key == "ce":
                cells += ["", ""]
            else:
                comparison = tests[metric][row.key, "ce"]
                cells += [_difference(comparison), p_text(comparison.p_value)]
        table.add_row(row.label, *cells, style="bold" if row.key == "joint" else None)
    return table


def control_table(outcome: Outcome, rows: Sequence[Row]) -> Table:
    """Joint alignment against its controls."""
    table = _table(
        "Joint alignment minus its controls",
        "Self-labelling has the class prior and no teacher; the placebo is joint alignment with a "
        "teacher whose classes are permuted and whose class frequencies are right.",
    )
    table.add_column("")
    for metric in METRICS:
        table.add_column(f"Δ {HEAD[metric]}", justify="right", no_wrap=True)
        table.add_column("p", justify="right", no_wrap=True)
        table.add_column("ahead in", justify="right", no_wrap=True)
    meaning = {
        "prior": "class prior only",
        "self": "self-labelling",
        "placebo": "placebo",
    }
    wanted = [("joint", row.key) for row in rows if row.key in meaning]
    tests = {metric: compare(outcome, wanted, metric) for metric in METRICS}
    for pair in wanted:
        cells = []
        for metric in METRICS:
            c = tests[metric][pair]
            cells += [_difference(c), p_text(c.p_value), f"{c.test.wins} of {c.test.n}"]
        table.add_row(meaning[pair[1]], *cells)
    return table


def recall_table(outcome: Outcome, rows: Sequence[Row]) -> Table:
    """Mean recall per class."""
    table = _table("Recall per class", "Percent, mean over the splits.")
    table.add_column("", no_wrap=True)
    for name in outcome.class_names:
        # "HER2-enriched" is "HER2" where five such names must fit.
        table.add_column(name.partition("-")[0], justify="right")
    for row in rows:
        table.add_row(row.label, *(f"{value:.0f}" for value in outcome.recall(row.key)))
    return table


def pair_table(outcome: Outcome, metric: Metric) -> Table:
    """Scores against the number of pairs."""

    def score(row: str) -> str:
        value = outcome.interval(row, metric)
        return f"{value.mean:.1f}±{value.half_width:.1f}"

    table = _table(
        f"{HEAD[metric].capitalize()}{' accuracy' if metric != 'accuracy' else ''} "
        "against the number of pairs",
        "KD with 0 pairs is tuned cross-entropy. For comparison: KD on all pairs with a placebo "
        f"teacher {score('kd_placebo@all')}, cross-entropy with every label known "
        f"{score('all_labels')}. p: corrected resampled t-test, Holm over the five rows.",
    )
    table.add_column("pairs", justify="right")
    for name in ("KD", "self-labelling + KD", "joint alignment", "Δ joint − KD"):
        table.add_column(name, justify="right")
    table.add_column("p", justify="right")
    names = ["0", *("all" if n == ALL_PAIRS else str(n) for n in PAIRS)]
    tests = compare(outcome, [(f"joint@{n}", f"kd@{n}") for n in names[1:]], metric)

    table.add_row("0", score("ce"), score("self"), score("joint"), "", "")
    for n in names[1:]:
        c = tests[f"joint@{n}", f"kd@{n}"]
        table.add_row(
            n,
            score(f"kd@{n}"),
            score(f"self@{n}"),
            score(f"joint@{n}"),
            _difference(c),
            p_text(c.p_value),
        )
    return table
