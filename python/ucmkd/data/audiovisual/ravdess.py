"""RAVDESS: emotional speech of 24 actors, 8 emotions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ucmkd.data.audiovisual.audio import Spectrogram
from ucmkd.data.audiovisual.cache import Progress
from ucmkd.data.audiovisual.clips import Clip, find_media, views_of
from ucmkd.data.audiovisual.frames import PICTURE, Picture
from ucmkd.data.base import Views, find_in_root

FOLDER = "RAVDESS"
SPECTROGRAM = Spectrogram(seconds=4.0, hop=160)
EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
_NAME = re.compile(
    r"0[123]-(?P<rest>(?P<channel>0[12])-(?P<emotion>0[1-8])(-\d\d){3}-(?P<actor>\d\d))"
)


def ravdess(
    data_root: str | Path | None = None,
    *,
    views: Iterable[str] | None = None,
    spectrogram: Spectrogram = SPECTROGRAM,
    picture: Picture = PICTURE,
    progress: Progress | None = None,
) -> Views:
    """RAVDESS, speech: 1440 clips of 24 actors, 8 emotions, no official split.

    Layout, below `data_root` or `UCMKD_DATA`: `RAVDESS/Actor_XX/MM-VV-EE-II-SS-RR-AA.{wav,mp4}`,
    as the archives unpack: modality (01 sound and picture, 02 picture, 03 sound), vocal channel
    (01 speech; 02, song, is left out), emotion, intensity, statement, repetition, actor. Sound is
    taken from the `03` wave file, else from the `01` film; the middle picture from the `01` film,
    else from the `02` film (or a folder of pictures of that name).

    Groups are the actors: a split by `ucmkd.data.unpaired_split` puts none on two sides, which is
    harder than a split by clip.

    Cache at the defaults: 102 KB of spectrogram and 38 KB of picture per clip, .15 + .05 GB.

    Args:
        data_root: Folder that holds `RAVDESS`; None: `UCMKD_DATA`.
        views: "audio", "frames", or None for both.
        spectrogram: What the sound becomes.
        picture: What the picture becomes.
        progress: Called with (what is prepared, clips done, clips in all).

    Raises:
        DataNotFoundError: The folder is not there.
        ValueError: No file is named as described, a clip lacks the file of a view, an unknown
            view, a recording that cannot be read.
        ImportError: A package of the extra `audiovisual` is missing.

    Source: Livingstone and Russo, PLoS ONE 2018 (zenodo.org/record/1188976, CC BY-NC-SA 4.0).
    """
    folder = find_in_root("ravdess", FOLDER, data_root)
    found = {}
    for path in folder.glob("Actor_*/*"):
        match = _NAME.fullmatch(path.stem)
        if match and match["channel"] == "01":
            found[match["rest"]] = (path.parent, match)
    if not found:
        raise ValueError(
            f"{folder} has no files Actor_XX/MM-01-EE-II-SS-RR-AA.wav or .mp4 (speech, seven "
            "numbers of two digits)"
        )
    clips = []
    for rest, (actor, match) in found.items():
        films = [find_media(actor, f"{kind}-{rest}", (".mp4",)) for kind in ("01", "02")]
        film = next((path for path in films if path.exists()), films[0])
        sound = actor / f"03-{rest}.wav"
        audio = sound if sound.exists() or not films[0].is_file() else films[0]
        label = int(match["emotion"]) - 1
        clips.append(Clip(rest, label, match["actor"], audio, film))
    return views_of(
        "ravdess",
        clips,
        EMOTIONS,
        views=views,
        spectrogram=spectrogram,
        picture=picture,
        progress=progress,
    )
