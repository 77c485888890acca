"""``python -m benches.teachers``: train, ask, compare; the same command goes on after a stop."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benches.teachers.gains import train
from benches.teachers.margins import answer, margins, missing
from benches.teachers.problems import EXPLORATORY, PROBLEMS, SEEDS
from benches.teachers.report import write_report
from ucmkd.study.jsonl import read_lines
from ucmkd.study.store import Results

DEFAULT = tuple(name for name in PROBLEMS if name != "speech")


def main(words: list[str]) -> int:
    """Run the study; returns the exit status."""
    options = _parser().parse_args(words)
    console, started = Console(highlight=False), time.perf_counter()
    problems = [PROBLEMS[name] for name in options.only]
    seeds = EXPLORATORY if options.exploratory else SEEDS[: options.seeds]
    work: Path = options.work
    runs = [run for p in problems for run in p.runs(seeds, tuple(options.methods))]
    failures = []
    try:
        if not options.summary_only:
            failures = _train(runs, work, options.workers, console)
            asks = missing(problems, seeds, read_lines(work / "margins.jsonl"), options.ask_anew)
            failures += _ask(asks, work / "margins.jsonl", options.workers, console)
    except KeyboardInterrupt:
        console.print(f"\nInterrupted; the same command goes on from what is in {work}.")
        return 130
    results = Results(work)
    rows = [row for run in (r for p in PROBLEMS.values() for r in p.runs(seeds))
            if (row := results.get(run)) is not None]  # fmt: skip
    asked = [row for row in margins(work / "margins.jsonl") if row["seed"] in seeds]
    if rows and asked:
        options.out.mkdir(parents=True, exist_ok=True)
        text = write_report(rows, asked, options.out)
        console.print(text.split("## Gains")[0], markup=False)
        console.print(f"Written: {options.out}", markup=False)
    for failure in failures:
        console.print(f"failed: {failure}", style="red", markup=False)
    console.print(f"{time.perf_counter() - started:.0f} s in all.", style="dim")
    return 1 if failures else 0


def _train(runs: list, folder: Path, workers: int, console: Console) -> list[str]:  # type: ignore[type-arg]
    results, failures = Results(folder), list[str]()
    left = sum(results.get(run) is None for run in runs)
    with _bar(console) as bar:
        task = bar.add_task("trainings", total=left)

        def advance(row: dict[str, object]) -> None:
            bar.advance(task)
            if "error" in row:
                failures.append(f"{row['key']}: {row['error']}")

        train(runs, folder, workers=workers, advance=advance)
    console.print(f"{left} trainings, {len(runs) - left} were known", style="dim")
    return failures


def _ask(asks: list, path: Path, workers: int, console: Console) -> list[str]:  # type: ignore[type-arg]
    with _bar(console) as bar:
        task = bar.add_task("questions", total=len(asks))
        failures = answer(asks, path, workers=workers, advance=lambda n: bar.advance(task, n))
    console.print(f"{len(asks)} questions (students × seeds)", style="dim")
    return failures


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
        TextColumn("left"), TimeRemainingColumn(), console=console, transient=True,
        disable=not console.is_terminal, speed_estimate_period=600,
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benches.teachers", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PROBLEMS, default=DEFAULT,
                        help="problems; speech needs UCMKD_DATA")  # fmt: skip
    parser.add_argument("--methods", nargs="*", default=[], help="rows of trainings; default: all")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many, at most 10")
    parser.add_argument("--exploratory", action="store_true", help="the seeds rules came from")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--ask-anew", action="store_true", help="discard answers of other code")
    parser.add_argument("--summary-only", action="store_true", help="only write what is known")
    parser.add_argument("--work", type=Path, default=Path("runs/teachers-study"))
    parser.add_argument("--out", type=Path, default=Path("docs/teachers"))
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
