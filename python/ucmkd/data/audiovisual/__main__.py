"""Fill the cache of an audio-visual data set ahead of a training, with a progress line.

``python -m ucmkd.data.audiovisual ravdess [--root FOLDER] [--view audio]``
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ucmkd.data import audiovisual

ADAPTERS = {
    "ave": audiovisual.ave,
    "ravdess": audiovisual.ravdess,
    "cremad": audiovisual.cremad,
    "vggsound": audiovisual.vggsound,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare one data set; 0 if its cache is complete, 2 if something is missing."""
    parser = argparse.ArgumentParser(prog="python -m ucmkd.data.audiovisual", description=__doc__)
    parser.add_argument("dataset", choices=ADAPTERS)
    parser.add_argument("--root", help="folder that holds the data set (default: UCMKD_DATA)")
    parser.add_argument("--view", choices=audiovisual.VIEWS, help="default: both")
    words = parser.parse_args(arguments)

    def show(what: str, done: int, total: int) -> None:
        end = "\n" if done == total else ""
        print(f"\r{what}: {done} of {total} clips", end=end, file=sys.stderr, flush=True)

    views = None if words.view is None else [words.view]
    try:
        found = ADAPTERS[words.dataset](words.root, views=views, progress=show)
    except (OSError, ValueError, ImportError) as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 2
    print(f"{words.dataset}: {len(found)} clips of {found.num_classes} classes are ready")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
