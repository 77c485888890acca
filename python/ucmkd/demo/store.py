"""Results on disk, one JSON line each, so that an interrupted demo goes on where it stopped.

A result is found again by its key: package version, a digest of the package's code, the settings
of problem, row and training, and the number of the split. Whatever changes one of them makes the
old line unused, never wrong.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import ucmkd
from ucmkd.study.jsonl import append_line, read_lines
from ucmkd.study.provenance import digest_of_package, in_study

# How results are shown does not change them, and the settings of scenes are in the key itself.
_PRESENTATION = {
    "__init__.py", "app.py", "figures.py", "findings.py", "numbers.py", "scenes.py", "store.py",
    "tables.py",
}  # fmt: skip


@lru_cache(maxsize=1)
def code_digest() -> str:
    """A short digest of the Python files and compiled modules that results depend on."""

    def counts(relative: Path) -> bool:
        shown = relative.parts[0] == "demo" and relative.name in _PRESENTATION
        return not shown and not in_study(relative)

    return digest_of_package(counts)


def result_key(settings: dict[str, Any], split: int) -> str:
    """The key of one result.

    Args:
        settings: Everything that the result depends on besides code and split; plain values.
        split: Number of the split.
    """
    text = json.dumps(settings, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{ucmkd.__version__}/{code_digest()}/{digest}/{split}"


class Store:
    """Results by key, in a JSON-lines file that only grows.

    A last line cut off by a kill is dropped; every other unreadable line is skipped.

    Args:
        path: The file; made with its folder at the first result.
        fresh: Forget what the file holds.
    """

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        self.path = path
        self.results: dict[str, dict[str, Any]] = {}
        if fresh:
            path.unlink(missing_ok=True)
        elif path.exists():
            self._read()

    def _read(self) -> None:
        for entry in read_lines(self.path):
            if isinstance(entry.get("key"), str) and "result" in entry:
                self.results[entry["key"]] = entry["result"]

    def __contains__(self, key: object) -> bool:
        return key in self.results

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self.results[key]

    def add(self, key: str, result: dict[str, Any]) -> None:
        """Keep a result, and have it on disk when this returns."""
        append_line(self.path, {"key": key, "result": result})
        self.results[key] = result
