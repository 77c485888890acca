"""Where multi-modal contrastive learning beats single-modal: a sweep over SNR and C_μ.

``python -m ucmkd.theory.contrastive [--out docs] [--seeds 3]`` writes
``contrastive_transition.csv`` and ``figures/contrastive_transition.png`` (about two minutes on one
core).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import transition
from .descent import learn
from .model import TwoTokens, draw
from .outside import compare


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, write, draw; 0 if it worked, 2 if it could not be."""
    parser = argparse.ArgumentParser(prog="python -m ucmkd.theory.contrastive", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder, default docs")
    parser.add_argument("--seeds", type=int, default=3, help="draws at each point, default 3")
    parser.add_argument("--dimension", type=int, default=2000, help="d, default 2000")
    parser.add_argument("--samples", type=int, default=100, help="n, default 100")
    words = parser.parse_args(arguments)
    try:
        if words.seeds < 1:
            raise ValueError(f"--seeds must be at least 1, got {words.seeds}")
        model = TwoTokens(dimension=words.dimension, samples=words.samples)
        seeds = range(words.seeds)
        for seed in seeds:
            for name, found in compare(model, seed=seed).items():
                print(
                    f"seed {seed}, {name}: accuracy on unseen data {found.training_head:.3f} "
                    f"(head from there {found.outside_head:.3f})"
                )
        sample = draw(model, 0)
        single, multi = (learn(model, sample, multimodal=both) for both in (False, True))
        rows: list[transition.Row] = []
        for row in transition.sweep(model, seeds=seeds):
            rows.append(row)
            print(f"\r{len(rows)} trainings", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        transition.write(rows, words.out / "contrastive_transition.csv")
        transition.draw_transition(
            rows, single, multi, words.out / "figures" / "contrastive_transition.png",
            advantage=model.advantage,
        )  # fmt: skip
    except (OSError, ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {words.out / 'contrastive_transition.csv'} and its figure")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
