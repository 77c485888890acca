"""What an adapter finds out about a data set before any recording is opened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ucmkd.data.audiovisual.audio import Spectrogram, read_audio
from ucmkd.data.audiovisual.cache import Progress, stored_rows
from ucmkd.data.audiovisual.frames import Picture, read_frame
from ucmkd.data.base import Views, choose_views
from ucmkd.data.stored import StoredArray

VIEWS = ("audio", "frames")
Part = Literal["train", "validation", "test", ""]


@dataclass(frozen=True)
class Clip:
    """One labelled recording.

    Attributes:
        id: Its name, distinct within the data set.
        label: Class, 0 … C - 1.
        group: Actor or video; what must not stand on two sides of a split.
        audio: File with the sound.
        frames: Video, image or folder of images.
        start: Seconds where the labelled event begins.
        end: Seconds where it ends; None: the end of the recording.
        part: Which part of an official split it belongs to; "" without one.
    """

    id: str
    label: int
    group: str
    audio: Path
    frames: Path
    start: float = 0.0
    end: float | None = None
    part: Part = ""


def views_of(
    name: str,
    clips: Sequence[Clip],
    class_names: tuple[str, ...],
    *,
    views: Iterable[str] | None,
    spectrogram: Spectrogram,
    picture: Picture,
    progress: Progress | None,
) -> Views:
    """Read the clips into the cache, as far as they are not yet there, and return the views.

    Views: "audio" `(n, 1, mels, columns)` in decibels, stored in half precision; "frames"
    `(n, 3, size, size)` in [0, 1], stored as bytes.

    Raises:
        ValueError: An unknown view, a clip's file that is absent or cannot be read.
        ImportError: A package of the extra is missing.
        OSError: The cache cannot be written, or its disk is too small.
    """
    chosen = choose_views(name, views, VIEWS)
    clips = sorted(clips, key=lambda clip: clip.id)
    arrays = {}
    for view in chosen:
        kind = spectrogram if view == "audio" else picture
        dtype, factor = (np.float16, 1.0) if view == "audio" else (np.uint8, 1 / 255)
        rows = stored_rows(
            f"{name}-{view}",
            [(clip.id, getattr(clip, view), clip.start, clip.end) for clip in clips],
            kind,
            np.dtype(dtype),
            partial(_make, clips, kind),
            progress=progress,
        )
        arrays[view] = StoredArray(rows, factor=factor)
    parts = np.array([clip.part for clip in clips])
    return Views(
        name,
        arrays,
        np.array([clip.label for clip in clips], dtype=np.int64),
        class_names,
        np.array([f"{name}/{clip.id}" for clip in clips]),
        groups=np.array([f"{name}/{clip.group}" for clip in clips]),
        test=parts == "test" if "test" in parts else None,
        validation=parts == "validation" if "validation" in parts else None,
    )


def _make(clips: Sequence[Clip], kind: Spectrogram | Picture, row: int) -> NDArray[Any]:
    clip = clips[row]
    if isinstance(kind, Spectrogram):
        return kind(read_audio(clip.audio, clip.start, clip.end))
    return kind(read_frame(clip.frames, clip.start, clip.end))


def without_straddling(clips: Sequence[Clip]) -> list[Clip]:
    """The clips without those whose group is also in a part that counts more.

    A video in the official test split is dropped from validation and training, one in the
    validation split from training.
    """
    order = {"": 0, "train": 0, "validation": 1, "test": 2}
    highest: dict[str, int] = {}
    for clip in clips:
        highest[clip.group] = max(highest.get(clip.group, 0), order[clip.part])
    return [clip for clip in clips if order[clip.part] == highest[clip.group]]


def find_media(folder: Path, stem: str, suffixes: Sequence[str]) -> Path:
    """`folder/stem` with the first of these suffixes that exists, or the folder of that name.

    Where there is neither, the first candidate: reading it is what names the missing file.
    """
    for candidate in (*(folder / f"{stem}{suffix}" for suffix in suffixes), folder / stem):
        if candidate.exists():
            return candidate
    return folder / f"{stem}{suffixes[0]}"
