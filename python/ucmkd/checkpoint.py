"""Checkpoints that survive a kill at any moment.

A checkpoint is written to a temporary file, flushed to the disk and renamed into place, so the
folder always holds a complete one; the one before is kept as ``checkpoint.previous.pt``. The
files are ordinary ``torch.save`` archives that load with ``weights_only=True``.
"""

from __future__ import annotations

import os
import random
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .config import ConfigError

FORMAT = 1


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the message names the file and what to do."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that readers, and a crash, see either the old or the new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
    _flush_folder(path.parent)


def make_folder(folder: Path, name: str) -> None:
    """Make a folder, if need be, and see that it can be written.

    Raises:
        ConfigError: It cannot; ``name`` is what the user calls it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = "it is a file" if folder.is_file() else error.strerror or error
        raise ConfigError(f"{name} {folder} cannot be made or written: {why}") from error


def _flush_folder(folder: Path) -> None:
    if os.name == "posix":  # a rename is durable only once its folder is on the disk
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def random_state() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's global generators, without pickled objects."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what :func:`random_state` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, *rest = state["numpy"]
    if type(position) is not int or not 0 <= position <= len(keys):  # NumPy would not look
        raise ValueError(f"a position of {position!r} in NumPy's generator")
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])


class Checkpointer:
    """Keeps the last two checkpoints of a run in one folder.

    Args:
        folder: created on the first save.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.current = self.folder / "checkpoint.pt"
        self.previous = self.folder / "checkpoint.previous.pt"

    def save(self, state: dict[str, Any]) -> None:
        """Write ``state`` (tensors, numbers, text, containers) and keep the one before it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / "checkpoint.pt.tmp"
        with open(temporary, "wb") as stream:
            torch.save({"format": FORMAT, **state}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        if self.current.exists():
            os.replace(self.current, self.previous)
        os.replace(temporary, self.current)  # killed before this line: `previous` is loaded
        _flush_folder(self.folder)

    def load(self, required: Iterable[str] = ()) -> dict[str, Any] | None:
        """The last complete checkpoint, or None when there is none.

        Args:
            required: keys that it must have.

        Raises:
            CheckpointError: the file is truncated or damaged, of another format, or incomplete.
        """
        for path in (self.current, self.previous):
            if path.exists():
                return self._read(path, required)
        return None

    def _read(self, path: Path, required: Iterable[str]) -> dict[str, Any]:
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # torch.load does not compare the checksums
            if damaged is not None:
                raise zipfile.BadZipFile(f"checksum of {damaged}")
            state = torch.load(path, map_location="cpu", weights_only=True)
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
        except Exception as error:  # torch.load ends in any, according to what is damaged
            raise CheckpointError(
                f"checkpoint {path} is damaged ({type(error).__name__}: {error}); "
                f"{self._advice(path)}"
            ) from error
        found = state.get("format") if isinstance(state, dict) else None
        if type(found) is not int or found != FORMAT:
            raise CheckpointError(
                f"checkpoint {path} has format {found!r}, this version reads {FORMAT}; "
                f"{self._advice(path)}"
            )
        missing = [repr(key) for key in required if key not in state]
        if missing:
            raise CheckpointError(
                f"checkpoint {path} has no {', '.join(missing)}; {self._advice(path)}"
            )
        return state

    def _advice(self, path: Path) -> str:
        if path == self.current and self.previous.exists():
            return f"delete it to resume from the one before, {self.previous}"
        return "there is no older one: delete it to train this run from its first step again"
