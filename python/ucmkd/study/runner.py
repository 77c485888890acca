"""A study from its plan to its results: explore, fix, run afresh; resumable at any moment."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from ucmkd.checkpoint import make_folder
from ucmkd.config import ConfigError
from ucmkd.preparation import prepare
from ucmkd.rehearsal import rehearse
from ucmkd.study.choice import Configurations
from ucmkd.study.config import StudyConfig
from ucmkd.study.job import failed, work
from ucmkd.study.plan import Job, Only, Run, exploration, fresh, jobs
from ucmkd.study.resolve import Resolved
from ucmkd.study.store import Results, Row
from ucmkd.study.workers import Workers
from ucmkd.tasks import task_of

Phases = Literal["explore", "fresh", "all"]


class Watcher(Protocol):
    """What is told how far the work is."""

    def start(self, phase: str, trainings: int, stored: int) -> None:
        """A phase begins; ``stored`` of its runs are known already."""

    def advance(self, trainings: int) -> None:
        """Some trainings are done."""


class Silent:
    """A watcher that looks away."""

    def start(self, phase: str, trainings: int, stored: int) -> None: ...

    def advance(self, trainings: int) -> None: ...


@dataclass
class StudyRun:
    """One attempt at a study.

    Attributes:
        study: What to run.
        folder: Where results lie.
        results: All that is known.
        configurations: What is fixed.
        failures: Runs of this attempt without a result, and why.
    """

    study: StudyConfig
    folder: Path
    results: Results
    configurations: Configurations
    failures: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def open(cls, study: StudyConfig, folder: Path) -> StudyRun:
        """Read what the folder holds.

        Raises:
            ConfigError: the folder cannot be made or written, or a file of it cannot be read.
        """
        make_folder(folder, "--out")
        return cls(study, folder, Results(folder), Configurations(study, folder))

    def rows(self) -> list[Row]:
        """The known results of the fresh phase, of all scenarios and methods."""
        runs = (
            run
            for scenario, method in Only().rows(self.study)
            for run in fresh(self.study, scenario, method, self.configurations.choices)
        )
        return [row for run in runs if (row := self.results.get(run)) is not None]

    def unexplored(self) -> list[tuple[str, str]]:
        """Scenarios and methods whose configuration is not fixed."""
        return [
            (scenario, method)
            for scenario, method in Only().rows(self.study)
            if self.study.methods[method].explored
            and (scenario, method) not in self.configurations.choices
        ]


def run_study(
    attempt: StudyRun,
    *,
    workers: int,
    phase: Phases = "all",
    only: Only | None = None,
    recompute: bool = False,
    watcher: Watcher | None = None,
) -> None:
    """Compute what is missing.

    Args:
        attempt: The study with what is known; its results and failures grow.
        workers: Processes, one thread each; 0 works in this one.
        phase: ``"explore"`` stops when the configurations are fixed, ``"fresh"`` takes them as
            fixed; ``"all"`` does both.
        only: The part to work on; None: everything.
        recompute: Do not use stored results.
        watcher: Told how far the work is.

    Raises:
        ConfigError: settings that do not fit the data, found before anything is trained.
    """
    study, rows = attempt.study, list((only or Only()).rows(attempt.study))
    watcher = watcher or Silent()
    choices = attempt.configurations.choices
    if phase != "fresh":
        explored = [row for row in rows if study.methods[row[1]].explored]
        if not recompute:  # a fixed configuration needs no runs
            explored = [row for row in explored if row not in choices]
        runs = [run for row in explored for run in exploration(study, *row)]
        _compute(attempt, "exploratory runs", runs, workers, recompute, watcher)
        for row in explored:
            if not attempt.configurations.fix(*row, attempt.results):
                name = f"{row[0]}, {row[1]}"
                attempt.failures.append((name, "no candidate has a result on every seed"))
    if phase != "explore":
        runs = [run for row in rows for run in fresh(study, *row, choices)]
        _compute(attempt, "fresh runs", runs, workers, recompute, watcher)


def _compute(
    attempt: StudyRun,
    title: str,
    runs: Sequence[Run],
    workers: int,
    recompute: bool,
    watcher: Watcher,
) -> None:
    missing = [run for run in runs if recompute or attempt.results.get(run) is None]
    if not missing:
        return
    _rehearse(missing, attempt.study.task)
    watcher.start(title, sum(len(r.candidates) for r in missing), len(runs) - len(missing))
    todo = jobs(missing, attempt.study.task)
    open_runs = [{run.key: run for run in job.runs} for job in todo]

    def keep(run: Run, row: Row) -> None:
        attempt.results.add(run, row)
        if "error" in row:
            attempt.failures.append((str(run), row["error"]))
        watcher.advance(len(run.candidates))

    with Workers[Job](work, min(workers, len(todo))) as pool:
        for message in pool.run(todo):
            waiting = open_runs[message.task]
            if message.value is not None:
                keep(waiting.pop(message.value["key"]), message.value)
            elif message.error is not None:
                for run in waiting.values():
                    keep(run, failed(run, message.error))


def _rehearse(runs: Sequence[Run], task: str | None) -> None:
    """Build each configuration once on its data: mistakes show, and data are fetched, once."""
    if task is not None:
        task_of(task).fetch()
        return
    seen: set[tuple[str, str]] = set()
    prepared = {}
    for run in runs:
        for configuration in run.configurations:
            assert isinstance(configuration, Resolved)
            recipe = configuration.recipe
            if (run.scenario, configuration.digest) in seen:
                continue
            seen.add((run.scenario, configuration.digest))
            try:
                if recipe.data not in prepared:
                    prepared[recipe.data] = prepare(recipe.data, run.seed)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    rehearse(configuration.with_seed(run.seed), prepared[recipe.data])
            except ConfigError as error:
                raise ConfigError(f"{run}: {error}") from None
