"""A study's folder made small enough to be committed: ``python -m ucmkd.study.compact FOLDER``.

What is left gives the same summaries, and ``ucmkd compare`` takes it for finished: the results of
the fresh seeds, without what no table shows, and the recipes behind them. Exploratory runs go;
what they chose, and by which mean scores, is in ``configurations.yaml``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ucmkd.checkpoint import write_atomically
from ucmkd.study.jsonl import read_lines
from ucmkd.study.store import RECIPES, RESULTS

#: Fewer would make and break ties, which Wilcoxon's test counts.
DIGITS = 12
#: Fields that follow from others, or that no table shows.
DROPPED = frozenset(
    {"choice", "candidate_scores", "recall", "validation_accuracy", "steps",
     "validation_balanced_accuracy"}
)  # fmt: skip


def compact(folder: Path) -> tuple[int, int]:
    """Rewrite ``results.jsonl`` and ``recipes.jsonl`` in a folder.

    Of several results with one key the last is kept; failed runs are left out.

    Returns:
        The sizes of the two files together, in bytes, before and after.

    Raises:
        FileNotFoundError: There are no results.
    """
    paths = folder / RESULTS, folder / RECIPES
    before = sum(path.stat().st_size for path in paths)
    last = {row["key"]: row for row in read_lines(paths[0]) if "key" in row}
    rows = [row for row in last.values() if row.get("phase") == "fresh" and "error" not in row]
    used = {row["recipe"] for row in rows}
    recipes = {entry["hash"]: entry for entry in read_lines(paths[1]) if entry.get("hash") in used}
    kept = [{k: _rounded(v) for k, v in row.items() if k not in DROPPED} for row in rows]
    for path, entries in zip(paths, (kept, recipes.values()), strict=True):
        lines = (json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries)
        write_atomically(path, "".join(lines).encode())
    return before, sum(path.stat().st_size for path in paths)


def _rounded(value: Any) -> Any:
    return round(value, DIGITS) if isinstance(value, float) else value


def main(words: list[str]) -> int:
    """Compact the folders named; returns the exit status."""
    if not words:
        print("usage: python -m ucmkd.study.compact FOLDER...")
        return 2
    for word in words:
        try:
            before, after = compact(Path(word))
        except FileNotFoundError as error:
            print(f"{word} holds no study: {error}", file=sys.stderr)
            return 1
        print(f"{word}: {before} -> {after} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
