"""``python -m benches.hashing``: train, compare, write; goes on where it was stopped.

Every comparison is a line of ``scores.csv``; ``table.md`` and ``precision.png`` are made of them.
About two minutes on one free core.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from benches.hashing.report import draw, markdown, scores
from benches.hashing.study import SEEDS, STEPS, execute, grid, read
from ucmkd.checkpoint import write_atomically

OUT = Path(__file__).parent.parent / "results" / "hashing"


def main(words: Sequence[str] | None = None) -> int:
    """Run and write; 0 if it worked, 2 if it could not be, 130 if it was interrupted."""
    parser = argparse.ArgumentParser(prog="python -m benches.hashing", description=__doc__)
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="2 … 5, default 5")
    parser.add_argument("--steps", type=int, default=STEPS, help="of CMIMH, default 600")
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
    warnings.filterwarnings("ignore", message="Maximum number of iterations reached")  # CCA's
    path = options.out / "scores.csv"
    rows = read(path)
    try:
        if not options.summary_only:
            rows = execute(grid(SEEDS[: options.seeds], options.steps), path)
    except KeyboardInterrupt:
        print(f"\nInterrupted; the same command goes on from what is in {path}.")
        return 130
    found = scores(rows, options.steps)
    if not any(own.method == "cmimh" and own.bits == 32 for own in found):
        print(f"error: {path} does not have two whole seeds yet", file=sys.stderr)
        return 2
    text = markdown(found, (int(rows[0]["train_size"]), int(rows[0]["test_size"])))
    write_atomically(options.out / "table.md", text.encode())
    draw(found, options.out / "precision.png")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
