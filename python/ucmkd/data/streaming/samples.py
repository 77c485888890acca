"""Samples out of one tar file, in the layout of WebDataset, and nothing else out of it.

Neighbouring members whose names agree up to the first dot are one sample: ``0007.npy`` its input,
``0007.cls`` (a number) or ``0007.json`` (with ``"label"``) its class. Members of other kinds are
passed over, those that would be unpickled are refused. No file is ever written: members are read
where they lie, so that their names cannot lead anywhere.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ucmkd.data.streaming.index import ShardError

PICKLED = ("pyd", "pickle", "pkl", "pth", "pt", "joblib")
#: The most bytes of a member that is read as text, and of the head of an array.
TEXT = 1 << 16


class Sample(NamedTuple):
    """One sample: input as float32, class (-1 without one), and its number in the shard."""

    input: NDArray[np.float32]
    label: int
    number: int


def read_samples(
    path: Path,
    *,
    shape: tuple[int, ...] | None = None,
    classes: int | None = None,
    start: int = 0,
    only: Collection[int] | None = None,
) -> Iterator[Sample]:
    """The samples of a shard in their order; what is passed over is not read.

    Args:
        path: A tar file, not compressed.
        shape: That every input must have; None: any.
        classes: C; every sample must then have a class below it. None: labels are not read.
        start: Number of the first sample.
        only: Numbers of the samples that are wanted; None: all.

    Raises:
        ShardError: The file is damaged or no tar file, or a sample of it is not as described.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            for number, (key, members) in enumerate(_grouped(path, archive)):
                if number >= start and (only is None or number in only):
                    place = f"{path}, sample {key!r}"
                    array = _input(place, archive, members, shape)
                    label = -1 if classes is None else _label(place, archive, members, classes)
                    yield Sample(array, label, number)
    except ShardError:
        raise
    except FileNotFoundError:
        raise ShardError(f"there is no shard {path}") from None
    except Exception as error:  # tarfile ends in any, according to what is damaged
        raise ShardError(
            f"{path} cannot be read as a tar file: {type(error).__name__}: {error}"
        ) from error


Members = dict[str, tarfile.TarInfo]


def _grouped(path: Path, archive: tarfile.TarFile) -> Iterator[tuple[str, Members]]:
    """Name and members, by what follows the first dot, of every sample."""
    key, members = "", Members()
    for member in archive:
        if member.isdir():
            continue
        name = PurePosixPath(member.name)
        stem, _, kind = name.name.partition(".")
        if not member.isreg() or member.issparse():
            raise ShardError(f"{path}: {member.name!r} is a link, a device or sparse, no file")
        if name.is_absolute() or ".." in name.parts:
            raise ShardError(f"{path}: {member.name!r} leads out of the archive")
        if kind.lower().rpartition(".")[2] in PICKLED:
            raise ShardError(
                f"{path}: {member.name!r} would have to be unpickled, which can run code; store "
                "inputs as .npy"
            )
        own = str(name.with_name(stem))
        if own != key and members:
            yield key, members
            members = Members()
        key = own
        if kind in members:
            raise ShardError(f"{path}, sample {key!r}: two members {kind!r}")
        members[kind] = member
    if members:
        yield key, members


def _bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    assert stream is not None  # a regular file
    content = stream.read()
    if len(content) != member.size:
        raise tarfile.ReadError(f"{member.name!r} is cut short")
    return content


def _input(
    place: str, archive: tarfile.TarFile, members: Members, shape: tuple[int, ...] | None
) -> NDArray[np.float32]:
    if "npy" not in members:
        raise ShardError(f"{place}: no member 'npy', only {', '.join(sorted(members))}")
    array = _array(place, _bytes(archive, members["npy"]))
    if shape is not None and array.shape != shape:
        raise ShardError(f"{place}: the input has shape {array.shape}, the others {shape}")
    if not np.isfinite(array).all():
        raise ShardError(f"{place}: the input has NaN or Inf")
    return array


def _array(place: str, content: bytes) -> NDArray[np.float32]:
    """A real array as float32; its head is compared with what follows before anything is made."""
    size = _head_size(content)
    try:
        shape, fortran, dtype = _head(content[:size])
    except Exception as error:  # a damaged head is parsed as Python text
        raise ShardError(f"{place}: no .npy array: {type(error).__name__}: {error}") from error
    if dtype.hasobject or dtype.kind not in "fiub":
        raise ShardError(f"{place}: the input must be real numbers, got {dtype}")
    body = content[size:]
    if any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != len(body):
        raise ShardError(f"{place}: an array {shape} of {dtype} does not fit {len(body)} bytes")
    flat = np.frombuffer(body, dtype=dtype)
    found = flat.reshape(shape, order="F" if fortran else "C")
    return np.array(found, dtype=np.float32, order="C")


def _head_size(content: bytes) -> int:
    """Bytes before the numbers: magic and version, the length of a text, and the text."""
    wide = content[6:7] == b"\x02"
    length = int.from_bytes(content[8 : 12 if wide else 10], "little")
    return min((12 if wide else 10) + length, TEXT)


@lru_cache(maxsize=16)
def _head(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and type; the samples of a shard have the same head, parsed once."""
    stream = io.BytesIO(head)
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): "read_array_header_1_0", (2, 0): "read_array_header_2_0"}[version]
    shape, fortran, dtype = getattr(np.lib.format, read)(stream, max_header_size=TEXT)
    if stream.tell() != len(head):
        raise ValueError("the head does not end where its length says")
    return shape, fortran, dtype


def _label(place: str, archive: tarfile.TarFile, members: Members, classes: int) -> int:
    kind = next((kind for kind in ("cls", "json") if kind in members), None)
    if kind is None:
        raise ShardError(f"{place}: no member 'cls' or 'json', only {', '.join(sorted(members))}")
    if members[kind].size > TEXT:
        raise ShardError(f"{place}: {kind!r} has {members[kind].size} bytes, no label has")
    content = _bytes(archive, members[kind])
    label: Any
    try:
        label = int(content) if kind == "cls" else json.loads(content)["label"]
    except (ValueError, KeyError, TypeError, RecursionError):
        wanted = "a number" if kind == "cls" else '{"label": number}'
        raise ShardError(f"{place}: {kind!r} must be {wanted}, got {content[:40]!r}") from None
    if type(label) is not int or not 0 <= label < classes:
        raise ShardError(f"{place}: the label must lie in 0…{classes - 1}, got {label!r}")
    return label
