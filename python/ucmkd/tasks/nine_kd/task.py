"""One training of the study of nine methods, and what it measures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from ucmkd.config_errors import require
from ucmkd.tasks.base import SECONDS, Case, Measure, Outcome, Shown, Task
from ucmkd.tasks.nine_kd.descent import descend
from ucmkd.tasks.nine_kd.learners import METHODS
from ucmkd.tasks.nine_kd.problem import (
    CONDITIONS,
    Problem,
    Taught,
    accuracy,
    digits,
    make_problem,
    renamed,
    train_teacher,
)

RATE = 1e-2


@dataclass(frozen=True)
class NineKDSettings:
    """What a study may set."""

    condition: str = "clean"
    """Of the training labels: ``clean``, ``noise`` or ``imbalance``."""
    factor: float = 1.0
    """Of the published weight."""
    steps: int = 400
    teacher_steps: int = 400

    def __post_init__(self) -> None:
        known = ", ".join(CONDITIONS)
        require(self.condition in CONDITIONS, "condition", self.condition, f"one of {known}")
        require(0 < self.factor < float("inf"), "factor", self.factor, "a positive number")
        for name in ("steps", "teacher_steps"):
            require(getattr(self, name) > 0, name, getattr(self, name), "a positive integer")


@lru_cache(maxsize=1)
def problem_of(condition: str, seed: int) -> Problem:
    """The images and labels that all rows of a scenario and seed share."""
    return make_problem(condition, seed)


@lru_cache(maxsize=3)
def taught_by(control: str | None, condition: str, seed: int, steps: int) -> Taught:
    """The teacher, or what stands in its place."""
    problem = problem_of(condition, seed)
    if control == "placebo":
        return renamed(taught_by(None, condition, seed, steps), seed)
    return train_teacher(problem, seed, 0 if control == "untrained" else steps)


def _teacher(case: Case) -> Taught:
    s: NineKDSettings = case.settings
    return taught_by(case.control, s.condition, case.seed, s.teacher_steps)


def run(case: Case) -> Outcome:
    """Train once."""
    settings: NineKDSettings = case.settings
    problem, taught = problem_of(settings.condition, case.seed), _teacher(case)
    method = METHODS[case.method]
    torch.manual_seed(case.seed)
    learner = method.make(problem, taught, settings.factor * method.weight)
    parameters = [p for module in learner.trained for p in module.parameters()]
    descend(
        parameters, learner.loss, problem.train, seed=case.seed, steps=settings.steps, rate=RATE
    )

    def test() -> dict[str, Any]:
        source = learner.source or (taught.net if method.asks else None)
        return {
            "accuracy": accuracy(learner.deployed, problem, problem.test),
            "source_accuracy": source and accuracy(source, problem, problem.test),
            "factor": settings.factor if method.weight else None,
        }

    return Outcome(
        test, problem.outside, len(problem.test),
        lambda: accuracy(learner.deployed, problem, problem.validation),
    )  # fmt: skip


TASK = Task(
    settings=NineKDSettings,
    rows={name: method.controls for name, method in METHODS.items()},
    run=run,
    fetch=digits,
    prepare=_teacher,
    shown=Shown(
        measures=(
            Measure("accuracy", "accuracy", "test accuracy, %"),
            Measure("source_accuracy", "learned from", tested=False),
            Measure("factor", "weight", scale=1.0, form=".3g", tested=False),
            SECONDS,
        ),
        caption="Test accuracy in percent",
        columns="Learned from: the test accuracy of the teacher, for DML of the other student, for "
        "ONE of the gated ensemble. Weight: times the published one. Seconds: of the training.",
        unit="Percentage points",
        meaning={
            "placebo": "the teacher's classes are permuted",
            "untrained": "the teacher has its random initial weights",
        },
    ),
)
