"""Sound to log-mel spectrograms of a fixed size."""

from __future__ import annotations

import math
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ucmkd.data.audiovisual.media import check_file, need, opened
from ucmkd.data.base import FloatArray
from ucmkd.data.speech import log_mel, mel_filters

RATE = 16000
#: Sampling rates that a file may have.
RATES = (1_000, 384_000)


@dataclass(frozen=True)
class Spectrogram:
    """What a clip's sound becomes: `(1, n_mels, frames)`, decibels below its loudest cell.

    16 kHz, mono; windows of 64 ms (Hann) every `hop` samples, centred, so that `seconds` span
    `frames = seconds * 16000 / hop` columns. Shorter sounds are repeated to that length, longer
    ones lose their end; levels cancel and nothing is below -80 (see `ucmkd.data.speech.log_mel`).

    Attributes:
        seconds: Length of the sound.
        hop: Samples from one column to the next.
        n_mels: Mel bands from 0 to 8 kHz.
    """

    seconds: float
    hop: int
    n_mels: int = 128

    def __post_init__(self) -> None:
        for name in ("seconds", "hop", "n_mels"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.frames < 1:
            raise ValueError(f"seconds = {self.seconds:g} is less than one hop of {self.hop}")

    @property
    def frames(self) -> int:
        """Number of columns."""
        return int(self.seconds * RATE) // self.hop

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(1, n_mels, frames)`."""
        return (1, self.n_mels, self.frames)

    def __call__(self, samples: ArrayLike) -> FloatArray:
        """The spectrogram of `(n,)` samples at 16 kHz, n at least 1."""
        signal = np.resize(np.asarray(samples, dtype=np.float64), self.frames * self.hop)
        length = 1024
        centred = np.pad(signal, length // 2)
        return log_mel(centred, mel_filters(self.n_mels, length, RATE), hop=self.hop)[
            None, :, : self.frames
        ]


def read_audio(path: Path, start: float = 0.0, end: float | None = None) -> FloatArray:
    """A sound file, or the sound of a video, as mono samples `(n,)` at 16 kHz in [-1, 1].

    16-bit `.wav` files are read with the standard library, at any rate and with any number of
    channels; everything else (`.mp4`, `.flv`, `.mp3`, `.flac`, other `.wav`) with PyAV, from the
    extra `audiovisual`. Channels are averaged.

    Args:
        path: The file.
        start: Seconds to leave out at the beginning.
        end: Where to stop, in seconds; None for all.

    Raises:
        ImportError: The file needs PyAV, and it is not installed.
        ValueError: The file is absent, damaged, without sound, of a sampling rate outside 1 to
            384 kHz, or too short for `start`.
    """
    check_file(path)
    read = _read_wave(path) if path.suffix.lower() == ".wav" else None
    samples, rate = _decode(path) if read is None else read
    if not RATES[0] <= rate <= RATES[1]:  # resampling from a damaged rate would take for ever
        raise ValueError(
            f"{path} says that it has {rate} samples a second; accepted are {RATES[0]} to "
            f"{RATES[1]}"
        )
    kept = samples[int(start * rate) : None if end is None else int(end * rate)]
    if len(kept) == 0:
        raise ValueError(
            f"{path} has {len(samples) / rate:.2f} s of sound, none of it from {start:g} s"
            + ("" if end is None else f" to {end:g} s")
        )
    if rate == RATE:
        return kept
    need("scipy", f"resampling of {path.name} from {rate} Hz")
    from scipy.signal import resample_poly

    divisor = math.gcd(rate, RATE)
    return resample_poly(kept, RATE // divisor, rate // divisor).astype(np.float32)


def _read_wave(path: Path) -> tuple[FloatArray, int] | None:
    """None for a wave file that the standard library does not read."""
    try:
        with wave.open(str(path), "rb") as stream:
            channels, width, rate = stream.getparams()[:3]
            raw = stream.readframes(stream.getnframes()) if width == 2 else b""
    except (EOFError, RuntimeError) as error:  # the latter: a chunk of a wrong length
        raise ValueError(f"{path} is cut short or damaged") from error
    except wave.Error:
        return None
    if width != 2:
        return None
    values = np.frombuffer(raw[: len(raw) // (2 * channels) * 2 * channels], dtype="<i2")
    return values.reshape(-1, channels).mean(axis=1, dtype=np.float32) / np.float32(32768), rate


def _decode(path: Path) -> tuple[FloatArray, int]:
    parts: list[Any] = []
    with opened(path, "reading sound") as container:
        if not container.streams.audio:
            raise ValueError(f"{path} has no sound")
        av = need("av", "decoding")
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        for frame in container.decode(audio=0):
            parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
        parts += [part.to_ndarray()[0] for part in resampler.resample(None)]
    samples = np.concatenate(parts) if parts else np.empty(0)
    if len(samples) == 0:
        raise ValueError(f"{path} holds no sound")
    return samples.astype(np.float32), RATE
