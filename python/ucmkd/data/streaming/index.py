"""``index.json`` beside the shards: what a training must know before it has read any of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ucmkd.data._names import unknown_name
from ucmkd.data.streaming.moments import Moments

INDEX = "index.json"
FORMAT = 1


class ShardError(ValueError):
    """Shards or their index are missing, damaged, or not as the index says."""


@dataclass(frozen=True)
class Split:
    """The shards of one split, ``train`` for example.

    Attributes:
        name: Of the split.
        files: The tar files.
        sizes: Samples in each.
        labels: Samples of every class ``(C,)``; None for samples without labels.
        moments: Of the samples.
    """

    name: str
    files: tuple[Path, ...]
    sizes: tuple[int, ...]
    labels: tuple[int, ...] | None
    moments: Moments

    def __len__(self) -> int:
        return sum(self.sizes)


@dataclass(frozen=True)
class ShardFolder:
    """A folder of shards, by its index; no shard has been opened.

    Attributes:
        path: The folder.
        class_names: C names.
        shape: Of one sample.
        splits: By name.
        modalities: Of joined views, how many columns belong to each; else None.
    """

    path: Path
    class_names: tuple[str, ...]
    shape: tuple[int, ...]
    splits: Mapping[str, Split]
    modalities: Mapping[str, int] | None = None

    def split(self, name: str) -> Split:
        """One split.

        Raises:
            ShardError: There is none of this name; the message has the nearest one.
        """
        if name not in self.splits:
            raise ShardError(str(unknown_name(f"split of {self.path}", name, self.splits)))
        return self.splits[name]


def open_shards(folder: str | Path) -> ShardFolder:
    """Read the index of a folder of shards.

    Args:
        folder: As :class:`ShardWriter` or :func:`index_shards` left it.

    Raises:
        ShardError: No index, one that is damaged or of another version, or a shard that it lists
            and the folder lacks.
    """
    path = Path(folder).expanduser()
    file = path / INDEX
    if not file.is_file():
        raise ShardError(
            f"{path} has no {INDEX}, so it is no folder of shards; write one with "
            "ucmkd.data.streaming.write_shards, or make the index of tar files that are there "
            "with index_shards"
        )
    try:
        found = _parsed(path, json.loads(file.read_text(encoding="utf-8")))
    except ShardError:
        raise
    except Exception as error:  # whatever a damaged file makes of the lines above
        raise ShardError(f"{file} is damaged: {type(error).__name__}: {error}") from error
    for split in found.splits.values():
        for shard in split.files:
            if not shard.is_file():
                raise ShardError(
                    f"{path} lacks the shard {shard.name}, which its {INDEX} lists with "
                    f"{split.sizes[split.files.index(shard)]} samples"
                )
    return found


def write_index(folder: ShardFolder) -> None:
    """Write the index, in one move."""
    content = {
        "format": FORMAT,
        "class_names": list(folder.class_names),
        "shape": list(folder.shape),
        "modalities": None if folder.modalities is None else dict(folder.modalities),
        "splits": {name: _plain(split) for name, split in folder.splits.items()},
    }
    temporary = folder.path / f"{INDEX}.tmp"
    temporary.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    temporary.replace(folder.path / INDEX)


def _plain(split: Split) -> dict[str, Any]:
    _, mean, square = split.moments
    return {
        "shards": {file.name: size for file, size in zip(split.files, split.sizes, strict=True)},
        "labels": None if split.labels is None else list(split.labels),
        "mean": mean.ravel().tolist(),
        "square": square.ravel().tolist(),
    }


def _parsed(path: Path, content: Any) -> ShardFolder:
    if content["format"] != FORMAT:
        raise ShardError(
            f"{path / INDEX} has format {content['format']!r}, this version reads {FORMAT}"
        )
    names, shape = tuple(content["class_names"]), tuple(content["shape"])
    _require(path, len(names) > 0 and len(set(names)) == len(names), "class_names", names)
    _require(path, all(isinstance(name, str) for name in names), "class_names", names)
    _require(path, len(shape) > 0 and all(_positive(size) for size in shape), "shape", shape)
    modalities = content["modalities"]
    if modalities is not None:
        whole = all(map(_positive, modalities.values())) and sum(modalities.values()) == shape[0]
        _require(path, len(shape) == 1 and whole, "modalities", modalities)
    splits = {
        name: _split(path, name, given, names, shape) for name, given in content["splits"].items()
    }
    _require(path, len(splits) > 0, "splits", list(splits))
    return ShardFolder(path, names, shape, splits, modalities)


def _split(
    path: Path, name: str, given: Any, names: tuple[str, ...], shape: tuple[int, ...]
) -> Split:
    shards, labels = dict(given["shards"]), given["labels"]
    plain = all(Path(shard).name == shard and shard.endswith(".tar") for shard in shards)
    _require(path, len(shards) > 0 and plain, f"splits.{name}.shards", list(shards))
    _require(path, all(map(_positive, shards.values())), f"splits.{name}.shards", shards)
    total = sum(shards.values())
    if labels is not None:
        whole = all(type(count) is int and count >= 0 for count in labels)
        _require(
            path, whole and (len(labels), sum(labels)) == (len(names), total),
            f"splits.{name}.labels", labels,
        )  # fmt: skip
    mean, square = (_moment(path, name, given[key], shape) for key in ("mean", "square"))
    return Split(
        name,
        tuple(path / shard for shard in shards),
        tuple(shards.values()),
        None if labels is None else tuple(labels),
        (total, mean, square),
    )


def _moment(path: Path, name: str, given: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    values = np.asarray(given, dtype=np.float64)
    wanted = shape if values.size == math.prod(shape) else (shape[0], *(1,) * (len(shape) - 1))
    fits = values.size == math.prod(wanted) and bool(np.isfinite(values).all())
    _require(path, fits, f"splits.{name}: mean and square", f"{values.size} values")
    return values.reshape(wanted)


def _positive(value: Any) -> bool:
    return type(value) is int and value > 0


def _require(path: Path, right: bool, what: str, got: object) -> None:
    if not right:
        raise ShardError(f"{path / INDEX} is damaged: {what} cannot be {got!r}")
