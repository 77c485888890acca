"""Spoken digits: wave files to log-mel spectrograms (standard library and numpy)."""

from __future__ import annotations

import re
import wave
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ucmkd.data.base import DIGITS, Dataset, FloatArray, find_in_root

RECORDINGS = "free-spoken-digit-dataset/recordings"
_FILE_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[^_]+)_(?P<index>\d+)\.wav")


def spoken_digits(
    data_root: str | Path | None = None, *, n_mels: int = 40, frames: int = 64
) -> Dataset:
    """Free Spoken Digit Dataset: log-mel spectrograms `(3000, n_mels, frames)` in decibels.

    Six speakers, 8 kHz. Frames of 32 ms every 16 ms, so 64 frames span 1.02 s; decibels relative to
    the loudest cell of a recording, not below -80 (levels of speakers and microphones cancel).
    Shorter recordings are padded with -80 at the end, longer ones lose their end.
    `test` marks the official test split (recordings 0 to 4 of each speaker and digit), `groups`
    holds the speakers, `ids` the file names.

    Args:
        data_root: Folder that holds `free-spoken-digit-dataset/recordings/*.wav`; None:
            `UCMKD_DATA`.
        n_mels: Number of mel bands.
        frames: Number of frames.

    Raises:
        DataNotFoundError: The recordings are not there.
        ValueError: A file is not a mono 16-bit recording at 8 kHz, or `n_mels`/`frames` below 1.

    Source: github.com/Jakobovski/free-spoken-digit-dataset (CC BY-SA 4.0).
    """
    for name, value in (("n_mels", n_mels), ("frames", frames)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    folder = find_in_root("spoken_digits", RECORDINGS, data_root)
    found = [(path, _FILE_NAME.fullmatch(path.name)) for path in sorted(folder.glob("*.wav"))]
    named = [(path, match) for path, match in found if match]
    if not named:
        raise ValueError(f"{folder} has no files named DIGIT_SPEAKER_INDEX.wav")
    bank = mel_filters(n_mels, 256, 8000)
    return Dataset(
        "spoken_digits",
        np.stack([_fit(log_mel(read_wave(path), bank), frames) for path, _ in named]),
        np.array([int(match["digit"]) for _, match in named], dtype=np.int64),
        DIGITS,
        np.array([path.stem for path, _ in named]),
        groups=np.array([match["speaker"] for _, match in named]),
        test=np.array([int(match["index"]) < 5 for _, match in named]),
    )


def read_wave(path: Path, rate: int = 8000) -> FloatArray:
    """A mono 16-bit wave file as `(samples,)` in [-1, 1).

    Raises:
        ValueError: The file is damaged, empty or of another kind.
    """
    try:
        with wave.open(str(path), "rb") as stream:
            kind = (stream.getnchannels(), stream.getsampwidth(), stream.getframerate())
            raw = stream.readframes(stream.getnframes())
    except (wave.Error, EOFError, RuntimeError) as error:  # the last: a chunk of a wrong length
        reason = str(error) or "a chunk has a wrong length"
        raise ValueError(f"{path} cannot be read as a wave file: {reason}") from error
    if kind != (1, 2, rate):
        raise ValueError(
            f"{path} must have 1 channel of 2 bytes at {rate} Hz, got {kind[0]} of {kind[1]} at "
            f"{kind[2]} Hz"
        )
    if len(raw) < 2:
        raise ValueError(f"{path} holds no samples")
    samples = np.frombuffer(raw[: len(raw) // 2 * 2], dtype="<i2")
    return samples.astype(np.float32) / np.float32(32768)


def mel_filters(n_mels: int, n_fft: int, rate: int) -> NDArray[np.float64]:
    """Triangular filters `(n_mels, n_fft // 2 + 1)`, equally spaced in mel from 0 to `rate` / 2.

    `mel(f) = 2595 log10(1 + f / 700)` (O'Shaughnessy). Each filter is divided by its sum, so that
    it averages power; one that falls between two bins takes the nearest bin.
    """
    edges = 700 * (10 ** (np.linspace(0, np.log10(1 + rate / 1400), n_mels + 2)) - 1)
    bins = np.arange(n_fft // 2 + 1) * rate / n_fft
    left, centre, right = (edges[i : i + n_mels, None] for i in range(3))
    bank = np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre))
    bank = np.maximum(bank, 0.0)
    for row in np.flatnonzero(bank.sum(axis=1) == 0):
        bank[row, np.abs(bins - centre[row]).argmin()] = 1.0
    return bank / bank.sum(axis=1, keepdims=True)


def log_mel(
    signal: ArrayLike, bank: NDArray[np.float64], *, hop: int = 128, floor: float = -80.0
) -> FloatArray:
    """Log-mel spectrogram `(n_mels, frames)` in decibels below the loudest cell.

    Periodic Hann window of the length of the filters' transform (`n_fft`), one frame every `hop`
    samples; the end is padded with zeros to a whole frame. Silence is `floor` throughout.

    Raises:
        ValueError: `signal` is not one-dimensional or is empty.
    """
    samples = np.asarray(signal, dtype=np.float64)
    if samples.ndim != 1 or samples.size == 0:
        raise ValueError(f"signal must be a non-empty (samples,) array, got shape {samples.shape}")
    length = 2 * (bank.shape[1] - 1)
    count = 1 + max(0, -(-(len(samples) - length) // hop))
    padded = np.pad(samples, (0, (count - 1) * hop + length - len(samples)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, length)[::hop]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    power = np.abs(np.fft.rfft(windows * hann, axis=1)) ** 2 @ bank.T
    loudest = power.max()
    if loudest == 0:
        return np.full((bank.shape[0], count), floor, dtype=np.float32)
    relative = np.maximum(power / loudest, 10 ** (floor / 10))
    return (10 * np.log10(relative)).T.astype(np.float32)


def _fit(spectrogram: FloatArray, frames: int, floor: float = -80.0) -> FloatArray:
    """Cut or pad the end to a fixed number of frames."""
    kept = spectrogram[:, :frames]
    missing = frames - kept.shape[1]
    return np.pad(kept, ((0, 0), (0, missing)), constant_values=floor) if missing else kept
