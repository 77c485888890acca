"""The lock of the cache, and the pins of what is fetched."""

from __future__ import annotations

import time

import pytest

from ucmkd.data import SOURCES
from ucmkd.data.lock import file_lock


def test_file_lock_excludes_and_releases(tmp_path):
    path, waits = tmp_path / "lock", []
    with file_lock(path), pytest.raises(TimeoutError):  # noqa: SIM117
        with file_lock(path, timeout=0.05, poll=0.01, on_wait=lambda: waits.append(1)):
            pytest.fail("two owners")
    assert waits == [1]
    start = time.monotonic()
    with file_lock(path, timeout=5):
        assert time.monotonic() - start < 1


def test_pins_are_whole():
    for name, source in SOURCES.items():
        assert source.package == name
        hashes = [*source.wheel_sha256, *(member.sha256 for member in source.members)]
        assert all(len(value) == 64 and int(value, 16) for value in hashes)
        assert len(set(hashes)) == len(hashes)
        names = [member.filename for member in source.members]
        assert len(set(names)) == len(names)
