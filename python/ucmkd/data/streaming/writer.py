"""Writing shards: one sample at a time, or arrays and data sets at once."""

from __future__ import annotations

import io
import math
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ucmkd.data.base import Dataset, FloatArray
from ucmkd.data.stored import StoredArray
from ucmkd.data.streaming.index import (
    INDEX,
    ShardError,
    ShardFolder,
    Split,
    open_shards,
    write_index,
)
from ucmkd.data.streaming.moments import RunningMoments
from ucmkd.data.streaming.samples import read_samples

_ROWS = 256  # read at once of what lies in a file


class _OpenSplit:
    """What is known of a split while its shards are written."""

    def __init__(self, name: str, shape: tuple[int, ...], classes: int | None) -> None:
        self.name, self.moments = name, RunningMoments(shape)
        self.files: list[Path] = []
        self.sizes: list[int] = []
        self.labels = None if classes is None else [0] * classes
        self.archive: tarfile.TarFile | None = None

    def count(self, sample: FloatArray, label: int | None) -> None:
        self.moments.add(sample)
        self.sizes[-1] += 1
        if self.labels is not None and label is not None:
            self.labels[label] += 1

    def close(self) -> Split:
        if self.archive is not None:
            self.archive.close()
            self.archive = None
        kept = self.moments
        return Split(
            self.name,
            tuple(self.files),
            tuple(self.sizes),
            None if self.labels is None else tuple(self.labels),
            (kept.count, kept.mean, kept.square),
        )


