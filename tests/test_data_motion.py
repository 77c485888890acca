"""Smartwatch movements: windows, features by hand, and the one pickle that is only read if it is
the pinned one."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ucmkd import data
from ucmkd.data import FetchError, Views, motion


class Trap:
    """Unpickling it leaves a trace."""

    opened = False

    def __reduce__(self) -> tuple:
        return (setattr, (Trap, "opened", True))


def test_windows() -> None:
    series = np.arange(14).reshape(7, 2)
    cut = motion.windows(series, 3, 2)
    assert cut.tolist() == [
        [[0, 2, 4], [1, 3, 5]],
        [[4, 6, 8], [5, 7, 9]],
        [[8, 10, 12], [9, 11, 13]],
    ]
    assert motion.windows(series, 3, 3).shape == (2, 2, 3)  # what is left at the end is dropped
    assert motion.windows(series, 8, 1).shape == (0, 2, 8)
    with pytest.raises(ValueError, match="series must be"):
        motion.windows(series[0], 3, 1)
    with pytest.raises(ValueError, match="at least 1, got 3 and 0"):
        motion.windows(series, 3, 0)


def test_features_of_a_sine() -> None:
    """Four instants at 4 Hz: frequencies 1 and 2 Hz; by hand."""
    x = np.array([[[0.0, 1, 0, -1], [5, 7, 5, 3], [2, 2, 2, 2]]])
    features = motion.motion_features(x, rate=4.0)
    mean, deviation = [0, 5, 2], [np.sqrt(0.5), np.sqrt(2), 0]
    least, largest = [-1, 3, 2], [1, 7, 2]
    spectrum = [0.5, 0, 1, 0, 0, 0]  # a sine of amplitude A has A/2 at its frequency
    correlation = [1, 0, 0]  # the second axis is the first, doubled; the third stands still
    expected = [*mean, *deviation, *least, *largest, *spectrum, *correlation]
    np.testing.assert_allclose(features, [expected], atol=1e-7)
    assert motion.motion_features(x, rate=4.0, highest=1.5).shape == (1, 18)
    with pytest.raises(ValueError, match="cut must be"):
        motion.motion_features(x[0], 4.0)


def test_features_do_not_depend_on_where_a_window_begins() -> None:
    time = np.arange(100) / 50
    wave = np.sin(2 * np.pi * 1.5 * time) + 0.3 * np.sin(2 * np.pi * 4 * time)
    x = np.stack([wave, 2 * wave, -wave])[None]
    moved = np.roll(x, 13, axis=2)
    np.testing.assert_allclose(
        motion.motion_features(x, 50.0), motion.motion_features(moved, 50.0), atol=1e-6
    )
    assert np.abs(x - moved).max() > 1


def fake(folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, trusted: bool) -> None:
    source = data.SOURCES["seglearn"]
    (folder / source.members[0].filename).write_bytes(content)
    monkeypatch.setattr(motion, "fetch", lambda name, progress=None: folder)
    if trusted:
        digest = hashlib.sha256(content).hexdigest()
        member = replace(source.members[0], sha256=digest, size=len(content))
        monkeypatch.setitem(motion.SOURCES, "seglearn", replace(source, members=(member,)))


def recordings(tmp_path: Path) -> bytes:
    content = {
        "X": [np.full((250, 6), k, dtype=float) + np.arange(6) for k in range(3)],
        "y": np.array([0, 1, 1]),
        "side": np.array([0.0, 1.0, 0.0]),
        "subject": np.array([3, 3, 8]),
        "y_labels": ["PEN", "ABD"],
    }
    np.save(tmp_path / "made.npy", np.array(content, dtype=object), allow_pickle=True)
    return (tmp_path / "made.npy").read_bytes()


def test_smartwatch_from_made_up_recordings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path, monkeypatch, recordings(tmp_path), trusted=True)
    views = data.smartwatch(views=["gyro_raw", "accel"])
    assert list(views.views) == ["gyro_raw", "accel"]
    assert views.labels.tolist() == [0, 0, 1, 1, 1, 1]  # two windows of 2 s in 5 s
    assert views.class_names == ("pendulum", "abduction")
    assert views.ids[1:3].tolist() == ["subject 3 PEN left 1", "subject 3 ABD right 0"]
    assert views.groups is not None and views.view("accel").groups is views.groups
    assert views.groups.tolist() == ["subject 3"] * 4 + ["subject 8"] * 2
    assert (views.views["gyro_raw"][4] == np.array([[5], [6], [7]])).all()
    assert views.views["accel"].shape == (6, 51)
    assert len(data.smartwatch(views=["gyro"], overlap=0.5)) == 3 * 4
    for wrong in ({"seconds": 0.01}, {"seconds": float("nan")}, {"seconds": 6.0}, {"overlap": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            data.smartwatch(**wrong)


def test_a_changed_pickle_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = pickle.dumps(Trap())
    fake(tmp_path, monkeypatch, content, trusted=False)
    with pytest.raises(FetchError, match="it was not read"):
        data.smartwatch()
    assert not Trap.opened
    pickle.loads(content)
    assert Trap.opened  # the trap works


def test_real_smartwatch() -> None:
    if not data.is_cached("seglearn"):
        pytest.skip("seglearn is not in the cache")
    views = data.load("smartwatch", views=["accel", "gyro_raw"])
    assert isinstance(views, Views) and views.groups is not None
    assert views.views["accel"].shape == (2369, 51)
    assert views.views["gyro_raw"].shape == (2369, 3, 100)
    assert len(set(views.ids.tolist())) == 2369 and len(set(views.groups.tolist())) == 10
    assert np.bincount(views.labels).tolist() == [254, 389, 396, 363, 366, 294, 307]
    # Gravity is in the accelerometer: on average a window's mean acceleration is about 1 g long.
    length = np.linalg.norm(views.views["accel"][:, :3], axis=1)
    assert 0.9 < np.median(length) < 1.2
