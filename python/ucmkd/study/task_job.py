"""The runs of one seed of a study with a task; what they share is kept by the task's module."""

from __future__ import annotations

import time
from typing import Any

from ucmkd.study.plan import Run
from ucmkd.study.provenance import provenance
from ucmkd.study.resolve_task import ResolvedTask
from ucmkd.tasks import Outcome, task_of


class TaskBench:
    """Trains by a task as :class:`ucmkd.study.job.Bench` does by recipes.

    Args:
        task: Its name.
        seed: Of split, initialisation and batches.
    """

    def __init__(self, task: str, seed: int) -> None:
        self.task = task_of(task)
        self.seed = seed

    def run(self, run: Run) -> dict[str, Any]:
        """Train a run's candidates, keep the best by validation, and test that one.

        An exploratory run is not tested at all.
        """
        resolved = [item for item in run.configurations if isinstance(item, ResolvedTask)]
        compares = run.phase == "explore" or len(resolved) > 1
        began = time.process_time()
        seconds, scores = 0.0, []
        best: tuple[float, int, Outcome] | None = None
        for number, item in enumerate(resolved):
            case = item.case(self.seed)
            self.task.prepare(case)
            started = time.perf_counter()
            outcome = self.task.run(case)
            seconds += time.perf_counter() - started
            score = 0.0
            if compares:
                assert outcome.validation is not None  # resolving has seen to it
                score = outcome.validation()
                scores.append(score)
            if best is None or score > best[0]:
                best = score, number, outcome
        assert best is not None
        score, number, outcome = best
        measured = outcome.test() if run.phase == "fresh" else {}
        return {
            "candidate": run.candidates[number],
            "choice": resolved[number].overrides,
            "candidate_scores": scores,
            **measured,
            "validation_score": score if compares else None,
            "train_size": outcome.train_size,
            "test_size": outcome.test_size,
            "seconds": round(seconds, 3),
            # All of it, and what this run was the first to need.
            "processor_seconds": round(time.process_time() - began, 3),
            **provenance(),
            "recipe": resolved[number].digest,
        }
