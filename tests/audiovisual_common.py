"""Tiny recordings in the layouts of the audio-visual data sets."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
from PIL import Image

# Colour and pitch of class k, told apart after compression.
COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30))
PITCHES = (300.0, 700.0, 1500.0, 3000.0)


def tone(pitch: float, seconds: float, rate: int) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)


def write_wave(
    path: Path, samples: np.ndarray, rate: int = 16000, channels: int = 1, width: int = 2
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    full = np.repeat(np.asarray(samples)[:, None], channels, axis=1)
    codes = (full * (2 ** (8 * width - 1) - 1)).astype("<i4" if width == 4 else "<i2")
    with wave.open(str(path), "wb") as stream:
        stream.setparams((channels, width, rate, 0, "NONE", ""))
        stream.writeframes(codes.tobytes())
    return path


def write_pictures(folder: Path, colours: list[tuple[int, int, int]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, colour in enumerate(colours, 1):
        Image.new("RGB", (48, 32), colour).save(folder / f"{number}.jpg")
    return folder


def write_film(
    path: Path, colours: list[tuple[int, int, int]], samples: np.ndarray, rate: int = 16000
) -> Path:
    """One second per colour at ten pictures a second, with sound. Needs PyAV."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    flash = path.suffix == ".flv"
    with av.open(str(path), "w") as container:
        film = container.add_stream("flv1" if flash else "mpeg4", rate=10)
        film.width, film.height, film.pix_fmt = 48, 32, "yuv420p"
        # Flash knows no 16 kHz, so that it also exercises the resampling.
        rate = 44100 if flash else rate
        sound = container.add_stream("libmp3lame" if flash else "aac", rate=rate)
        for colour in colours:
            picture = np.full((32, 48, 3), colour, np.uint8)
            for _ in range(10):
                container.mux(film.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(film.encode())
        codes = (np.asarray(samples) * 32767).astype("<i2")[None]
        frame = av.AudioFrame.from_ndarray(codes, format="s16", layout="mono")
        frame.sample_rate = 16000
        container.mux(sound.encode(frame) if rate == 16000 else _resampled(sound, frame, rate))
        container.mux(sound.encode())
    return path


def _resampled(sound, frame, rate: int) -> list:  # type: ignore[no-untyped-def]
    import av

    resampler = av.AudioResampler(format=sound.format, layout=sound.layout, rate=rate)
    parts = [*resampler.resample(frame), *resampler.resample(None)]
    return [packet for part in parts for packet in sound.encode(part)]


def make_ravdess(root: Path, actors: int = 6, repeats: int = 2) -> Path:
    """Four emotions, sound at 48 kHz and pictures in folders, two clips per actor and emotion."""
    for actor in range(1, actors + 1):
        folder = root / "RAVDESS" / f"Actor_{actor:02d}"
        for emotion in range(1, 5):
            for repeat in range(1, repeats + 1):
                rest = f"01-{emotion:02d}-01-01-{repeat:02d}-{actor:02d}"
                sound = tone(PITCHES[emotion - 1] + 5 * actor + repeat, 0.4, 48000)
                write_wave(folder / f"03-{rest}.wav", sound, 48000)
                write_pictures(folder / f"01-{rest}", [COLOURS[emotion - 1]])
        write_wave(folder / f"03-02-01-01-01-01-{actor:02d}.wav", tone(50, 0.1, 48000), 48000)
    return root


def make_cremad(root: Path, actors: int = 3) -> Path:
    folder = root / "CREMA-D"
    for actor in range(1001, 1001 + actors):
        for k, emotion in enumerate(("ANG", "HAP", "SAD")):
            stem = f"{actor}_DFA_{emotion}_{'X' if (actor, k) == (1001, 0) else 'XX'}"
            write_wave(folder / "AudioWAV" / f"{stem}.wav", tone(PITCHES[k] + actor, 0.3, 16000))
            write_pictures(folder / "VideoFlash" / stem, [COLOURS[k]])
    return root


AVE_LISTS = {
    "trainSet.txt": [
        "Bark&a1&good&0&1",
        "Bell&a2&good&1&3",
        "Bell&a3&good&0&0",  # lasts no time
        "Bark&a3&good&0&2",
        "Bell&a3&good&1&2",  # a second event of the same video
        "Bell&t1&good&0&1",  # also in the test split
    ],
    "valSet.txt": ["Bark&v1&good&0&2", "Bell&v2&good&0&2"],
    "testSet.txt": ["Bell&t1&good&0&2", "Bark&t2&good&0&2"],
}


def make_ave(root: Path) -> Path:
    folder = root / "AVE_Dataset"
    folder.mkdir(parents=True)
    for name, lines in AVE_LISTS.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    for video in ("a1", "a2", "a3", "v1", "v2", "t1", "t2"):
        write_wave(folder / "Audios" / f"{video}.wav", tone(400, 3, 16000))
        write_pictures(folder / "AVE" / video, [COLOURS[0], COLOURS[1], COLOURS[2]])
    return root


VGGSOUND = [
    ("id_-1", 3, "bird chirping, tweeting", "train"),
    ("id_-1", 40, "dog barking", "test"),
    ("id2", 12, "dog barking", "train"),
    ("id3", 0, "bird chirping, tweeting", "train"),
    ("id4", 7, "dog barking", "test"),
    ("gone", 7, "dog barking", "train"),
    ("id5", 7, "violin", "train"),
]


def make_vggsound(root: Path) -> Path:
    folder = root / "VGGSound"
    folder.mkdir(parents=True)
    lines = [f'{video},{start},"{label}",{part}' for video, start, label, part in VGGSOUND]
    (folder / "vggsound.csv").write_text("\n".join(lines) + "\n")
    for video, start, _, _ in VGGSOUND:
        if video != "gone":
            write_wave(folder / "audio" / f"{video}_{start:06d}.wav", tone(400, 1, 16000))
            write_pictures(folder / "video" / f"{video}_{start:06d}", [COLOURS[0]])
    return root
