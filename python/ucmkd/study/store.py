"""The results of a study on disk: one row a run, and each recipe once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ucmkd.study.jsonl import append_line, read_lines
from ucmkd.study.plan import Run

Row = dict[str, Any]
RESULTS, RECIPES = "results.jsonl", "recipes.jsonl"


class Results:
    """``results.jsonl`` and ``recipes.jsonl`` in a folder; both only grow.

    A run that failed leaves a row with ``error``; such a row is no result, so that the next
    attempt tries again. Of several rows with one key the last counts.

    Args:
        folder: Where they lie; made at the first row.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / RESULTS
        self.recipes = folder / RECIPES
        self._rows: dict[str, Row] = {}
        self._known: set[str] = {
            entry["hash"] for entry in read_lines(self.recipes) if "hash" in entry
        }
        for row in read_lines(self.path):
            if isinstance(row.get("key"), str):
                self._rows[row["key"]] = row

    def __len__(self) -> int:
        return sum("error" not in row for row in self._rows.values())

    def get(self, run: Run) -> Row | None:
        """The result of a run with exactly these settings, None without one."""
        row = self._rows.get(run.key)
        return None if row is None or "error" in row else row

    def add(self, run: Run, row: Row) -> None:
        """Keep a row, and have it on disk when this returns."""
        for configuration in run.configurations:
            if configuration.digest not in self._known:
                entry = {"hash": configuration.digest, "recipe": configuration.mapping()}
                append_line(self.recipes, entry)
                self._known.add(configuration.digest)
        append_line(self.path, row)
        self._rows[row["key"]] = row
