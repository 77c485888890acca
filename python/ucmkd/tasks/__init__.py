"""The kinds of jobs that ``ucmkd compare`` can make a study of.

A study file without ``task`` is of classifiers that :mod:`ucmkd.trainer` trains, described by the
sections of a recipe. ``task: hashing`` and the like name a system with a trainer of its own: its
rows and settings are those of the module here, everything else (seeds, candidates, controls,
workers, what is kept, tests, tables) is the same.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module

from ucmkd.tasks.base import SECONDS, Case, Measure, Outcome, Shown, Task

TASKS = ("hashing", "skeletons", "language", "coherence", "nine_kd")
"""Names that ``task`` may have in a study file."""


@lru_cache
def task_of(name: str) -> Task:
    """The task of a name among :data:`TASKS`."""
    found: Task = import_module(f"ucmkd.tasks.{name}").TASK
    return found


__all__ = ["SECONDS", "TASKS", "Case", "Measure", "Outcome", "Shown", "Task", "task_of"]
