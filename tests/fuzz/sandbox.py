"""A place to read files in, and a look at everything else that the reader does meanwhile."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

_MADE = ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "os.chown", "os.utime")
_MOVED = ("os.rename", "os.link", "os.symlink")
_NEVER = (
    "subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn",
    "os.spawn", "socket.connect", "socket.bind", "pickle.find_class",
)  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_active: list[Sandbox] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _active and _active[-1].looking:
        _active[-1].hear(event, arguments)


class Sandbox:
    """A context: a folder for the file, and empty working, home and temporary folders beside it.

    Python's audit events report every file opened for writing, made, moved or removed *anywhere*
    but in the file's folder, every process, connection and unpickled class; a listing of the four
    folders finds what compiled code wrote there.

    Attributes:
        folder: For the file.
        looking: Whether events count.
        seen: What went wrong since the last :meth:`check`.
    """

    def __init__(self) -> None:
        fast = Path("/dev/shm")
        self._root = tempfile.TemporaryDirectory(
            prefix="fuzz-", dir=fast if os.access(fast, os.W_OK) else None
        )
        root = Path(self._root.name).resolve()
        self.folder = root / "folder"
        self._beside = {"cwd": root / "cwd", "HOME": root / "home", "TMPDIR": root / "tmp"}
        self.looking, self.seen = False, list[str]()

    def __enter__(self) -> Sandbox:
        for path in (self.folder, *self._beside.values()):
            path.mkdir()
        self._before = os.getcwd(), dict(os.environ), tempfile.tempdir, sys.dont_write_bytecode
        os.chdir(self._beside["cwd"])
        os.environ.update(HOME=str(self._beside["HOME"]), TMPDIR=str(self._beside["TMPDIR"]))
        tempfile.tempdir, sys.dont_write_bytecode = str(self._beside["TMPDIR"]), True
        if not _active and not hasattr(sys, "_ucmkd_fuzz_hook"):
            sys.addaudithook(_hook)  # for good: there is no way to remove one
            sys._ucmkd_fuzz_hook = True  # type: ignore[attr-defined]
        _active.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _active.remove(self)
        where, environment, tempfile.tempdir, sys.dont_write_bytecode = self._before
        os.chdir(where)
        os.environ.clear()
        os.environ.update(environment)
        self._root.cleanup()

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit event."""
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITING:
                self._written(event, path)
        elif event in _MADE:
            self._written(event, arguments[0])
        elif event in _MOVED:
            self._written(event, arguments[0])
            self._written(event, arguments[1])
        elif event in _NEVER:
            self.seen.append(f"{event} {arguments!r}"[:300])

    def _written(self, event: str, path: Any) -> None:
        if isinstance(path, int) or os.fspath(path) == os.devnull:
            return  # an open file was reported when it was opened
        where = os.path.realpath(os.fsdecode(path))
        if where != str(self.folder) and not where.startswith(f"{self.folder}{os.sep}"):
            self.seen.append(f"{event} {where}")

    def check(self, allowed: frozenset[str]) -> list[str]:
        """What went wrong since the last call; ``allowed`` names may stand in the folder."""
        wrong, self.seen = self.seen, []
        left = set(os.listdir(self.folder)) - allowed
        wrong += [f"left {sorted(left)} beside the file"] if left else []
        for name, path in self._beside.items():
            if found := os.listdir(path):
                wrong.append(f"left {found} in {name}")
        return wrong
