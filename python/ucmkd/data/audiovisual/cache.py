"""A cache of rows of one size, made once and resumable at any moment."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ucmkd.data.fetch import Progress, cache_folder
from ucmkd.data.lock import file_lock

__all__ = ["Progress", "Source", "stored_rows"]

Source = tuple[str, Path, float, "float | None"]
"""Id of a clip, its file or folder, start and end in seconds."""

_FORMAT = 1  # raise it when a recording would become another row
_BATCH = 64  # rows between two writes to the disk


class Kind(Protocol):
    """A frozen dataclass with the shape of a row; its fields are part of the cache's key."""

    @property
    def shape(self) -> tuple[int, ...]: ...


def stored_rows(
    name: str,
    sources: Sequence[Source],
    kind: Kind,
    dtype: np.dtype[Any],
    make: Callable[[int], NDArray[Any]],
    *,
    progress: Progress | None = None,
    threads: int | None = None,
) -> NDArray[Any]:
    """The rows `(len(sources), *kind.shape)` as a read-only memory map.

    They lie in `cache_folder()/audiovisual/NAME-KEY/rows.npy`; the key covers `kind`, the ids, and
    path, size and time of change of every file, so that other recordings make another cache. Beside
    it, `done.npy` marks the finished rows; it is written after them, so that a preparation killed
    at any moment goes on with the first row that was not finished. Two processes never prepare the
    same cache at once.

    Args:
        name: Beginning of the folder's name.
        sources: One per row.
        kind: What a row is.
        dtype: Of the stored numbers.
        make: Row number to row; called on several threads.
        progress: Called with (name, rows done, rows in all).
        threads: Number of threads; None: that of the processors, at most 8.

    Raises:
        ValueError: `make` fails, or returns another shape or a number that is not finite; names
            the file.
        OSError: The disk has no room for the rows (says how much is needed), or cannot be written.
    """
    folder = cache_folder() / "audiovisual" / f"{name}-{_key(sources, kind, dtype)}"
    folder.mkdir(parents=True, exist_ok=True)
    shape = (len(sources), *kind.shape)
    with file_lock(folder / "lock", timeout=24 * 3600.0):
        if not (folder / "rows.npy").exists():
            _check_room(folder, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
            settings = {"rows": len(sources), "kind": type(kind).__name__, **asdict(kind)}  # type: ignore[call-overload]
            (folder / "settings.json").write_text(json.dumps(settings, indent=2) + "\n")
        rows = _array(folder / "rows.npy", dtype, shape)
        done = _array(folder / "done.npy", np.dtype(np.uint8), shape[:1])
        missing = np.flatnonzero(done == 0)
        if len(missing):
            _fill(name, sources, rows, done, missing, make, progress, threads)
    del rows, done
    return np.load(folder / "rows.npy", mmap_mode="r")


def _fill(
    name: str,
    sources: Sequence[Source],
    rows: NDArray[Any],
    done: NDArray[np.uint8],
    missing: NDArray[np.int64],
    make: Callable[[int], NDArray[Any]],
    progress: Progress | None,
    threads: int | None,
) -> None:
    def row(number: int) -> NDArray[Any]:
        identity, path = sources[number][:2]
        try:
            values = make(number)
        except ValueError as error:
            raise ValueError(f"{name}, clip {identity!r}: {error}") from error
        if values.shape != rows.shape[1:] or not np.isfinite(values).all():
            raise ValueError(
                f"{name}, clip {identity!r}: {path} became shape {values.shape}, "
                f"finite {bool(np.isfinite(values).all())}; {rows.shape[1:]} of finite numbers "
                "was expected"
            )
        return values

    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            for number, values in zip(batch, pool.map(row, batch.tolist()), strict=True):
                rows[number] = values
            rows.flush()  # type: ignore[attr-defined]
            done[batch] = 1  # only what is on the disk counts as done
            done.flush()  # type: ignore[attr-defined]
            if progress is not None:
                progress(name, len(rows) - len(missing) + start + len(batch), len(rows))


def _array(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape).flush()
        os.replace(temporary, path)
    try:
        np.load(path, mmap_mode="r")  # a file that is cut short would grow by zeros in mode "r+"
        array = np.load(path, mmap_mode="r+")
        found = f"{array.dtype} {array.shape}"
    except OSError:
        raise
    except Exception as error:  # a damaged header can end in any: it is parsed as Python text
        array, found = None, f"no array ({type(error).__name__}: {error})"
    if array is None or array.shape != shape or array.dtype != dtype:
        raise ValueError(
            f"{path} holds {found} instead of {dtype} {shape}: the cache is damaged; delete "
            f"{path.parent}"
        )
    return array


def _key(sources: Sequence[Source], kind: Kind, dtype: np.dtype[Any]) -> str:
    digest = hashlib.sha256(repr((_FORMAT, kind, dtype.str)).encode())
    for identity, path, start, end in sources:
        try:
            state = path.stat()
            found: tuple[int, ...] = (state.st_size, state.st_mtime_ns)
        except OSError:
            found = ()
        digest.update(repr((identity, str(path.resolve()), found, start, end)).encode())
    return digest.hexdigest()[:16]


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OSError(
            f"{folder} needs {size / 1e9:.1f} GB, and its disk has {free / 1e9:.1f} GB left; make "
            "room, or name another folder with UCMKD_CACHE"
        )
