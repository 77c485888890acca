"""Draw the phase diagram of the complementarity criterion.

``python -m ucmkd.theory.gaussian [--out docs/figures/gaussian_phases.png] [--samples 12]``
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .phase import draw_phases


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw; 0 if it worked, 2 if it could not be."""
    parser = argparse.ArgumentParser(prog="python -m ucmkd.theory.gaussian", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/figures/gaussian_phases.png"))
    parser.add_argument("--samples", type=int, default=12, help="n of the gains, default 12")
    words = parser.parse_args(arguments)
    try:
        draw_phases(words.out, samples=words.samples)
    except (OSError, ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {words.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
