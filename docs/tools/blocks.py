"""The code blocks of a page: found, and run one after the other as one program."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)[^\n]*\n(?P<body>.*?)^(?P=indent)```", re.M | re.S
)
#: Pulls a file of the repository into the page; the file has a test of its own.
SNIPPET = "--8<--"


class Block(NamedTuple):
    """One fenced block: its language, its text, and the line of the page that it starts on."""

    language: str
    text: str
    line: int


def pages() -> list[Path]:
    """The README and every page of the documentation."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, *languages: str) -> list[Block]:
    """The fenced blocks of ``page`` in these languages, in order."""
    text, found = page.read_text(encoding="utf-8"), []
    for match in _FENCE.finditer(text):
        if match["language"] not in languages or SNIPPET in match["body"]:
            continue
        indent = match["indent"]
        body = "".join(line.removeprefix(indent) for line in match["body"].splitlines(True))
        found.append(Block(match["language"], body, text.count("\n", 0, match.start("body"))))
    return found


def run(page: Path, folder: Path) -> dict[str, Any]:
    """Run the Python blocks of ``page`` in ``folder``, as one program; the names they leave.

    A failure is a traceback into the page: the blocks keep its line numbers.
    """
    names: dict[str, Any] = {"__name__": "__page__"}
    with _inside(folder):
        for block in blocks(page, "python"):
            program = compile("\n" * (block.line) + block.text, str(page), "exec")
            exec(program, names)
    return names


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
