"""A lock between processes, on a file: released by the operating system when its owner dies."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(handle: int) -> None:
        os.lseek(handle, 0, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_UN)


@contextmanager
def file_lock(
    path: Path,
    *,
    timeout: float = 1800.0,
    poll: float = 0.1,
    on_wait: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Hold an exclusive lock on a file for the length of a `with` block.

    The lock belongs to an open file, not to the file's existence: nothing is stale after a crash,
    and the empty file stays behind on purpose (removing it would race with the next owner).

    Args:
        path: The lock file, made if absent; its folder must exist.
        timeout: Seconds to wait for another owner.
        poll: Seconds between two attempts.
        on_wait: Called once if another owner has the lock.

    Raises:
        TimeoutError: Another process kept the lock for longer than `timeout`.
        OSError: The file cannot be made, or the file system has no locks.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + timeout
        waited = False
        while not _try_lock(handle):
            if not waited and on_wait is not None:
                on_wait()
            waited = True
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{path} has been locked by another process for {timeout:g} s")
            time.sleep(poll)
        try:
            yield
        finally:
            _unlock(handle)
    finally:
        os.close(handle)
