"""The cache of rows: made once, resumed after a kill, and made anew for other recordings."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiovisual_common import make_ravdess, tone, write_wave
from ucmkd.data.audiovisual import Picture, cache, ravdess
from ucmkd.data.audiovisual.cache import stored_rows
from ucmkd.data.stored import StoredArray, rows_within


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UCMKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "audiovisual"


def sources(tmp_path: Path, count: int) -> list[cache.Source]:
    return [(f"clip{i}", tmp_path / f"{i}.wav", 0.0, None) for i in range(count)]


def row(number: int) -> np.ndarray:
    return np.full((3, 2, 2), number, np.uint8)


def fill(tmp_path: Path, count: int, make: Any = row, **options: Any) -> np.ndarray:
    kind, dtype = Picture(2), np.dtype(np.uint8)
    return stored_rows("test", sources(tmp_path, count), kind, dtype, make, **options)


def test_rows_are_made_once(tmp_path: Path) -> None:
    made: list[int] = []
    seen: list[tuple[str, int, int]] = []

    def counted(number: int) -> np.ndarray:
        made.append(number)
        return row(number)

    rows = fill(tmp_path, 150, counted, progress=lambda *state: seen.append(state))
    assert rows.shape == (150, 3, 2, 2) and rows[:, 0, 0, 0].tolist() == list(range(150))
    assert sorted(made) == list(range(150))
    assert seen == [("test", 64, 150), ("test", 128, 150), ("test", 150, 150)]
    assert np.array_equal(fill(tmp_path, 150, counted, progress=None), rows)
    assert len(made) == 150
    with pytest.raises(ValueError, match="read-only"):
        rows[0] = 0


KILLED = r"""
import os, pathlib, signal, sys
sys.path.insert(0, sys.argv[3])
import test_audiovisual_cache as here

def make(number):
    if number == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return here.row(number)

here.fill(pathlib.Path(sys.argv[1]), 150, make, threads=1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_preparation_goes_on_where_it_was(tmp_path: Path) -> None:
    for victim in (10, 70, 149):
        command = [
            sys.executable,
            "-c",
            KILLED,
            str(tmp_path),
            str(victim),
            str(Path(__file__).parent),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
    made: list[int] = []

    def counted(number: int) -> np.ndarray:
        made.append(number)
        return row(number)

    rows = fill(tmp_path, 150, counted)
    assert sorted(made) == list(range(128, 150))  # the batches before were complete
    assert rows[:, 0, 0, 0].tolist() == list(range(150))


def test_an_error_names_the_clip_and_keeps_what_was_done(tmp_path: Path) -> None:
    def broken(number: int) -> np.ndarray:
        if number == 100:
            raise ValueError("no sound")
        return row(number)

    with pytest.raises(ValueError, match="test, clip 'clip100': no sound"):
        fill(tmp_path, 150, broken)
    made: list[int] = []

    def counted(number: int) -> np.ndarray:
        made.append(number)
        return row(number)

    fill(tmp_path, 150, counted)
    assert min(made) == 64
    with pytest.raises(
        ValueError, match=r"clip 'clip0': .*0\.wav became shape \(1,\), finite True"
    ):
        fill(tmp_path, 3, lambda number: np.zeros(1))
    with pytest.raises(ValueError, match="finite False"):
        fill(tmp_path, 4, lambda number: np.full((3, 2, 2), np.nan))


def test_other_recordings_and_sizes_are_other_caches(tmp_path: Path, folder: Path) -> None:
    fill(tmp_path, 3)
    fill(tmp_path, 3)
    assert len(list(folder.iterdir())) == 1
    (tmp_path / "1.wav").write_bytes(b"changed")
    fill(tmp_path, 3)
    assert len(list(folder.iterdir())) == 2
    kind = Picture(4)
    big = lambda number: np.zeros((3, 4, 4), np.uint8)  # noqa: E731
    stored_rows("test", sources(tmp_path, 3), kind, np.dtype(np.uint8), big)
    assert len(list(folder.iterdir())) == 3


def test_a_full_disk_and_a_damaged_cache_are_named(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(cache.shutil, "disk_usage", lambda path: usage(10, 9, 35))
        with pytest.raises(OSError, match=r"needs 0\.0 GB.*UCMKD_CACHE"):
            fill(tmp_path, 3)
    fill(tmp_path, 3)
    (made,) = folder.iterdir()
    np.save(made / "rows.npy", np.zeros((2, 3, 2, 2), np.uint8))
    with pytest.raises(ValueError, match=rf"cache is damaged; delete {made}"):
        fill(tmp_path, 3)


def test_a_set_is_read_from_its_cache(tmp_path: Path, folder: Path) -> None:
    root = make_ravdess(tmp_path, actors=1)
    first = ravdess(root, views="audio").views["audio"]
    assert isinstance(first, StoredArray)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("rows.npy")}
    again = ravdess(root, views="audio").views["audio"]
    assert np.array_equal(np.asarray(first), np.asarray(again))
    assert times == {path: path.stat().st_mtime_ns for path in folder.rglob("rows.npy")}
    sound = root / "RAVDESS/Actor_01/03-01-01-01-01-01-01.wav"
    write_wave(sound, tone(2500, 0.7, 48000), 48000)
    changed = ravdess(root, views="audio").views["audio"]
    differs = (np.asarray(first) != np.asarray(changed)).any(axis=(1, 2, 3))
    assert differs.tolist() == [True] + [False] * 7


# --- rows that stay in their file ---------------------------------------------------------------


def test_stored_array_reads_what_is_asked_for(tmp_path: Path) -> None:
    values = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3)
    stored = StoredArray(values, factor=0.5)
    part = stored[np.array([4, 0, 2])][1:]
    assert len(part) == 2 and part.shape == (2, 2, 3) and part.ndim == 3
    assert part.read().dtype == np.float32
    np.testing.assert_array_equal(part.read(), values[[0, 2]] * 0.5)
    np.testing.assert_array_equal(np.asarray(part), part.read())
    with pytest.raises(ValueError, match=r"source must be \(n, \.\.\.\)"):
        StoredArray(np.zeros(3))
    assert rows_within((9, 4), 64) == 4 and rows_within((9, 100), 64) == 1


def test_channel_moments_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    from ucmkd.data import stored as module

    values = (1000 + np.random.default_rng(0).normal(size=(7, 2, 3, 4))).astype(np.float32)
    values[:, 1] = 5
    monkeypatch.setattr(module, "_CHUNK", 2 * values[0].nbytes)
    mean, scale = StoredArray(values).channel_moments()
    assert mean.shape == scale.shape == (2, 1, 1)
    exact = values.astype(np.float64)
    np.testing.assert_allclose(mean.ravel(), exact.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(scale.ravel(), exact.std(axis=(0, 2, 3)), rtol=1e-9)
    with pytest.raises(ValueError, match="at least one row"):
        StoredArray(values)[:0].channel_moments()


def test_the_cache_is_filled_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ucmkd.data.audiovisual.__main__ import main

    root = make_ravdess(tmp_path, actors=1)
    assert main(["ravdess", "--root", str(root)]) == 0
    shown = capsys.readouterr()
    assert shown.out == "ravdess: 8 clips of 8 classes are ready\n"
    assert "ravdess-audio: 8 of 8 clips\n" in shown.err and "ravdess-frames: 8 of 8" in shown.err
    assert main(["ravdess", "--root", str(root)]) == 0
    assert capsys.readouterr().err == ""  # nothing was left to do
    assert main(["ave", "--root", str(root), "--view", "audio"]) == 2
    assert "error: ave: no AVE_Dataset" in capsys.readouterr().err
