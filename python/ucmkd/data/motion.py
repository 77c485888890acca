"""Movements: recordings of a smartwatch to windows, and windows to features."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ucmkd.data.base import FloatArray, Views, choose_views
from ucmkd.data.fetch import FetchError, Progress, fetch
from ucmkd.data.sources import SOURCES

SMARTWATCH_VIEWS = ("accel", "gyro", "accel_raw", "gyro_raw")
SMARTWATCH_RATE = 50.0
"""Samples per second of the smartwatch."""
EXERCISES: dict[str, str] = {
    "PEN": "pendulum",
    "ABD": "abduction",
    "FEL": "forward elevation",
    "IR": "internal rotation",
    "ER": "external rotation",
    "TRAP": "lower trapezius row",
    "ROW": "bent-over row",
}
"""The source's names of the shoulder exercises, spelt out."""


def smartwatch(
    *,
    views: Iterable[str] | None = None,
    seconds: float = 2.0,
    overlap: float = 0.0,
    progress: Progress | None = None,
) -> Views:
    """Shoulder exercises felt by a watch: windows of 140 recordings, ten subjects, seven classes.

    Each subject did every exercise with either arm. Windows of `seconds` follow one another in a
    recording; what is left at its end is dropped. By default they do not overlap, so that no
    instant is in two samples, whichever way samples are divided: 2369 windows of 100 instants.

    Views: "accel" and "gyro", 51 numbers per window (see `motion_features`); "accel_raw" and
    "gyro_raw", the window itself, `(n, 3, instants)`, in g and rad/s. A window begins anywhere in
    a movement, and a perceptron on raw instants has to learn every delay of it separately; the
    features do not depend on the delay. On subjects not seen in training a perceptron reaches 84 %
    ("accel") and 68 % ("gyro") with them, 75 % and 52 % on the raw windows.

    `groups` holds the subjects; `ids` subject, exercise, arm and number of the window.

    Args:
        views: The views to make; None for all.
        seconds: Length of a window, at least two instants (0.04 s).
        overlap: Share of a window that the next one repeats, in [0, 1).
        progress: See `fetch`.

    Raises:
        ValueError: An unknown view, a length or an overlap out of range, or a length that no
            recording reaches.
        FetchError: See `fetch`; also a file that was changed since it was fetched.

    Source: Burns et al. 2018, "Shoulder physiotherapy exercise recognition: machine learning the
    inertial signals from a smartwatch", as packed in seglearn 1.2.5 (BSD 3-clause).
    """
    chosen = choose_views("smartwatch", views, SMARTWATCH_VIEWS)
    if not (math.isfinite(seconds) and round(seconds * SMARTWATCH_RATE) >= 2):
        raise ValueError(f"seconds must be a length of at least 0.04, got {seconds}")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must lie in [0, 1), got {overlap}")
    recordings = _read_trusted(fetch("seglearn", progress=progress))
    length = round(seconds * SMARTWATCH_RATE)
    step = max(1, round(length * (1 - overlap)))

    pieces: list[np.ndarray] = []
    row: list[int] = []
    number: list[int] = []
    for index, series in enumerate(recordings["X"]):
        found = windows(series, length, step)
        pieces.append(found)
        row += [index] * len(found)
        number += range(len(found))
    cut = np.concatenate(pieces)
    if not len(cut):
        raise ValueError(f"seconds must be at most the longest recording, got {seconds}")
    accel, gyro = cut[:, :3], cut[:, 3:]
    made: dict[str, Callable[[], FloatArray]] = {
        "accel": lambda: motion_features(accel, SMARTWATCH_RATE),
        "gyro": lambda: motion_features(gyro, SMARTWATCH_RATE),
        "accel_raw": lambda: accel.astype(np.float32),
        "gyro_raw": lambda: gyro.astype(np.float32),
    }
    labels = recordings["y"][row].astype(np.int64)
    names = [str(name) for name in recordings["y_labels"]]
    subject = [f"subject {number}" for number in recordings["subject"][row].tolist()]
    arm = [("left", "right")[int(side)] for side in recordings["side"][row].tolist()]
    parts = zip(subject, [names[k] for k in labels.tolist()], arm, number, strict=True)
    return Views(
        "smartwatch",
        {view: made[view]() for view in chosen},
        labels,
        tuple(EXERCISES[name] for name in names),
        np.array([f"{who} {what} {side} {count}" for who, what, side, count in parts]),
        groups=np.array(subject),
    )


