"""``python -m benches.nine_kd``: choose weights, train, write; goes on where it was stopped.

Nine methods, plain cross-entropy and label smoothing (a control without a teacher) under three
conditions. Every training is a line of ``scores.csv``; ``table.md`` and ``gains.png`` are made of
them. About ten minutes on one free core.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benches.nine_kd.report import draw, lines, markdown
from benches.nine_kd.study import (
    SEEDS,
    STEPS,
    chosen,
    execute,
    final_runs,
    read,
    tuning_runs,
)
from ucmkd.checkpoint import write_atomically

OUT = Path(__file__).parent.parent / "results" / "nine_kd"


def main(words: Sequence[str] | None = None) -> int:
    """Run and write; 0 if it worked, 2 if it could not be, 130 if it was interrupted."""
    parser = argparse.ArgumentParser(prog="python -m benches.nine_kd", description=__doc__)
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="2 … 10, default 10")
    parser.add_argument("--steps", type=int, default=STEPS, help="of a student, default 400")
    parser.add_argument("--summary-only", action="store_true", help="only write what is known")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(words)
    if not 2 <= options.seeds <= len(SEEDS):
        print(f"error: --seeds must lie in 2..{len(SEEDS)}, got {options.seeds}", file=sys.stderr)
        return 2
    if options.steps < 1:
        print(f"error: --steps must be at least 1, got {options.steps}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    path, steps = options.out / "scores.csv", options.steps
    rows = read(path)
    try:
        if not options.summary_only:
            rows = execute(tuning_runs(steps), path)
            runs = final_runs(chosen(rows, steps), SEEDS[: options.seeds], steps)
            rows = execute(runs, path)
    except KeyboardInterrupt:
        print(f"\nInterrupted; the same command goes on from what is in {path}.")
        return 130
    found = lines(rows, steps)
    if not found:
        print(f"error: {path} has no condition with two whole seeds yet", file=sys.stderr)
        return 2
    text = markdown(found)
    write_atomically(options.out / "table.md", text.encode())
    draw(found, options.out / "gains.png")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
