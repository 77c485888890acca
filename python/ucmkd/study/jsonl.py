"""Files of JSON lines that only grow and that a kill, at whatever moment, cannot spoil."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ucmkd.runlog import object_of


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, in order; empty without a file.

    A last line cut off by a kill is dropped, and so is every other line that holds no object.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [entry for line in lines if (entry := object_of(line)) is not None]


def append_line(path: Path, entry: dict[str, Any]) -> None:
    """Add an object, and have it on disk when this returns; makes the folder if need be.

    Raises:
        ValueError: A value that JSON does not know (nan, inf).
    """
    line = json.dumps(entry, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:
        if stream.tell() and not _ends_with_newline(path):
            line = "\n" + line  # after a line that was cut off
        stream.write(line.encode())
        stream.flush()
        os.fsync(stream.fileno())


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"
