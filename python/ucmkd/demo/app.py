"""The demo as a program: options in, tables, pictures and sentences out."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from ucmkd.checkpoint import make_folder
from ucmkd.data import FetchError
from ucmkd.demo.figures import draw
from ucmkd.demo.findings import findings
from ucmkd.demo.numbers import Outcome
from ucmkd.demo.problems import BUNDLED, Problem, Split, load_problem, make_split
from ucmkd.demo.runner import Runner
from ucmkd.demo.scenes import SCENES, Scene
from ucmkd.demo.store import Store
from ucmkd.demo.tables import control_table, pair_table, recall_table, score_table


@dataclass(frozen=True)
class DemoOptions:
    """What unpaired distillation brings, in three scenes on real data, each with its controls."""

    scene: Literal[1, 2, 3] | None = None
    """Show one scene only."""
    splits: Annotated[int, tyro.conf.arg(metavar="N")] = 10
    """Number of random splits; at least 2."""
    out: Path = Path("runs/demo")
    """Folder for the results and the pictures."""
    workers: int | None = None
    """Processes, one thread each; by default one per processor."""
    steps: int = 300
    """Optimiser steps of every training; at least 25."""
    fresh: bool = False
    """Compute everything anew instead of going on from stored results."""
    offline: bool = False
    """Use scikit-learn's bundled digits; fetch nothing."""

    def __post_init__(self) -> None:
        if self.splits < 2:
            raise ValueError(f"splits must be at least 2 (for an interval), got {self.splits}")
        if self.steps < 25:
            raise ValueError(f"steps must be at least 25, got {self.steps}")
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers must not be negative, got {self.workers}")


def main(words: Sequence[str] | None = None) -> int:
    """``ucmkd demo``.

    Args:
        words: The command line after ``demo``; None takes it from ``sys.argv``.

    Returns:
        The exit code.
    """
    return run(tyro.cli(DemoOptions, args=words, prog="ucmkd demo"))


def run(options: DemoOptions, console: Console | None = None) -> int:
    """Run and show the demo.

    Args:
        options: What to run.
        console: Where to write; None: standard output.

    Returns:
        The exit code: 0, or 130 when interrupted.

    Raises:
        ucmkd.config.ConfigError: ``out`` cannot be made or written.
    """
    console = console or Console(highlight=False)
    started = time.perf_counter()
    make_folder(options.out, "--out")
    scenes = [s for s in SCENES if options.scene in (None, s.number)]
    store = Store(options.out / "results.jsonl", fresh=options.fresh)
    workers = os.cpu_count() or 1 if options.workers is None else options.workers
    problems: dict[str, Problem] = {}
    try:
        with Runner(store, workers=workers, steps=options.steps) as runner:
            for scene in scenes:
                if scene.problem not in problems:
                    problems[scene.problem] = _problem(scene.problem, options, console)
                _show(scene, problems[scene.problem], runner, options, console)
    except KeyboardInterrupt:
        console.print(
            f"\nInterrupted. {len(store.results)} results are kept in {store.path}; the same "
            "command goes on from there."
        )
        return 130
    console.print(
        f"\nResults: {store.path}. Pictures: {options.out}/scene*.png. "
        f"{_minutes(time.perf_counter() - started)} in all."
    )
    return 0


def _show(
    scene: Scene, problem: Problem, runner: Runner, options: DemoOptions, console: Console
) -> None:
    console.print()
    console.rule(f"[bold]Scene {scene.number}: {scene.title}", align="left")
    console.print(f"[italic]{scene.story}")
    split = make_split(problem, 0)
    console.print(f"{_setting(problem, split)} {scene.setting}", style="dim")

    total = len(scene.rows) * options.splits
    stored = runner.stored(problem, scene.rows, options.splits)
    if stored:
        console.print(
            f"{stored} of {total} results are known already, from an earlier scene or run "
            "(same version, code and settings); --fresh computes them anew.",
            style="yellow",
        )
    started = time.perf_counter()
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(),
        TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("training and testing", total=total, completed=stored)
        results = runner.run(
            problem, scene.rows, options.splits, progress=lambda n: progress.advance(task, n)
        )
    seconds = time.perf_counter() - started

    outcome = Outcome(results, problem.student.class_names, split.train_size, split.test_size)
    teacher = outcome.interval("teacher", "accuracy")
    console.print(
        f"The teacher itself, on samples it was not trained on: {teacher.mean:.1f} ± "
        f"{teacher.half_width:.1f} % accuracy."
    )
    console.print()
    if scene.number == 2:
        console.print(pair_table(outcome, "accuracy"))
        console.print(pair_table(outcome, "balanced_accuracy"))
        kept = {"ce", "kd@20", "kd@all", "joint", "joint@20", "joint@all", "all_labels"}
        console.print(recall_table(outcome, [row for row in scene.rows if row.key in kept]))
    else:
        console.print(score_table(outcome, scene.rows))
        console.print(control_table(outcome, scene.rows))
        console.print(recall_table(outcome, scene.rows))
    for sentence in findings(scene, outcome):
        console.print(Padding(Text(f"▶ {sentence}"), (0, 0, 0, 2)))
    picture = options.out / f"scene{scene.number}.png"
    draw(scene, outcome, picture)
    console.print(f"Picture: {picture} ({_minutes(seconds)})", style="dim")


def _setting(problem: Problem, split: Split) -> str:
    how = (
        f"{problem.labels_per_class} per class"
        if problem.labels_per_class is not None
        else "from 50 to 1 per class"
    )
    return (
        f"{problem.title}. {len(split.teacher[1])} samples for the teacher; for the student "
        f"{len(split.labelled[1])} labels ({how}), {len(split.unlabelled[1])} unlabelled samples, "
        f"{len(split.validation[1])} that choose the model and {split.test_size} for the one test."
    )


def _problem(key: str, options: DemoOptions, console: Console) -> Problem:
    """The data of a problem, or of its bundled stand-in."""
    if options.offline:
        console.print(
            "Offline: scikit-learn's bundled digits stand in for the real problem.", style="yellow"
        )
        return load_problem(BUNDLED[key])
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("reading data", total=None)
            return load_problem(
                key,
                lambda stage, done, total: progress.update(
                    task, description=stage, completed=done, total=total or None
                ),
            )
    except FetchError as error:
        console.print(
            f"The data cannot be fetched ({error}). scikit-learn's bundled digits stand in: the "
            "same questions on another, easier problem; the figures do not compare.",
            style="yellow",
        )
        return load_problem(BUNDLED[key])


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} minutes"
