"""Opening of media files: which need an extra, and which are not what they seem."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

IMAGES = (".jpg", ".jpeg", ".png", ".bmp")


def need(module: str, purpose: str) -> Any:
    """An optional module.

    Raises:
        ImportError: It is not installed; says which extra has it.
    """
    try:
        return __import__(module)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs the package {module!r}: install it with "
            "pip install 'ucmkd[audiovisual]'"
        ) from error


def check_file(path: Path) -> None:
    """Refuse a file that is absent or only stands for another.

    Raises:
        ValueError: There is no such file, it is empty, or it is a pointer of Git LFS.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    with path.open("rb") as stream:
        start = stream.read(40)
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{path} is a Git LFS pointer, not the recording; run git lfs pull in its repository"
        )
    if not start:
        raise ValueError(f"{path} is empty")


@contextmanager
def opened(path: Path, purpose: str) -> Iterator[Any]:
    """A container opened with PyAV.

    Raises:
        ImportError: PyAV is not installed.
        ValueError: The file is absent, damaged or of a kind that PyAV does not know.
    """
    check_file(path)  # an absent file is the user's first concern, not an absent package
    av = need("av", f"{purpose} from {path.suffix or 'this'} files")
    try:
        with av.open(str(path)) as container:
            yield container
    except (av.FFmpegError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be decoded: {error}") from error
