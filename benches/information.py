"""How well mutual information is estimated: ``python -m benches.information``.

Every method on every task of :data:`ucmkd.information.tasks.TASKS` that it takes, for several
numbers of samples and seeds: estimate, truth, interval, seconds. Rows go to
``benches/results/information/table.csv`` as they come, so that an interrupted run goes on where it
stopped; ``table.md`` is written from them at the end and names what has not been run.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from benches.information_table import write_table

RESULTS = Path(__file__).parent / "results" / "information"
SAMPLES = (500, 2000, 10_000)
#: ``auto`` first, then quick ones before slow ones.
METHODS = (
    "auto", "gaussian", "ksg", "ksg2", "ksg0", "ross", "mixed", "discrete", "classifier",
    "student", "canonical", "infonce", "smile", "nwj", "mine", "latent",
)  # fmt: skip
FIELDS = ("task", "n", "method", "seed", "truth", "value", "low", "high", "seconds", "by")


class Row(TypedDict):
    """One estimate; ``by`` is the estimator that gave it."""

    task: str
    n: int
    method: str
    seed: int
    truth: float
    value: float
    low: float
    high: float
    seconds: float
    by: str


def read(path: Path) -> list[Row]:
    """The rows that are there."""
    if not path.exists():
        return []
    with path.open(newline="") as stream:
        return [
            Row(
                task=r["task"], n=int(r["n"]), method=r["method"], seed=int(r["seed"]),
                truth=float(r["truth"]), value=float(r["value"]), low=float(r["low"]),
                high=float(r["high"]), seconds=float(r["seconds"]), by=r["by"],
            )
            for r in csv.DictReader(stream)
        ]  # fmt: skip


def cells(
    methods: list[str], samples: list[int], seeds: list[int], tasks: list[str]
) -> Iterator[tuple[str, int, str, int]]:
    """What is to be run, the cheap and the important first: (task, n, method, seed)."""
    from ucmkd.information.methods import DISCRETE_SIDES
    from ucmkd.information.tasks import TASKS

    for seed in seeds:
        for n in samples:
            for method in methods:
                for name in tasks:
                    task = TASKS[name]
                    discrete = (task.x_width == 0) + (task.y_width == 0)
                    wanted = DISCRETE_SIDES.get(method, discrete)
                    pointless = discrete == 2 and method not in ("auto", "discrete")
                    if wanted == discrete and not pointless:
                        yield name, n, method, seed


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing and write the table."""
    from ucmkd.information import mutual_information
    from ucmkd.information.tasks import TASKS

    parser = argparse.ArgumentParser(prog="python -m benches.information", description=__doc__)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--samples", nargs="+", type=int, default=list(SAMPLES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument(
        "--tasks", nargs="+", default=list(TASKS), choices=list(TASKS), metavar="TASK"
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after so many")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "table.csv"
    rows = read(path)
    there = {(row["task"], row["n"], row["method"], row["seed"]) for row in rows}
    wanted = list(cells(args.methods, args.samples, args.seeds, args.tasks))
    todo = [cell for cell in wanted if cell not in there]
    end = time.monotonic() + 60.0 * args.minutes
    new = not path.exists()
    with path.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, FIELDS)
        if new:
            writer.writeheader()
        for done, (name, n, method, seed) in enumerate(todo):
            if time.monotonic() > end:
                print(f"\nstopped after {args.minutes:g} minutes", file=sys.stderr)
                break
            label = f"{done + 1}/{len(todo)}  {method}  {name}  n={n}  seed {seed}"
            print(f"\r\x1b[K{label}", end="", file=sys.stderr, flush=True)
            task = TASKS[name]
            found = mutual_information(*task.sample(n, seed=seed), method=method, seed=seed)
            row = Row(
                task=name, n=n, method=method, seed=seed, truth=round(task.truth, 5),
                value=round(found.value, 4), low=round(found.low, 4), high=round(found.high, 4),
                seconds=round(found.seconds, 2), by=found.method,
            )  # fmt: skip
            writer.writerow(row)
            stream.flush()
            rows.append(row)
    print(file=sys.stderr)
    write_table(rows, list(cells(list(METHODS), list(SAMPLES), [1], list(TASKS))), args.out)


if __name__ == "__main__":
    main()
