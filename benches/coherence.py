"""Shuffled windows put into order, with and without guidance: ``python -m benches.coherence``.

The accelerometer of a smartwatch, guided by its gyroscope, on people not seen in training. One line
of ``benches/results/coherence/table.csv`` per run, as it comes: lines that are there are not run
again, and a run that was stopped goes on from its checkpoint in ``--work``. ``table.md`` is written
from them at the end. Four minutes of one core; the recordings are fetched once.
"""

from __future__ import annotations

import argparse
import copy
import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benches.coherence_table import write_table
from ucmkd.coherence import (
    GUIDANCE,
    CoherenceTraining,
    OrderNet,
    Stretches,
    Towers,
    best_match,
    evaluate,
    smartwatch_stretches,
    train_alone,
    train_rounds,
    train_towers,
)

RESULTS = Path(__file__).parent / "results" / "coherence"
SEEDS = (1, 2, 3, 4, 5)
FIELDS = (
    "rounds", "guidance", "seed", "tau", "exact", "pairs", "alone_tau", "alone_exact", "guide_tau",
    "guide_exact", "aligned",
)  # fmt: skip


@dataclass(frozen=True)
class Models:
    """Both networks, each trained alone, and the towers."""

    student: OrderNet
    guide: OrderNet
    towers: Towers


def prepare(train: Stretches, training: CoherenceTraining, work: Path) -> Models:
    """Train the three, or take them from their checkpoints."""
    seed, inputs = training.seed, train.student[0].numel()
    torch.manual_seed(seed)
    made = Models(OrderNet(inputs), OrderNet(inputs), Towers(inputs, inputs))
    train_towers(made.towers, train, training, folder=work / f"towers-{seed}")
    for side in ("student", "guide"):
        train_alone(getattr(made, side), side, train, training, folder=work / f"{side}-{seed}")
    return made


def measure(
    rounds: int,
    guidance: str,
    models: Models,
    parts: tuple[Stretches, Stretches],
    training: CoherenceTraining,
    work: Path,
) -> dict[str, object]:
    """One line of the table; no rounds: the networks as they were trained alone."""
    train, test = parts
    student, guide, towers = (copy.deepcopy(m) for m in vars(models).values())
    if rounds:
        folder = work / f"{guidance}-{training.seed}"
        torch.manual_seed(training.seed)
        train_rounds(
            student, guide, towers, train, replace(training, rounds=rounds), guidance=guidance,
            folder=folder,
        )  # fmt: skip
    scores = {
        "": evaluate(student, guide, towers, test, training, guidance=guidance),
        "alone_": evaluate(student, guide, towers, test, training, guidance="none"),
        "guide_": evaluate(
            student, guide, towers, test, training, guidance=guidance, backwards=True
        ),
    }
    found = {
        f"{k}{name}": round(v, 5) for k, s in scores.items() for name, v in s._asdict().items()
    }
    sets = test.all()
    with torch.no_grad():
        right = best_match(towers(sets.guide, sets.student)) == sets.partner()
    line = {"rounds": rounds, "guidance": guidance, "seed": training.seed, **found}
    line["aligned"] = round(float(right.double().mean()), 4)
    return {name: line[name] for name in FIELDS}


def read(path: Path) -> list[dict[str, str]]:
    """The lines so far; one that a kill cut short is left out."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [row for row in csv.DictReader(stream) if row.get("aligned")]


def execute(
    seeds: Sequence[int], out: Path, work: Path, training: CoherenceTraining
) -> list[dict[str, str]]:
    """Run what is missing; returns all lines."""
    path = out / "table.csv"
    known = read(path)
    done = {(int(row["rounds"]), row["guidance"], int(row["seed"])) for row in known}
    out.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, FIELDS, lineterminator="\n")
        table.writeheader()
        table.writerows(known)
        stream.flush()
        for seed in seeds:
            wanted = [(r, g) for r in (0, training.rounds) for g in GUIDANCE]
            left = [(r, g) for r, g in wanted if (r, g, seed) not in done]
            if not left:
                continue
            here = replace(training, seed=seed)
            parts = smartwatch_stretches(seed=seed)
            models = prepare(parts[0], here, work)
            for rounds, guidance in left:
                print(f"seed {seed}: {rounds} rounds, guidance {guidance}", flush=True)
                table.writerow(measure(rounds, guidance, models, parts, here, work))
                stream.flush()
    return read(path)


def main(words: Sequence[str] | None = None) -> None:
    """Run the study and write its table."""
    parser = argparse.ArgumentParser(prog="python -m benches.coherence", description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of table.csv, table.md")
    parser.add_argument("--work", type=Path, default=Path("runs/coherence"), help="checkpoints")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    rows = execute(options.seeds, options.out, options.work, CoherenceTraining())
    print(write_table(rows, options.out / "table.md"))


if __name__ == "__main__":
    main()