class ShardWriter:
    """Writes a folder of shards; used in a ``with`` block, whose end writes the index.

    Memory holds one sample. Shuffle what you add: a reader mixes what lies within reach of its
    buffer, not the whole. An error inside the block leaves a folder without an index.

    Args:
        folder: Made if absent; must not hold an index.
        class_names: C names.
        samples_per_shard: Samples in each tar file; the last one of a split may have fewer. A
            training reads a split with as many processes as it has shards at most.
        modalities: Of joined views, how many columns belong to each.

    Raises:
        ValueError: Names that are not distinct, no names, or a size below 1.
        ShardError: The folder holds shards already.
    """

    def __init__(
        self,
        folder: str | Path,
        class_names: Sequence[str],
        *,
        samples_per_shard: int = 1000,
        modalities: Mapping[str, int] | None = None,
    ) -> None:
        self.folder, self.class_names = Path(folder).expanduser(), tuple(map(str, class_names))
        if not self.class_names or len(set(self.class_names)) < len(self.class_names):
            raise ValueError(f"class_names must be distinct names, got {self.class_names}")
        if samples_per_shard < 1:
            raise ValueError(f"samples_per_shard must be at least 1, got {samples_per_shard}")
        if (self.folder / INDEX).exists():
            raise ShardError(f"{self.folder} already holds shards; choose another folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.samples_per_shard, self.modalities = samples_per_shard, modalities
        self._shape: tuple[int, ...] | None = None
        self._splits: dict[str, _OpenSplit] = {}

    def add(self, split: str, sample: ArrayLike, label: int | None = None) -> None:
        """Append one sample.

        Args:
            split: ``train``, ``unlabelled``, ``validation`` and ``test`` are what a recipe reads.
            sample: Real numbers of one shape throughout, at least one-dimensional; stored as
                float32.
            label: 0 … C - 1; None in a split without labels.

        Raises:
            ValueError: Another shape than before, NaN or Inf, a label out of range, or one where
                the split has none.
        """
        array = np.asarray(sample, dtype=np.float32)
        self._shape = array.shape if self._shape is None else self._shape
        if array.ndim == 0 or 0 in array.shape or array.shape != self._shape:
            raise ValueError(f"sample must have the shape {self._shape}, got {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"sample {self._number(split)} of {split!r} has NaN or Inf")
        classes = len(self.class_names)
        if label is not None and not 0 <= label < classes:
            raise ValueError(f"label must lie in 0…{classes - 1} (class_names), got {label}")
        if split not in self._splits:
            if not split.isidentifier():
                raise ValueError(f"split must be a plain name, got {split!r}")
            known = None if label is None else classes
            self._splits[split] = _OpenSplit(split, array.shape, known)
        own = self._splits[split]
        if (label is None) != (own.labels is None):
            raise ValueError(
                f"split {split!r} has samples {'with' if label is None else 'without'} labels; "
                f"got {label!r}"
            )
        archive, key = self._archive(own), f"{self._number(split):09d}"
        content = io.BytesIO()
        np.lib.format.write_array(content, np.ascontiguousarray(array), version=(1, 0))
        _append(archive, f"{key}.npy", content.getvalue())
        if label is not None:
            _append(archive, f"{key}.cls", str(int(label)).encode())
        own.count(array, label)

    def _number(self, split: str) -> int:
        return self._splits[split].moments.count if split in self._splits else 0

    def _archive(self, own: _OpenSplit) -> tarfile.TarFile:
        if own.archive is None or own.sizes[-1] == self.samples_per_shard:
            own.close()
            path = self.folder / f"{own.name}-{len(own.files):06d}.tar"
            own.files.append(path)
            own.sizes.append(0)
            own.archive = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        return own.archive

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        closed = {name: own.close() for name, own in self._splits.items()}
        if kind is not None:
            return
        if self._shape is None:
            raise ValueError(f"no sample was added to {self.folder}")
        write_index(
            ShardFolder(self.folder, self.class_names, self._shape, closed, self.modalities)
        )


def _append(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # no time and no owner: equal samples make equal files
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


Source = tuple["FloatArray | StoredArray", "ArrayLike | None"]
"""Inputs ``(n, ...)`` and labels ``(n,)``, or None."""


def write_shards(
    folder: str | Path,
    splits: Mapping[str, Source | Dataset],
    class_names: Sequence[str] | None = None,
    *,
    samples_per_shard: int = 1000,
    seed: int = 0,
    modalities: Mapping[str, int] | None = None,
) -> ShardFolder:
    """Write arrays or data sets as shards, every split in random order.

    Args:
        folder: As of :class:`ShardWriter`.
        splits: Inputs ``(n, ...)`` (an array, or a ``StoredArray`` that is read in pieces) and
            labels ``(n,)`` or None, by split; or a :class:`ucmkd.data.Dataset`.
        class_names: C names; None: those of the data sets.
        samples_per_shard: As of :class:`ShardWriter`.
        seed: Of the order.
        modalities: As of :class:`ShardWriter`.

    Returns:
        The folder, opened.

    Raises:
        ValueError: Rows that disagree, class names that disagree or are missing, or what
            :meth:`ShardWriter.add` refuses.
        ShardError: The folder holds shards already.
    """
    named = {d.class_names for d in splits.values() if isinstance(d, Dataset)}
    if class_names is not None:
        named.add(tuple(class_names))
    if len(named) != 1:
        raise ValueError(
            f"class_names must be given, and be those of the data sets; got {sorted(named) or None}"
        )
    sources: dict[str, Any] = {}
    for name, source in splits.items():
        pair = (source.inputs, source.labels) if isinstance(source, Dataset) else source
        inputs, labels = pair[0], None if pair[1] is None else np.asarray(pair[1])
        if labels is not None and labels.shape != (len(inputs),):
            raise ValueError(
                f"splits[{name!r}]: {len(inputs)} inputs need labels of shape ({len(inputs)},), "
                f"got {labels.shape}"
            )
        if labels is not None and labels.dtype.kind not in "iu":
            raise ValueError(f"splits[{name!r}]: labels must be integers, got {labels.dtype}")
        sources[name] = (inputs, labels)
    options: dict[str, Any] = {"samples_per_shard": samples_per_shard, "modalities": modalities}
    with ShardWriter(folder, named.pop(), **options) as writer:
        for number, (name, (inputs, labels)) in enumerate(sources.items()):
            order = np.random.default_rng([seed, number]).permutation(len(inputs))
            for start in range(0, len(order), _ROWS):
                rows = order[start : start + _ROWS]
                for row, sample in zip(rows, np.asarray(inputs[rows]), strict=True):
                    writer.add(name, sample, None if labels is None else int(labels[row]))
    return open_shards(folder)


def index_shards(
    folder: str | Path,
    splits: Mapping[str, Sequence[str]],
    class_names: Sequence[str],
    *,
    unlabelled: Sequence[str] = ("unlabelled",),
) -> ShardFolder:
    """Make the index of tar files that are there already; reads each of them once.

    Args:
        folder: With the files.
        splits: Their names, by split: ``{"train": ["a-0.tar", "a-1.tar"]}``.
        class_names: C names.
        unlabelled: Splits whose labels, if they have any, are not read.

    Returns:
        The folder, opened.

    Raises:
        ValueError: No files, or names of files outside the folder.
        ShardError: The folder has an index, or what :func:`open_shards` and a reader refuse.
    """
    path, shape, found = Path(folder).expanduser(), None, dict[str, Split]()
    if (path / INDEX).exists():
        raise ShardError(f"{path} already has an {INDEX}; delete it to make it again")
    for name, files in splits.items():
        if not files or any(Path(file).name != file for file in files):
            raise ValueError(f"splits[{name!r}] must be names of files in {path}, got {files!r}")
        classes = None if name in unlabelled else len(class_names)
        own: _OpenSplit | None = None
        for file in files:
            for sample in read_samples(path / file, shape=shape, classes=classes):
                if own is None or shape is None:
                    shape = sample.input.shape
                    own = _OpenSplit(name, shape, classes)
                if sample.number == 0:
                    own.files.append(path / file)
                    own.sizes.append(0)
                own.count(sample.input, sample.label)
        if own is None or len(own.files) < len(files):
            raise ShardError(f"{path}: a shard of split {name!r} has no samples: {files}")
        found[name] = own.close()
    if shape is None or math.prod(shape) == 0:
        raise ValueError(f"splits must name at least one file with samples, got {splits!r}")
    write_index(ShardFolder(path, tuple(map(str, class_names)), shape, found))
    return open_shards(path)
