"""CMD on pen trajectories: with the mutual term, without, untrained, and the inputs themselves.

``python -m ucmkd.skeletons [--out study/skeletons] [--seeds 5]`` writes ``summary.md``,
``results.csv`` and ``differences.csv`` (about five minutes on one core). Trainings are kept in
``--work``; the same command goes on after a stop.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ucmkd.checkpoint import CheckpointError, make_folder

from .config import Pretraining

FIRST = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, evaluate, write; 0 if it worked, 2 if it could not be."""
    parser = argparse.ArgumentParser(prog="python -m ucmkd.skeletons", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("study/skeletons"), help="folder")
    parser.add_argument("--work", type=Path, default=Path("runs/skeletons"), help="checkpoints")
    parser.add_argument("--seeds", type=int, default=5, help=f"from {FIRST} on, default 5")
    parser.add_argument("--steps", type=int, default=Pretraining().steps, help="of each training")
    words = parser.parse_args(arguments)
    torch.set_num_threads(1)  # so that a result does not depend on the machine's number of them
    try:
        from .study import evaluate_seed, pen_trajectories
        from .summary import differences, markdown, write

        if words.seeds < 2:
            raise ValueError(f"--seeds must be at least 2, got {words.seeds}")
        config = replace(Pretraining(), steps=words.steps)
        make_folder(words.out, "--out")
        points, labels = pen_trajectories()
        rows = [
            row
            for seed in range(FIRST, FIRST + words.seeds)
            for row in evaluate_seed(
                points, labels, seed, config, folder=words.work,
                say=lambda message: print(message, file=sys.stderr, flush=True),
            )
        ]  # fmt: skip
        command = f"python -m ucmkd.skeletons --seeds {words.seeds}"
        if words.steps != Pretraining().steps:
            command += f" --steps {words.steps}"
        page = markdown(rows, command)
        write(rows, words.out / "results.csv")
        write(differences(rows), words.out / "differences.csv")
        (words.out / "summary.md").write_text(page, encoding="utf-8")
    except (OSError, ValueError, ImportError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(page)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
