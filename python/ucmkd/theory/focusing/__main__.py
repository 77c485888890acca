"""The Gaussian study of the modality focusing hypothesis.

``python -m ucmkd.theory.focusing [--out docs] [--seeds 60]`` writes ``focusing_gaussian.csv`` and
``figures/focusing_gaussian.png`` (about three minutes on one core).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .study import focus, increase_shared
from .summary import draw, table, write

SHARED = (0, 2, 4, 6, 8, 10)
FOCUSED = (5, 10, 15, 20, 25, 30)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, write, draw; 0 if it worked, 2 if it could not be."""
    parser = argparse.ArgumentParser(prog="python -m ucmkd.theory.focusing", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder, default docs")
    parser.add_argument("--seeds", type=int, default=60, help="draws at each γ, default 60")
    parser.add_argument("--steps", type=int, default=1000, help="of each fit, default 1000")
    words = parser.parse_args(arguments)
    try:
        if words.seeds < 2:
            raise ValueError(f"--seeds must be at least 2, got {words.seeds}")
        if words.steps < 1:
            raise ValueError(f"--steps must be at least 1, got {words.steps}")
        first, second = [], []
        for seed in range(words.seeds):
            first += [increase_shared(seed, shared, steps=words.steps) for shared in SHARED]
            second += [focus(seed, shared, steps=words.steps) for shared in FOCUSED]
            print(f"\r{seed + 1} of {words.seeds} seeds", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        lines = list(table(first, second))
        write(lines, words.out / "focusing_gaussian.csv")
        draw(lines, words.out / "figures" / "focusing_gaussian.png")
    except (OSError, ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in lines:
        print(
            f"{line.part}, γ = {line.gamma:.2f}, {line.teacher}: {line.no_teacher:.2f} → "
            f"{line.distilled:.2f} ({line.gain:+.2f} ± {1.96 * line.gain_error:.2f})"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
