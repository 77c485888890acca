"""Which runs a study has, and by what each finds its result again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ucmkd
from ucmkd.study.config import StudyConfig
from ucmkd.study.controls import Control
from ucmkd.study.resolve import Resolved, configuration
from ucmkd.study.resolve_task import ResolvedTask
from ucmkd.tasks import task_of

Phase = Literal["explore", "fresh"]
Choices = dict[tuple[str, str], int]
"""(scenario, method) to the number of its fixed candidate."""


@dataclass(frozen=True)
class Run:
    """One row of the results.

    Attributes:
        scenario, method, control, seed, phase: Which row.
        candidates: Numbers of the candidates it trains; several only where each run chooses.
        configurations: One for each of them.
    """

    scenario: str
    method: str
    control: Control | None
    seed: int
    phase: Phase
    candidates: tuple[int, ...]
    configurations: tuple[Resolved | ResolvedTask, ...]

    @property
    def task(self) -> str | None:
        """The study's."""
        first = self.configurations[0]
        return first.task if isinstance(first, ResolvedTask) else None

    @property
    def key(self) -> str:
        """Row and settings, for people to read; other settings or versions are other keys."""
        row = f"{self.method}-{self.control}" if self.control else self.method
        if self.phase == "explore":
            row += f"-{self.candidates[0]}"
        digest = digest_of([item.digest for item in self.configurations])
        return f"{self.scenario}/{row}/{self.phase}/{self.seed}/{digest}"

    def head(self) -> dict[str, Any]:
        """The part of its result that is known beforehand."""
        return {
            "key": self.key,
            "scenario": self.scenario,
            "method": self.method,
            "control": self.control,
            "seed": self.seed,
            "phase": self.phase,
        }

    def __str__(self) -> str:
        row = f"{self.method} ({self.control})" if self.control else self.method
        candidate = f", candidate {self.candidates[0]}" if self.phase == "explore" else ""
        return f"{self.scenario}, {row}{candidate}, {self.phase} seed {self.seed}"


@dataclass(frozen=True)
class Job:
    """The runs of one scenario and seed, which share data and teachers.

    Attributes:
        scenario, seed: Which; where a task takes whole seeds, the first of several scenarios.
        runs: What to train.
        task: The study's.
    """

    scenario: str
    seed: int
    runs: tuple[Run, ...]
    task: str | None = None


@dataclass(frozen=True)
class Only:
    """The part of a study to work on; empty is everything."""

    scenarios: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()

    def rows(self, study: StudyConfig) -> Iterator[tuple[str, str]]:
        """Its scenarios and methods."""
        for scenario in study.scenarios:
            for method in study.methods_of(scenario):
                if self.scenarios and scenario not in self.scenarios:
                    continue
                if not self.methods or method in self.methods:
                    yield scenario, method


def digest_of(settings: Any) -> str:
    """Sixteen hexadecimal digits of plain values and the package's version."""
    text = json.dumps([ucmkd.__version__, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def exploration(study: StudyConfig, scenario: str, method: str) -> list[Run]:
    """Every candidate on every exploratory seed."""
    count = len(study.methods[method].options)
    configurations = [configuration(study, scenario, method, k) for k in range(count)]
    return [
        Run(scenario, method, None, seed, "explore", (number,), (found,))
        for seed in study.seeds.explore
        for number, found in enumerate(configurations)
    ]


def fresh(study: StudyConfig, scenario: str, method: str, choices: Choices) -> list[Run]:
    """The runs that count, with their controls; none while the configuration is not fixed.

    A control has the configuration of its method; where every run chooses, it chooses likewise.
    """
    entry = study.methods[method]
    if entry.explored:
        if (scenario, method) not in choices:
            return []
        numbers: tuple[int, ...] = (choices[scenario, method],)
    else:
        numbers = tuple(range(len(entry.options)))
    found = []
    for control in (None, *entry.controls):
        resolved = tuple(configuration(study, scenario, method, n, control) for n in numbers)
        for seed in study.seeds.fresh:
            found.append(Run(scenario, method, control, seed, "fresh", numbers, resolved))
    return found


def jobs(runs: Sequence[Run], task: str | None = None) -> list[Job]:
    """The runs by scenario and seed, those of one seed together so that pairs complete early."""
    whole = task is not None and task_of(task).whole_seeds
    groups: dict[tuple[int, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.seed, "" if whole else run.scenario), []).append(run)
    return [Job(part[0].scenario, seed, tuple(part), task) for (seed, _), part in groups.items()]
