"""The log of a run: one JSON object per line, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any, TextIO, TypeGuard

from .checkpoint import write_atomically


class RunLog:
    """Writes ``log.jsonl`` and, where TensorBoard is installed, event files in ``tensorboard/``.

    A resumed run continues both: lines after the checkpoint's step, and a line cut short by the
    kill, are dropped, so that no step appears twice.

    Args:
        folder: the run's folder.
        resume_step: number of steps already done according to the checkpoint; 0 starts a new log.
        tensorboard: also write event files (needs the ``tensorboard`` package).
    """

    def __init__(self, folder: str | Path, resume_step: int = 0, tensorboard: bool = True) -> None:
        self.path = Path(folder) / "log.jsonl"
        kept = lines_up_to(self.path, resume_step) if resume_step else []
        write_atomically(self.path, "".join(line + "\n" for line in kept).encode())
        self._stream: TextIO = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
        self._board: Any = _summary_writer(Path(folder), resume_step) if tensorboard else None

    def __call__(self, record: dict[str, Any]) -> None:
        """Append one record; anything that is not a finite number becomes null in JSON."""
        self._stream.write(json.dumps(_jsonable(record)) + "\n")
        self._stream.flush()
        if self._board is not None:
            for name, value in _flatten(record):
                if name not in ("step", "epoch") and math.isfinite(value):
                    self._board.add_scalar(name, value, record["step"])
            for name, message in record.get("warning", {}).items():
                self._board.add_text(f"warning/{name}", message, record["step"])

    def close(self) -> None:
        self._stream.close()
        if self._board is not None:
            self._board.close()


def lines_up_to(path: Path, step: int) -> list[str]:
    """The complete lines of a JSONL log whose ``step`` is at most ``step``; others are dropped."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found = ((line, object_of(line)) for line in lines)
    return [line for line, entry in found if _is_record(entry) and entry["step"] <= step]


def object_of(line: str) -> dict[str, Any] | None:
    """The object of a JSON line; None for one that a kill cut short, or that holds no object."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):  # the latter: nested beyond all reason
        return None
    return found if isinstance(found, dict) else None


def _is_record(entry: dict[str, Any] | None) -> TypeGuard[dict[str, Any]]:
    """Whether a line is as the trainer writes it: who shows a log relies on that."""
    if entry is None or type(entry.get("step")) is not int or entry["step"] < 0:
        return False
    groups = [entry.get(name, {}) for name in ("validation", "loss", "weighted", "diagnostics")]
    warned = entry.get("warning", {})
    if not all(isinstance(group, dict) for group in (*groups, warned)):
        return False
    if "validation" in entry and not {"accuracy", "balanced_accuracy"} <= groups[0].keys():
        return False
    numbers = [entry.get(name) for name in ("lr", "seconds", "epoch")]
    numbers += [value for name, value in groups[0].items() if name != "recall"]
    numbers += [value for group in groups[1:] for value in group.values()]
    return all(isinstance(text, str) for text in warned.values()) and all(
        number is None or (isinstance(number, int | float) and abs(number) < 1e300)
        for number in numbers
    )


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a JSONL log, null as nan; none where there is no file."""
    return [_with_nan(object_of(line)) for line in lines_up_to(path, sys.maxsize)]


def _with_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    return math.nan if value is None else value


def _summary_writer(folder: Path, resume_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(
        str(folder / "tensorboard"), purge_step=resume_step + 1 if resume_step else None
    )


def _flatten(record: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    scalars: list[tuple[str, float]] = []
    for name, value in record.items():
        if isinstance(value, dict):
            scalars += _flatten(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            scalars.append((prefix + name, float(value)))
    return scalars


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _jsonable(item) for name, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return list(value) if isinstance(value, tuple) else value
