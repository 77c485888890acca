"""``ucmkd compare``: a study run, or gone on with, and shown."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ._usage import UsageError
from .config import nearest
from .recipe_file import shipped_recipes
from .study.config import StudyConfig
from .study.plan import Only
from .study.reader import find_study, load_study, shipped_studies
from .study.render import terminal
from .study.report import notes, write_report
from .study.runner import Phases, StudyRun, run_study
from .study.tables import all_tables


@dataclass(frozen=True)
class CompareOptions:
    """Compare methods × scenarios × seeds, with controls; the same command goes on after a stop."""

    out: Path | None = None
    """Folder of the study; by default runs/compare/NAME."""
    workers: int | None = None
    """Processes, one thread each; by default one per processor."""
    only_scenario: tuple[str, ...] = ()
    """Work on these scenarios only."""
    only_method: tuple[str, ...] = ()
    """Work on these methods only."""
    phase: Phases = "all"
    """explore: fix the configurations; fresh: run with fixed ones; all: both."""
    summary_only: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Train nothing, show what is known."""
    recompute: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Compute anew instead of using stored results."""
    methods: str | None = None
    """For a recipe: the methods to compare, a,b,c; differences are taken from the first."""
    seeds: int | None = None
    """For a recipe: number of seeds; by default 10."""


def run(words: list[str]) -> int:
    """Run the command with these words after ``compare``; returns the exit status."""
    if not words or words[0] in ("-h", "--help"):
        print(
            "usage: ucmkd compare STUDY [options]\n"
            "       ucmkd compare RECIPE --methods a,b,c [--seeds 10] [options]\n\n"
            f"STUDY is a YAML file or one of: {', '.join(shipped_studies())}\n"
            f"RECIPE is a YAML file or one of: {', '.join(shipped_recipes())}\n\n"
            "ucmkd compare STUDY --help lists the options."
        )
        return 0 if words else 2
    if words[0].startswith("-"):
        raise UsageError(f"the study comes first: ucmkd compare STUDY, got {words[0]!r}")
    path = find_study(words[0])
    options = tyro.cli(CompareOptions, args=words[1:], prog=f"ucmkd compare {words[0]}")
    if options.workers is not None and options.workers < 0:
        raise UsageError(f"--workers must be 0 or more, got {options.workers}")
    named = tuple(part.strip() for part in (options.methods or "").split(",") if part.strip())
    study = load_study(path, methods=named, seeds=options.seeds)
    return _compare(study, options, Console(highlight=False))


def _compare(study: StudyConfig, options: CompareOptions, console: Console) -> int:
    _check_names("--only-scenario", options.only_scenario, tuple(study.scenarios))
    _check_names("--only-method", options.only_method, tuple(study.methods))
    folder = options.out or Path("runs") / "compare" / study.name
    attempt = StudyRun.open(study, folder)
    started = time.perf_counter()
    try:
        if not options.summary_only:
            with _Progress(console) as progress:
                run_study(
                    attempt,
                    workers=(os.cpu_count() or 1) if options.workers is None else options.workers,
                    phase=options.phase,
                    only=Only(options.only_scenario, options.only_method),
                    recompute=options.recompute,
                    watcher=progress,
                )
        _show(attempt, options, console)
    except KeyboardInterrupt:
        console.print(
            f"\nInterrupted. {len(attempt.results)} results are kept in {attempt.results.path}; "
            "the same command goes on from there.",
            markup=False,
        )
        return 130
    if not options.summary_only:
        console.print(f"{time.perf_counter() - started:.0f} s in all.", style="dim")
    for name, error in attempt.failures:
        console.print(f"failed: {name}: {error}", style="red", markup=False)
    return 1 if attempt.failures else 0


def _check_names(option: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(
                f"{option}: unknown {name!r}{nearest(name, known)} (known: {', '.join(known)})"
            )


def _show(attempt: StudyRun, options: CompareOptions, console: Console) -> None:
    for scenario, method in attempt.configurations.choices:
        entry = attempt.configurations.entries[scenario][method]
        settings = ", ".join(f"{key} {value}" for key, value in entry["settings"].items())
        console.print(f"{scenario}, {method}: {settings or 'as it is'}", style="dim", markup=False)
    if options.phase == "explore":
        console.print(f"Configurations: {attempt.configurations.path}", markup=False)
        return
    summaries = write_report(attempt)
    for table in all_tables(summaries):
        console.print(terminal(table.within(console.width)))
    for note in notes(attempt):
        console.print(note, style="yellow", markup=False)
    if summaries:
        console.print(f"Report: {attempt.folder / 'report.html'}", markup=False)
    else:
        console.print("There are no results yet.")


class _Progress:
    """A rich progress bar over trainings, with the time that is left."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            console=console, transient=True, disable=not console.is_terminal,
            # Trainings take seconds to minutes, so the speed needs a long memory.
            speed_estimate_period=1800,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=None, visible=False)

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def start(self, phase: str, trainings: int, stored: int) -> None:
        known = f", {stored} results are known already" if stored else ""
        self.console.print(f"{phase}: {trainings} trainings{known}", style="dim", markup=False)
        self._bar.update(self._task, visible=False)
        self._task = self._bar.add_task(phase, total=trainings)

    def advance(self, trainings: int) -> None:
        self._bar.advance(self._task, trainings)
