"""CREMA-D: emotional sentences of 91 actors, 6 emotions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ucmkd.data.audiovisual.audio import Spectrogram
from ucmkd.data.audiovisual.cache import Progress
from ucmkd.data.audiovisual.clips import Clip, find_media, views_of
from ucmkd.data.audiovisual.frames import PICTURE, Picture
from ucmkd.data.base import Views, find_in_root

FOLDER = "CREMA-D"
SPECTROGRAM = Spectrogram(seconds=3.0, hop=160)
EMOTIONS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral"}
EMOTIONS["SAD"] = "sad"
# One file of early copies ends in _X instead of _XX.
_NAME = re.compile(r"(?P<actor>\d{4})_[A-Z]{3}_(?P<emotion>[A-Z]{3})_(XX?|LO|MD|HI)")


def cremad(
    data_root: str | Path | None = None,
    *,
    views: Iterable[str] | None = None,
    spectrogram: Spectrogram = SPECTROGRAM,
    picture: Picture = PICTURE,
    progress: Progress | None = None,
) -> Views:
    """CREMA-D: 7442 clips of 91 actors, 6 emotions, no official split.

    Layout, below `data_root` or `UCMKD_DATA`: `CREMA-D/AudioWAV/ACTOR_SENTENCE_EMOTION_LEVEL.wav`
    and `CREMA-D/VideoFlash/….flv` of the same name (or a folder of pictures of that name). The
    repository keeps its media in Git LFS; pointers that were not pulled are named as such.

    The clips are those with a file in `AudioWAV` or `VideoFlash`; the middle picture is taken.
    Groups are the actors: a split by `ucmkd.data.unpaired_split` puts none on two sides, which is
    harder than a split by clip.

    Cache at the defaults: 77 KB of spectrogram and 38 KB of picture per clip, .6 + .3 GB.

    Args:
        data_root: Folder that holds `CREMA-D`; None: `UCMKD_DATA`.
        views: "audio", "frames", or None for both.
        spectrogram: What the sound becomes.
        picture: What the picture becomes.
        progress: Called with (what is prepared, clips done, clips in all).

    Raises:
        DataNotFoundError: The folder is not there.
        ValueError: No file is named as described, a clip lacks the file of a view, an unknown
            emotion or view, a recording that cannot be read.
        ImportError: A package of the extra `audiovisual` is missing.

    Source: Cao et al., IEEE Transactions on Affective Computing 2014
    (github.com/CheyneyComputerScience/CREMA-D, ODbL 1.0).
    """
    folder = find_in_root("cremad", FOLDER, data_root)
    found = {}
    for part in ("AudioWAV", "VideoFlash"):
        for path in (folder / part).glob("*"):
            match = _NAME.fullmatch(path.stem)
            if match:
                found[path.stem] = match
    if not found:
        raise ValueError(
            f"{folder} has no files AudioWAV/ACTOR_SENTENCE_EMOTION_LEVEL.wav or VideoFlash/….flv "
            "(1001_DFA_ANG_XX)"
        )
    codes = tuple(EMOTIONS)
    clips = []
    for stem, match in found.items():
        if match["emotion"] not in EMOTIONS:
            raise ValueError(f"{folder}: the emotion of {stem} must be one of {', '.join(codes)}")
        audio = find_media(folder / "AudioWAV", stem, (".wav",))
        film = find_media(folder / "VideoFlash", stem, (".flv", ".mp4"))
        clips.append(Clip(stem, codes.index(match["emotion"]), match["actor"], audio, film))
    return views_of(
        "cremad",
        clips,
        tuple(EMOTIONS.values()),
        views=views,
        spectrogram=spectrogram,
        picture=picture,
        progress=progress,
    )
