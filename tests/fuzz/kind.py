"""What the fuzzer of files needs to know of a kind of file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from .damage import Alter


class Kind(NamedTuple):
    """How one kind of file is read.

    Attributes:
        read: The reader.
        name: Of the file.
        contents: Right ones.
        answers: Errors that the reader documents.
        words: For a text: what takes the place of a word.
        alter: Damage below what bytes can do, for every second case.
        writes: Files that the reader may leave in the file's folder.
    """

    read: Callable[[Path], object]
    name: str
    contents: list[bytes]
    answers: tuple[type[BaseException], ...]
    words: tuple[str, ...] = ()
    alter: Alter | None = None
    writes: tuple[str, ...] = ()
