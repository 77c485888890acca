"""What distillation really brings: every training of a problem, resumable, in worker processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ucmkd.study.job import failed, work
from ucmkd.study.plan import Job, Run
from ucmkd.study.store import Results
from ucmkd.study.workers import Workers


def train(
    runs: list[Run], folder: Path, *, workers: int, advance: Callable[[dict[str, object]], None]
) -> Results:
    """Train what has no result yet.

    Args:
        runs: Of any problems and seeds.
        folder: With ``results.jsonl``, which grows row by row.
        workers: Processes, one thread each; 0 works in this one.
        advance: Called with every new row.
    """
    results = Results(folder)
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        if results.get(run) is None:
            groups.setdefault((run.scenario.split("/")[0], run.seed), []).append(run)
    groups = dict(sorted(groups.items(), key=lambda item: item[0][1]))  # whole seeds early
    todo = [Job(problem, seed, tuple(part)) for (problem, seed), part in groups.items()]
    waiting = [{run.key: run for run in job.runs} for job in todo]
    with Workers[Job](work, min(workers, len(todo))) as pool:
        for message in pool.run(todo):
            left = waiting[message.task]
            rows = [] if message.value is None else [message.value]
            if message.value is None and message.error is not None:
                rows = [failed(run, message.error) for run in left.values()]
            for row in rows:
                results.add(left.pop(row["key"]), row)
                advance(row)
    return results
