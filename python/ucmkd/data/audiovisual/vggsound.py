"""VGGSound: ten seconds of video with a sound that is seen, 309 classes."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ucmkd.data.audiovisual.audio import Spectrogram
from ucmkd.data.audiovisual.cache import Progress
from ucmkd.data.audiovisual.clips import (
    Clip,
    Part,
    find_media,
    views_of,
    without_straddling,
)
from ucmkd.data.audiovisual.frames import PICTURE, Picture
from ucmkd.data.base import DataNotFoundError, Views, find_in_root

FOLDER = "VGGSound"
SPECTROGRAM = Spectrogram(seconds=10.0, hop=320)


def vggsound(
    data_root: str | Path | None = None,
    *,
    views: Iterable[str] | None = None,
    spectrogram: Spectrogram = SPECTROGRAM,
    picture: Picture = PICTURE,
    progress: Progress | None = None,
) -> Views:
    """VGGSound: some 200,000 clips of 10 s, 309 classes, official training and test split.

    Layout, below `data_root` or `UCMKD_DATA`: `VGGSound/vggsound.csv` with lines
    `youtube id,start seconds,label,train or test` and no header, and the clips in
    `VGGSound/video/ID_SSSSSS.mp4`, start seconds in six digits (or a folder of pictures of that
    name); `VGGSound/audio/ID_SSSSSS.wav` is preferred for the sound where it exists. With
    `VGGSound/classes.txt`, one class per line, only those classes are read, in that order (a study
    of 50 classes names them there).

    Clips without sound or picture on the disk are left out: many videos have disappeared. A video
    in the test split is no training clip. Groups are the videos; `test` is the official split, and
    validation samples are carved out of training. The middle picture is taken.

    Cache at the defaults: 128 KB of spectrogram and 38 KB of picture per clip; for 200,000 clips
    26 + 7.5 GB, for 50 classes about a sixth. Clips added later make a new cache.

    Args:
        data_root: Folder that holds `VGGSound`; None: `UCMKD_DATA`.
        views: "audio", "frames", or None for both.
        spectrogram: What the sound becomes.
        picture: What the picture becomes.
        progress: Called with (what is prepared, clips done, clips in all).

    Raises:
        DataNotFoundError: The folder or `vggsound.csv` is not there.
        ValueError: A line that is not as described (its number is named), a class of `classes.txt`
            that no line has, no clip on the disk, an unknown view, a recording that cannot be read.
        ImportError: A package of the extra `audiovisual` is missing.

    Source: Chen et al., ICASSP 2020 (robots.ox.ac.uk/~vgg/data/vggsound, CC BY 4.0).
    """
    folder = find_in_root("vggsound", FOLDER, data_root)
    rows = _read_csv(folder / "vggsound.csv")
    names = _classes(folder / "classes.txt", {row.label for row in rows})
    number = {name: index for index, name in enumerate(names)}
    clips = []
    for row in rows:
        stem = f"{row.video}_{row.start:06d}"
        film = find_media(folder / "video", stem, (".mp4",))
        sound = folder / "audio" / f"{stem}.wav"
        audio = sound if sound.exists() or film.is_dir() else film
        if row.label in number and film.exists() and audio.is_file():
            clips.append(Clip(stem, number[row.label], row.video, audio, film, part=row.part))
    if not clips:
        raise ValueError(
            f"{folder} has none of the {len(rows)} clips of vggsound.csv; the first would be "
            f"video/{rows[0].video}_{rows[0].start:06d}.mp4"
        )
    return views_of(
        "vggsound",
        without_straddling(clips),
        names,
        views=views,
        spectrogram=spectrogram,
        picture=picture,
        progress=progress,
    )


class _Row(NamedTuple):
    video: str
    start: int
    label: str
    part: Part


def _read_csv(path: Path) -> list[_Row]:
    if not path.is_file():
        raise DataNotFoundError(f"vggsound: no file {path}")
    rows = []
    with path.open(newline="", encoding="utf-8") as stream:
        for number, fields in enumerate(csv.reader(stream), 1):
            if not fields:
                continue
            if len(fields) != 4 or not fields[1].isdigit() or fields[3] not in ("train", "test"):
                raise ValueError(
                    f"{path}, line {number}: 'youtube id,start seconds,label,train or test' was "
                    f"expected, got {','.join(fields)!r}"
                )
            part: Part = "test" if fields[3] == "test" else "train"
            rows.append(_Row(fields[0], int(fields[1]), fields[2], part))
    if not rows:
        raise ValueError(f"{path} is empty")
    return rows


def _classes(path: Path, known: set[str]) -> tuple[str, ...]:
    if not path.is_file():
        return tuple(sorted(known))
    wanted = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    names = tuple(dict.fromkeys(name for name in wanted if name))
    absent = [name for name in names if name not in known]
    if absent or not names:
        raise ValueError(
            f"{path} must name classes of vggsound.csv, one per line; "
            + (f"{absent[0]!r} is none" if absent else "it is empty")
        )
    return names
