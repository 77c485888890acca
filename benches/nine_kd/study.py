"""The grid of trainings, its table of lines, and the choice of each method's weight."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from benches.nine_kd.learners import METHODS
from benches.nine_kd.problem import (
    CONDITIONS,
    Problem,
    Taught,
    accuracy,
    make_problem,
    train_teacher,
)
from benches.nine_kd.training import descend

SEEDS = tuple(range(10))
#: Where validation accuracy chooses the weights for all conditions; its test set is not looked at.
TUNED_ON, TUNING = "clean", (100,)
STEPS, TEACHER_STEPS, RATE = 400, 400, 1e-2

KEY = ("part", "condition", "method", "factor", "seed", "steps")
COLUMNS = (
    *KEY, "validation", "test", "source_test", "train_size", "test_size", "seconds",
)  # fmt: skip
Row = dict[str, str]


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        part: ``"tuning"`` or ``"final"``.
        condition: Of the labels.
        method: A key of ``METHODS``.
        factor: Of the published weight.
        seed: Of split, spoiled labels, first weights and batches.
        steps: Of the student.
    """

    part: str
    condition: str
    method: str
    factor: float
    seed: int
    steps: int = STEPS

    @property
    def key(self) -> tuple[str, ...]:
        return (
            self.part, self.condition, self.method, f"{self.factor:g}", str(self.seed),
            str(self.steps),
        )  # fmt: skip


def tuning_runs(steps: int = STEPS, seeds: Iterable[int] = TUNING) -> list[Run]:
    """Every factor of every method that has several."""
    return [
        Run("tuning", TUNED_ON, name, factor, seed, steps)
        for seed in seeds
        for name, method in METHODS.items() if len(method.factors) > 1
        for factor in method.factors
    ]  # fmt: skip


def chosen(rows: Sequence[Row], steps: int = STEPS) -> dict[str, float]:
    """For each method the factor of best mean validation accuracy, the smaller of equal ones.

    Raises:
        ValueError: A factor has not been tried.
    """
    found: dict[str, float] = {}
    for name, method in METHODS.items():
        score = {}
        for factor in method.factors if len(method.factors) > 1 else ():
            values = [
                float(row["validation"]) for row in rows
                if (row["part"], row["condition"], row["method"], row["factor"], row["steps"])
                == ("tuning", TUNED_ON, name, f"{factor:g}", str(steps))
            ]  # fmt: skip
            if not values:
                raise ValueError(f"{name}: factor {factor:g} has not been tried")
            score[factor] = float(np.mean(values))
        found[name] = max(score, key=lambda f: (score[f], -f), default=1.0)
    return found


def final_runs(
    factors: dict[str, float], seeds: Iterable[int] = SEEDS, steps: int = STEPS
) -> list[Run]:
    """Every method at its chosen factor, seed by seed."""
    return [
        Run("final", condition, name, factors[name], seed, steps)
        for seed in seeds for condition in CONDITIONS for name in METHODS
    ]  # fmt: skip


@lru_cache(maxsize=1)
def _prepared(condition: str, seed: int, teacher_steps: int) -> tuple[Problem, Taught]:
    problem = make_problem(condition, seed)
    return problem, train_teacher(problem, seed, teacher_steps)


def measure(run: Run) -> Row:
    """Train once; a line of the table."""
    problem, taught = _prepared(run.condition, run.seed, TEACHER_STEPS)
    start = time.monotonic()
    method = METHODS[run.method]
    torch.manual_seed(run.seed)
    learner = method.make(problem, taught, run.factor * method.weight)
    parameters = [p for module in learner.trained for p in module.parameters()]
    descend(parameters, learner.loss, problem.train, seed=run.seed, steps=run.steps, rate=RATE)
    seconds = time.monotonic() - start
    values = {"validation": f"{accuracy(learner.deployed, problem, problem.validation):.3f}"}
    if run.part == "final":
        source = learner.source or (None if run.method in ("ce", "smoothing") else taught.net)
        values["test"] = f"{accuracy(learner.deployed, problem, problem.test):.3f}"
        if source is not None:
            values["source_test"] = f"{accuracy(source, problem, problem.test):.3f}"
    sizes = {"train_size": str(problem.outside), "test_size": str(len(problem.test))}
    key = dict(zip(KEY, run.key, strict=True))
    return {**key, **values, **sizes, "seconds": f"{seconds:.2f}"}


def read(path: Path) -> list[Row]:
    """The lines so far; one that a kill cut short is left out."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [row for row in csv.DictReader(stream) if row.get("seconds")]


def execute(runs: Sequence[Run], path: Path) -> list[Row]:
    """Train what the table lacks, which grows line by line; returns it all."""
    done = read(path)
    known = {tuple(row[name] for name in KEY) for row in done}
    left = [run for run in runs if run.key not in known]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(done)
        stream.flush()
        for run in _shown(left):
            table.writerow(measure(run))
            stream.flush()
    return read(path)


def _shown(runs: Sequence[Run]) -> Iterator[Run]:
    """The runs, with how many are over and how long the rest takes."""
    began, live = time.monotonic(), sys.stdout.isatty()
    for number, run in enumerate(runs):
        rest = (time.monotonic() - began) / max(number, 1) * (len(runs) - number)
        text = f"{number + 1}/{len(runs)}  {' | '.join(run.key[:5])}  {rest:.0f} s left"
        print(f"\r\033[K{text}" if live else text, end="" if live else "\n", flush=True)
        yield run
    if live and runs:
        print()
