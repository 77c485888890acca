"""One picture of a clip: out of a video, or out of a folder of images."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ucmkd.data.audiovisual.media import IMAGES, check_file, need, opened


@dataclass(frozen=True)
class Picture:
    """What a clip's picture becomes: `(3, size, size)` bytes, red, green, blue.

    The centred square of the picture, resized bilinearly with antialiasing.

    Attributes:
        size: Pixels per side.
    """

    size: int = 112

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(3, size, size)`."""
        return (3, self.size, self.size)

    def __call__(self, image: Any) -> NDArray[np.uint8]:
        """The square of a `PIL.Image.Image`."""
        width, height = image.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        need("PIL", "resizing pictures")
        from PIL import Image

        square = image.convert("RGB").crop((left, top, left + side, top + side))
        square = square.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return np.ascontiguousarray(np.asarray(square, dtype=np.uint8).transpose(2, 0, 1))


PICTURE = Picture(112)


def read_frame(path: Path, start: float = 0.0, end: float | None = None) -> Any:
    """The middle picture of a clip, as a `PIL.Image.Image`.

    A folder of images: the middle one in the natural order of their names (`start` and `end` are
    not used: such folders hold the pictures of the event alone). A video: the first picture at or
    after the middle of `start` … `end` seconds (None: the end of the video), else its last one.

    Raises:
        ImportError: Pillow or, for a video, PyAV is not installed.
        ValueError: The file or folder is absent, damaged or holds no picture.
    """
    if path.is_dir():
        found = sorted(
            (item for item in path.iterdir() if item.suffix.lower() in IMAGES), key=_natural
        )
        if not found:
            raise ValueError(f"{path} holds no images ({', '.join(IMAGES)})")
        return _image(found[len(found) // 2])
    if path.suffix.lower() in IMAGES:
        return _image(path)
    with opened(path, "reading pictures") as container:
        if not container.streams.video:
            raise ValueError(f"{path} has no pictures")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        if end is None:
            end = _duration(container, stream)
        frame = _frame_at(container, stream, (start + end) / 2)
    if frame is None:
        raise ValueError(f"{path} holds no picture that can be decoded")
    need("PIL", "reading pictures")
    return frame.to_image()


def _duration(container: Any, stream: Any) -> float:
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None:
        return container.duration / 1e6
    times = [frame.time for frame in container.decode(stream) if frame.time is not None]
    container.seek(0)
    return max(times, default=0.0)


def _frame_at(container: Any, stream: Any, second: float) -> Any:
    """The first frame at or after `second`, else the last one, else None."""
    av = need("av", "reading pictures")
    target = second + float((stream.start_time or 0) * stream.time_base)
    try:
        container.seek(int(target / stream.time_base), stream=stream)  # to the key frame before
    except av.FFmpegError:
        container.seek(0)  # a container without an index: decode from its beginning
    frame = None
    for frame in container.decode(stream):
        if frame.time is None or frame.time >= target:
            break
    return frame


def _image(path: Path) -> Any:
    need("PIL", "reading pictures")
    from PIL import Image, UnidentifiedImageError

    check_file(path)
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error


def _natural(path: Path) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]
