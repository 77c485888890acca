"""``ucmkd teachers``: which candidate modality will help this student?"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ._usage import UsageError
from .checkpoint import make_folder, write_atomically
from .information.complementarity import Candidate, TeacherRanking
from .information.rules import RULES
from .teachers import compare_teachers, draw_ranking, find_comparison, load_comparison, read_samples
from .teachers.config import Rule, TeachersConfig, shipped_comparisons

STYLE = {"helps": "green", "does not help": "red", "cannot tell": "dim"}
CAVEAT = {
    "cch": "Sufficient, not necessary: a teacher below zero may help all the same.",
    "accuracy": "A more accurate teacher need not be the better one for this student.",
    "mmd": "This rule only ranks: its zero means nothing.",
    "cka": "No theory speaks for this rule's zero.",
    "snr": "The theory behind this is of contrastive learning; here it only ranks.",
    "gaussian": "Exact for linear students on Gaussian data.",
    "gaussian_own": "Exact for linear students on Gaussian data.",
    "trial": "A trained student gains another number; sign and order are what this is for.",
}


@dataclass(frozen=True)
class TeachersOptions:
    """Rank candidate teachers for a student, each with a verdict, before anything is trained."""

    rule: Rule | None = None
    """Another rule than the configuration's."""
    method: str | None = None
    """Another estimator of mutual information, for rule cch."""
    pairing: Literal["rows", "class"] | None = None
    """class: the class-conditional surrogate, where there are no pairs."""
    seed: int | None = None
    """Another split."""
    out: Path | None = None
    """Folder of the picture and the table; by default runs/teachers/NAME."""


def run(words: list[str]) -> int:
    """Run the command with these words after ``teachers``; returns the exit status."""
    if not words or words[0] in ("-h", "--help"):
        print(
            "usage: ucmkd teachers CONFIG [options]\n\n"
            f"CONFIG is a YAML file or one of: {', '.join(shipped_comparisons())}\n\n"
            "ucmkd teachers CONFIG --help lists the options."
        )
        return 0 if words else 2
    if words[0].startswith("-"):
        raise UsageError(f"the configuration comes first: ucmkd teachers CONFIG, got {words[0]!r}")
    config = load_comparison(find_comparison(words[0]))
    options = tyro.cli(TeachersOptions, args=words[1:], prog=f"ucmkd teachers {words[0]}")
    config = _changed(config, options)
    folder = options.out or Path("runs") / "teachers" / config.name
    make_folder(folder, "--out")
    console = Console(highlight=False)
    with console.status("reading the samples"):
        samples = read_samples(config)
    with console.status(f"asking rule {config.rule}"):
        ranking = compare_teachers(config, samples)
    _show(ranking, config, console)
    draw_ranking(ranking, folder / "teachers.png", title=config.name)
    write_atomically(folder / "teachers.csv", ranking_csv(ranking).encode())
    for note in samples.notes + ranking.notes:
        console.print(note, style="dim", markup=False)
    console.print(f"Picture and table: {folder}", markup=False)
    return 0


def _changed(config: TeachersConfig, options: TeachersOptions) -> TeachersConfig:
    names = ("rule", "method", "pairing", "seed")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if "rule" in given and given["rule"] != "cch" and "method" not in given:
        given["method"] = "auto"  # the configuration's was meant for its own rule
    return replace(config, **given)


def _show(ranking: TeacherRanking, config: TeachersConfig, console: Console) -> None:
    by = ranking.rule + (f" ({ranking.method})" if ranking.method else "")
    table = Table(title=f"{config.name}: teachers by rule {by}", title_justify="left")
    parted = not math.isnan(ranking.best.teacher)
    heads = ["", f"margin [{ranking.confidence:.0%} interval]"]
    heads += list(RULES[ranking.rule].parts) if parted else []
    for number, head in enumerate([*heads, "verdict"]):
        table.add_column(
            Text(head), justify="right" if 0 < number < len(heads) else "left", no_wrap=number > 0
        )
    for c in ranking.candidates:
        cells = [Text(c.name), Text(_interval(c))]
        cells += [Text(f"{c.teacher:.3f}"), Text(f"{c.student:.3f}")] if parted else []
        table.add_row(*cells, Text(c.verdict, STYLE[c.verdict]))
    console.print(table)
    console.print(f"Margin: {ranking.margin}. {CAVEAT[ranking.rule]}", style="dim", markup=False)
    console.print(
        f"{ranking.samples} samples, {ranking.labelled} of them labelled.", style="dim"
    )  # fmt: skip
    if ranking.pairing == "class" and ranking.rule != "accuracy":
        console.print(
            "Class-conditional surrogate: samples were paired by class alone, so that nothing "
            "beyond the class can be shared. It ranks, but cannot say that a teacher helps.",
            style="yellow", markup=False,
        )  # fmt: skip
    for c in ranking.candidates:
        for warning in c.warnings:
            console.print(f"{c.name}: {warning}", style="yellow", markup=False)


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _interval(c: Candidate) -> str:
    ends = "" if math.isnan(c.low) else f" [{_signed(c.low)}, {_signed(c.high)}]"
    return _signed(c.margin) + ends


def ranking_csv(ranking: TeacherRanking) -> str:
    """One line per candidate, full precision."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["teacher", "rule", "method", "pairing", "margin", "low", "high", "teacher_part",
         "student_part", "verdict"]
    )  # fmt: skip
    for c in ranking.candidates:
        writer.writerow(
            [c.name, ranking.rule, ranking.method or "", ranking.pairing,
             *(f"{v:.6g}" for v in (c.margin, c.low, c.high, c.teacher, c.student)), c.verdict]
        )  # fmt: skip
    return stream.getvalue()
