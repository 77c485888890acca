"""Runs the missing results of a scene in a pool of processes, one thread each."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from typing import Any

from ucmkd.demo.experiment import Base, Experiment, Record, Row
from ucmkd.demo.problems import Problem, Split, make_split
from ucmkd.demo.store import Store, result_key
from ucmkd.study.workers import follow_parent, one_thread

Results = dict[str, list[Record]]
"""For each row (and "teacher") one record per split, in the order of the splits."""


def _ready() -> None:
    """Runs in a worker to have everything imported while the parent reads the data."""


def _run(split: Split, rows: list[Row], steps: int, base: Base | None) -> list[Record]:
    with one_thread():
        return Experiment(split, steps=steps, base=base).run(rows)


class Runner:
    """A pool of workers and the store of their results; a context manager.

    Args:
        store: Where results are kept.
        workers: Number of processes; 0 runs in this one.
        steps: Optimiser steps of every training.
    """

    def __init__(self, store: Store, *, workers: int, steps: int) -> None:
        self.store = store
        self.steps = steps
        self.pool: ProcessPoolExecutor | None = None
        if workers > 0:
            # A forked torch may hang; a spawned one starts clean.
            self.pool = ProcessPoolExecutor(
                workers, multiprocessing.get_context("spawn"), initializer=follow_parent
            )
            for _ in range(workers):
                self.pool.submit(_ready)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self.pool is None:
            return
        if kind is not None:
            for process in list((self.pool._processes or {}).values()):
                process.terminate()  # results in the making are not worth waiting for
        self.pool.shutdown(wait=kind is None, cancel_futures=True)

    def key(self, problem: Problem, row: str | Row, split: int) -> str:
        """The key of one result."""
        settings = "teacher" if isinstance(row, str) else row.settings()
        return result_key({**problem.settings(), "row": settings, "steps": self.steps}, split)

    def stored(self, problem: Problem, rows: Sequence[Row], splits: int) -> int:
        """How many of the results are there already."""
        return sum(self.key(problem, r, s) in self.store for r in rows for s in range(splits))

    def run(
        self,
        problem: Problem,
        rows: Sequence[Row],
        splits: int,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> Results:
        """All results of ``rows`` on the splits 0 … ``splits - 1``, computing what is missing.

        Args:
            problem: The data.
            rows: What to train.
            splits: Number of splits.
            progress: Called with the number of results each time some arrive.
        """
        named = {row.key: row for row in rows}

        def keep(number: int, records: list[Record]) -> None:
            for record in records:
                name: str = record["row"]
                self.store.add(self.key(problem, named.get(name, name), number), record)
            if progress is not None:
                progress(sum(record["row"] in named for record in records))

        waiting: dict[Future[list[Record]], int] = {}
        for number in range(splits):
            missing = [r for r in rows if self.key(problem, r, number) not in self.store]
            if not missing and self.key(problem, "teacher", number) in self.store:
                continue
            task = (make_split(problem, number), missing, self.steps, self._base(problem, number))
            if self.pool is None:
                keep(number, _run(*task))
            else:
                waiting[self.pool.submit(_run, *task)] = number
        for future in as_completed(waiting):
            keep(waiting[future], future.result())

        def collect(row: str | Row) -> list[dict[str, Any]]:
            return [self.store[self.key(problem, row, number)] for number in range(splits)]

        return {"teacher": collect("teacher"), **{row.key: collect(row) for row in rows}}

    def _base(self, problem: Problem, number: int) -> Base | None:
        """The tuned setting, where cross-entropy's result is stored."""
        from ucmkd.demo.scenes import CE

        key = self.key(problem, CE, number)
        return Base(**self.store[key]["base"]) if key in self.store else None
