"""AVE: events that are heard and seen, 28 classes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

from ucmkd.data.audiovisual.audio import Spectrogram
from ucmkd.data.audiovisual.cache import Progress
from ucmkd.data.audiovisual.clips import Clip, find_media, views_of, without_straddling
from ucmkd.data.audiovisual.frames import PICTURE, Picture
from ucmkd.data.base import DataNotFoundError, Views, find_in_root

FOLDER = "AVE_Dataset"
SPECTROGRAM = Spectrogram(seconds=10.0, hop=320)
Part = Literal["train", "validation", "test"]
_FILES: dict[Part, str] = dict(
    zip(get_args(Part), ("trainSet.txt", "valSet.txt", "testSet.txt"), strict=True)
)


def ave(
    data_root: str | Path | None = None,
    *,
    views: Iterable[str] | None = None,
    spectrogram: Spectrogram = SPECTROGRAM,
    picture: Picture = PICTURE,
    progress: Progress | None = None,
) -> Views:
    """AVE: 4143 events of up to 10 s in YouTube videos, 28 classes, official three-way split.

    Layout, below `data_root` or `UCMKD_DATA`: `AVE_Dataset/trainSet.txt`, `valSet.txt`,
    `testSet.txt` with lines `category&video id&quality&start&end` (seconds), and
    `AVE_Dataset/AVE/VIDEO_ID.mp4`; instead of a video, a folder `AVE/VIDEO_ID/` with pictures of
    the event, and `Audios/VIDEO_ID.wav` for the sound, are read too.

    One clip per video: the first of its events that lasts, in its part; a video that is also in
    the test (or validation) split is no training clip. Sound and middle picture are those of the
    event. Groups are the videos, classes the sorted categories.

    Cache at the defaults: 128 KB of spectrogram and 38 KB of picture per clip, .5 + .2 GB.

    Args:
        data_root: Folder that holds `AVE_Dataset`; None: `UCMKD_DATA`.
        views: "audio", "frames", or None for both.
        spectrogram: What the sound becomes.
        picture: What the picture becomes.
        progress: Called with (what is prepared, clips done, clips in all).

    Raises:
        DataNotFoundError: The folder, or one of the three lists, is not there.
        ValueError: A line that is not as described (file and number are named), an unknown view,
            a recording that is absent or cannot be read.
        ImportError: A package of the extra `audiovisual` is missing.

    Source: Tian et al., ECCV 2018 (github.com/YapengTian/AVE-ECCV18).
    """
    folder = find_in_root("ave", FOLDER, data_root)
    rows = {part: _read_list(folder / name) for part, name in _FILES.items()}
    names = tuple(sorted({row[0] for part in rows.values() for row in part}))
    clips = []
    for part, found in rows.items():
        first = {video: (category, start, end) for category, video, start, end in reversed(found)}
        for video, (category, start, end) in first.items():
            sound = folder / "Audios" / f"{video}.wav"
            film = find_media(folder / "AVE", video, (".mp4",))
            audio = sound if sound.exists() or film.is_dir() else film
            label = names.index(category)
            clips.append(Clip(video, label, video, audio, film, start, end, part))
    return views_of(
        "ave",
        without_straddling(clips),
        names,
        views=views,
        spectrogram=spectrogram,
        picture=picture,
        progress=progress,
    )


def _read_list(path: Path) -> list[tuple[str, str, float, float]]:
    """Category, video, start, end of the events that last."""
    if not path.is_file():
        raise DataNotFoundError(f"ave: no file {path}; AVE_Dataset holds {list(_FILES.values())}")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("Category&"):
            continue
        fields = [field.strip() for field in line.split("&")]
        try:
            category, video, _quality, start, end = fields
            event = (category, video, float(start), float(end))
        except ValueError:
            raise ValueError(
                f"{path}, line {number}: 'category&video id&quality&start&end' was expected, "
                f"got {line!r}"
            ) from None
        if event[3] > event[2]:
            found.append(event)
    return found
