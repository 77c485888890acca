"""The fuzzer of files: some cases of every kind, and that it would notice what must not happen."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

files = pytest.importorskip("tests.fuzz.files", reason="not run from the repository's root")
from tests.fuzz.kind import Kind  # noqa: E402
from tests.fuzz.kinds import KINDS  # noqa: E402


@pytest.mark.parametrize("kind", list(KINDS))
def test_damaged_files_are_answered(kind: str) -> None:
    """``python -m tests.fuzz.files`` runs 100,000 of each."""
    found, failures = files.fuzz(kind, 60)
    assert not failures, failures[0]
    assert found["answer"] and sum(found.values()) == 60


def beside(path: Path) -> None:
    (path.parent / "more").write_text("")


def elsewhere(path: Path) -> None:
    Path(OUTSIDE).write_text("x")
    os.remove(OUTSIDE)  # a listing afterwards would not see it


def by_a_descriptor(path: Path) -> None:
    os.close(os.open(OUTSIDE, os.O_WRONLY | os.O_CREAT))


def in_the_working_folder(path: Path) -> None:
    subprocess.run(["touch", "left"], check=True)  # by another process


def temporary(path: Path) -> None:
    tempfile.mkdtemp()


def moved(path: Path) -> None:
    os.rename(path, OUTSIDE)


def unpickled(path: Path) -> None:
    pickle.loads(b"cos\ngetcwd\n(tR.")


def slow(path: Path) -> None:
    deadline = time.process_time() + 20
    while time.process_time() < deadline:
        pass


def waiting(path: Path) -> None:
    time.sleep(60)


def undocumented(path: Path) -> None:
    raise KeyError("x")


def wordless(path: Path) -> None:
    raise ValueError(" ")


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (beside, "left ['more'] beside the file"),
        (elsewhere, "open "),
        (by_a_descriptor, "open "),
        (in_the_working_folder, "subprocess.Popen"),
        (temporary, "os.mkdir"),
        (moved, "os.rename"),
        (unpickled, "pickle.find_class"),
        (slow, "TooLong"),
        (waiting, "TooLong"),
        (undocumented, "KeyError"),
        (wordless, "an error without a word"),
    ],
)
def test_it_notices(
    read: Callable[[Path], object],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "OUTSIDE", str(tmp_path / "outside"))
    monkeypatch.setattr(files, "LIMIT", 0.02)
    _, failures = files.fuzz("bad", 1, kind=Kind(read, "file", [b"content"], (ValueError,)))
    assert any(said in text for text in failures), failures


OUTSIDE = ""


def test_what_a_reader_may_do() -> None:
    """Write its own files, read others, and import."""

    def read(path: Path) -> None:
        (path.parent / "file.tmp").write_text("new")
        os.replace(path.parent / "file.tmp", path)
        (path.parent / "log").write_text("x")
        Path(os.devnull).write_text("x")
        Path(__file__).read_text()

    kind = Kind(read, "file", [b"content"], (), writes=("log",))
    found, failures = files.fuzz("good", 3, kind=kind)
    assert failures == [] and found == {"answer": 3}
