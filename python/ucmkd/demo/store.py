"""Results on disk, one JSON line each, so that an interrupted demo goes on where it stopped.

A result is found again by its key: package version, a digest of the package's code, the settings
of problem, row and training, and the number of the split. Whatever changes one of them makes the
old line unused, never wrong.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import ucmkd

# How results are shown does not change them, and the settings of scenes are in the key itself.
_PRESENTATION = {
    "__init__.py", "app.py", "figures.py", "findings.py", "numbers.py", "scenes.py", "store.py",
    "tables.py",
}  # fmt: skip


@lru_cache(maxsize=1)
def code_digest() -> str:
    """A short digest of the Python files and compiled modules that results depend on."""
    root = Path(ucmkd.__file__).parent
    digest = hashlib.sha256()
    compiled = (*root.glob("_rust*.so"), *root.glob("_rust*.pyd"))
    for path in sorted((*root.rglob("*.py"), *compiled)):
        if path.parent.name == "demo" and path.name in _PRESENTATION:
            continue
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


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
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                self.results[entry["key"]] = entry["result"]
            except (ValueError, KeyError, TypeError):
                continue

    def __contains__(self, key: object) -> bool:
        return key in self.results

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self.results[key]

    def add(self, key: str, result: dict[str, Any]) -> None:
        """Keep a result, and have it on disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"key": key, "result": result}, allow_nan=False) + "\n"
        with self.path.open("ab") as stream:
            if stream.tell() and not self._ends_with_newline():
                stream.write(b"\n")  # after a line that was cut off
            stream.write(line.encode())
            stream.flush()
            os.fsync(stream.fileno())
        self.results[key] = result

    def _ends_with_newline(self) -> bool:
        with self.path.open("rb") as stream:
            stream.seek(-1, os.SEEK_END)
            return stream.read(1) == b"\n"
