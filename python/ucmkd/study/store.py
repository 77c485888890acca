"""The results of a study on disk: one row a run, and each recipe once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ucmkd.study.jsonl import append_line, read_lines
from ucmkd.study.plan import Run
from ucmkd.tasks import task_of

Row = dict[str, Any]
RESULTS, RECIPES = "results.jsonl", "recipes.jsonl"
#: What a result holds, as texts and as numbers, what a tested one of a classifier holds besides,
#: and what may be.
_SCORE = "validation_score"
_SIZES = ("train_size", "test_size")
_TEXTS = ("ucmkd", "torch", "code", "recipe")
_TESTED = ("accuracy", "balanced_accuracy")
_UNDEFINED = ("macro_f1", "nll", "ece", "teacher_accuracy")
_OPTIONAL = ("teacher_test_before", "teacher_test_after")


def _whole(row: Row, run: Run) -> bool:
    """Whether a row is of this run and holds what a summary needs; a damaged one is not used."""
    if not all(isinstance(row.get(name), str) for name in _TEXTS):
        return False
    for name, value in run.head().items():
        if type(row.get(name)) is not type(value) or row.get(name, row) != value:
            return False
    whole = _whole_classifier if run.task is None else _whole_task
    return (
        row.get("candidate") in run.candidates
        and _is_number(row.get("seconds"))
        and all(type(row.get(name)) is int and 0 < row[name] < 2**53 for name in _SIZES)
        and whole(row, run)
    )


def _whole_classifier(row: Row, run: Run) -> bool:
    tested = run.phase == "fresh"
    needed = (_SCORE, *(_TESTED if tested else ()))
    alone = row.get("accuracy_alone", {})
    return (
        all(_is_number(row.get(name)) for name in needed)
        and (not tested or all(name in row for name in _UNDEFINED))
        and all(row[name] is None or _is_number(row[name]) for name in row.keys() & set(_UNDEFINED))
        and len(row.keys() & set(_OPTIONAL)) in (0, 2)  # before and after, or neither
        and all(_is_number(row[name]) for name in row.keys() & set(_OPTIONAL))
        and isinstance(alone, dict)
        and all(_is_number(value) for value in alone.values())
    )


def _whole_task(row: Row, run: Run) -> bool:
    assert run.task is not None
    compared = run.phase == "explore" or len(run.configurations) > 1
    measured = task_of(run.task).shown.measures if run.phase == "fresh" else ()
    score = _is_number(row.get(_SCORE)) if compared else row.get(_SCORE, row) is None
    # A network that was not trained has no share of its own tokens, say.
    return score and all(
        row.get(measure.name, row) is None or _is_number(row.get(measure.name))
        for measure in measured
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e300


class Results:
    """``results.jsonl`` and ``recipes.jsonl`` in a folder; both only grow.

    A run that failed leaves a row with ``error``; such a row is no result, so that the next
    attempt tries again; neither is one that a damage of the file has changed or cut. Of several
    rows with one key the last counts.

    Args:
        folder: Where they lie; made at the first row.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / RESULTS
        self.recipes = folder / RECIPES
        self._rows: dict[str, Row] = {}
        stored = [entry.get("hash") for entry in read_lines(self.recipes)]
        self._known = {name for name in stored if isinstance(name, str)}
        for row in read_lines(self.path):
            if isinstance(row.get("key"), str):
                self._rows[row["key"]] = row

    def __len__(self) -> int:
        return sum("error" not in row for row in self._rows.values())

    def get(self, run: Run) -> Row | None:
        """The result of a run with exactly these settings, None without a whole one."""
        row = self._rows.get(run.key)
        return row if row is not None and "error" not in row and _whole(row, run) else None

    def add(self, run: Run, row: Row) -> None:
        """Keep a row, and have it on disk when this returns."""
        for configuration in run.configurations:
            if configuration.digest not in self._known:
                entry = {"hash": configuration.digest, "recipe": configuration.mapping()}
                append_line(self.recipes, entry)
                self._known.add(configuration.digest)
        append_line(self.path, row)
        self._rows[row["key"]] = row