def _read_trusted(folder: Path) -> dict[str, Any]:
    """The one pickle among the data sets: unpickled only if its very bytes have the pinned hash."""
    (member,) = SOURCES["seglearn"].members
    content = (folder / member.filename).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != member.sha256:
        raise FetchError(
            f"{folder / member.filename} has SHA-256 {found}, expected {member.sha256}; it was not "
            "read (a pickle can run code), delete it to fetch it again"
        )
    recordings: dict[str, Any] = np.load(io.BytesIO(content), allow_pickle=True).item()
    return recordings


def windows(series: ArrayLike, length: int, step: int) -> np.ndarray:
    """Cut `(instants, channels)` into `(count, channels, length)`, one window every `step`.

    A series shorter than `length` gives no window.

    Raises:
        ValueError: `series` is not a matrix, or `length` or `step` is below 1.
    """
    array = np.asarray(series)
    if array.ndim != 2:
        raise ValueError(f"series must be (instants, channels), got shape {array.shape}")
    if length < 1 or step < 1:
        raise ValueError(f"length and step must be at least 1, got {length} and {step}")
    if len(array) < length:
        return np.empty((0, array.shape[1], length), dtype=array.dtype)
    return np.lib.stride_tricks.sliding_window_view(array, length, axis=0)[::step]


def motion_features(cut: ArrayLike, rate: float, highest: float = 6.0) -> FloatArray:
    """Statistics and spectrum of windows `(n, 3, t)` of a three-axis sensor.

    Per axis: mean, standard deviation, least and largest value, and the magnitudes
    `|Σ_t (x_t - mean) e^(-2πi f t)| / t` of its spectrum at the frequencies `0 < f ≤ highest`
    hertz, spaced by one over the window's length (bodily movement is slower than that); then the
    correlations of the axes (0, 1), (0, 2), (1, 2), 0 where an axis stands still.

    Args:
        cut: `(n, 3, t)`.
        rate: Samples per second.
        highest: Highest frequency kept, in hertz.

    Returns:
        `(n, 15 + 3 k)` float32, k the number of frequencies: 51 for 2 s at 50 Hz.

    Raises:
        ValueError: `cut` is not `(n, 3, t)` with t at least 2.
    """
    x = np.asarray(cut, dtype=np.float64)
    if x.ndim != 3 or x.shape[1] != 3 or x.shape[2] < 2:
        raise ValueError(f"cut must be (n, 3, t) with t at least 2, got shape {x.shape}")
    centred = x - x.mean(axis=2, keepdims=True)
    deviation = x.std(axis=2)
    frequency = np.fft.rfftfreq(x.shape[2], 1 / rate)
    kept = (frequency > 0) & (frequency <= highest)
    spectrum = np.abs(np.fft.rfft(centred, axis=2))[:, :, kept] / x.shape[2]
    pairs = ((0, 1), (0, 2), (1, 2))
    together = np.stack([(centred[:, i] * centred[:, j]).mean(axis=1) for i, j in pairs], axis=1)
    scale = np.stack([deviation[:, i] * deviation[:, j] for i, j in pairs], axis=1)
    correlation = np.divide(together, scale, out=np.zeros_like(scale), where=scale > 0)
    parts = [x.mean(axis=2), deviation, x.min(axis=2), x.max(axis=2)]
    parts += [spectrum.reshape(len(x), -1), correlation]
    return np.concatenate(parts, axis=1).astype(np.float32)
