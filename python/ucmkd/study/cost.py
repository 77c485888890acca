"""What a study costs: ``python -m ucmkd.study.cost FOLDER...``.

Every result holds the processor seconds behind it (``processor_seconds``: the training, the test,
and the data and the teacher where it was the first run to need them), and ``configurations.yaml``
those of the exploratory runs, which a compacted study no longer has. Trainings run on one thread
each, so the sum divided by the cores is the time on a machine with nothing else to do, apart from
the start of the processes. Results of earlier versions have only ``seconds``, the wall time of the
training itself, which other work on the machine lengthens.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ucmkd.study.jsonl import read_lines
from ucmkd.study.store import RESULTS

CORES = 2


@dataclass(frozen=True)
class Cost:
    """Of one study.

    Attributes:
        fresh, explored: Trainings behind the results, and those that chose a candidate.
        processor: Seconds of processor time; None where a training did not store it.
        wall: Seconds that the fresh runs' trainings took on the clock.
    """

    fresh: int
    explored: int
    processor: float | None
    wall: float

    def __str__(self) -> str:
        text = f"{self.fresh + self.explored} trainings, {self.explored} of them exploratory"
        if self.processor is None:
            return f"{text}; processor time not stored, {self.wall / 60:.1f} min of wall time"
        return (
            f"{text}; {self.processor / 60:.1f} min of processor time, "
            f"{self.processor / 60 / CORES:.1f} min on {CORES} cores"
        )


def cost(rows: Iterable[Mapping[str, Any]], choices: Iterable[Mapping[str, Any]]) -> Cost:
    """The cost of fresh results and of the choices before them.

    Args:
        rows: Results of the fresh seeds (a run that chose among candidates counts as one).
        choices: Entries of ``configurations.yaml``; one of an earlier version, without a number of
            trainings, has candidates × seeds of them.
    """
    found, chosen = list(rows), list(choices)
    spent = [entry.get("processor_seconds") for entry in (*found, *chosen)]
    known = [float(value) for value in spent if value is not None]
    explored = sum(
        entry["trainings"]
        if "trainings" in entry
        else len(entry["mean_validation_scores"]) * len(entry["seeds"])
        for entry in chosen
    )
    return Cost(
        fresh=len(found),
        explored=explored,
        processor=sum(known) if len(known) == len(spent) else None,
        wall=sum(row["seconds"] for row in found),
    )


def cost_of(folder: Path) -> Cost:
    """The cost of a study's folder.

    Raises:
        FileNotFoundError: There are no results.
    """
    path = folder / RESULTS
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    last = {row["key"]: row for row in read_lines(path) if "key" in row}
    fresh = [row for row in last.values() if row.get("phase") == "fresh" and "error" not in row]
    chosen = folder / "configurations.yaml"
    entries = yaml.safe_load(chosen.read_text(encoding="utf-8")) if chosen.exists() else {}
    return cost(fresh, [entry for part in entries.values() for entry in part.values()])


def main(words: list[str]) -> int:
    """Print the cost of the folders named, and of all together; returns the exit status."""
    if not words:
        print("usage: python -m ucmkd.study.cost FOLDER...")
        return 2
    found = []
    for word in words:
        try:
            found.append(cost_of(Path(word)))
        except FileNotFoundError as error:
            print(f"{word} holds no study: {error}", file=sys.stderr)
            return 1
        print(f"{word}: {found[-1]}")
    if len(found) > 1:
        print(f"together: {together(found)}")
    return 0


def together(costs: Sequence[Cost]) -> Cost:
    """The sum."""
    known = [one.processor for one in costs if one.processor is not None]
    return Cost(
        fresh=sum(one.fresh for one in costs),
        explored=sum(one.explored for one in costs),
        processor=sum(known) if len(known) == len(costs) else None,
        wall=sum(one.wall for one in costs),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
