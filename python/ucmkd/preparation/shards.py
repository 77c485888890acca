"""Writing the sides of a recipe to shards in the cache, once for all runs that ask for the same."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import ucmkd

from ..config_data import DataConfig
from ..config_errors import ConfigError
from ..data import Dataset, cache_folder
from ..data.lock import file_lock
from ..data.streaming.index import FORMAT, ShardFolder, open_shards
from ..data.streaming.writer import Source, write_shards
from .choice import choose
from .classes import restricted
from .heldout import test_rows
from .labels import choose_labels, known_labels
from .parts import Parts, Rows, student_split, teacher_split
from .pool import capped, thinned
from .sides import read_side

_NOTES = "notes.json"


def write_sides(
    config: DataConfig, seed: int, known: Mapping[str, ShardFolder]
) -> tuple[dict[str, ShardFolder], list[str]]:
    """The sides that are no folder of shards yet, as such, and what was decided.

    Args:
        config: With their data sets, split and labels.
        seed: Of the split.
        known: The folder of a side that is one.

    Raises:
        ConfigError: as :func:`ucmkd.preparation.prepare`; classes other than the other side's.
        OSError: the cache cannot be written.
    """
    roles = [role for role in ("teacher", "student") if role not in known]
    if not roles:
        return {}, []
    shelf = cache_folder() / "shards"
    shelf.mkdir(parents=True, exist_ok=True)
    name = _name(config, seed, known)
    place = shelf / name
    with file_lock(shelf / f"{name}.lock"):
        if not (place / _NOTES).exists():
            with tempfile.TemporaryDirectory(dir=shelf, prefix=f"{name}.") as temporary:
                notes = _write(Path(temporary), config, seed, known, roles)
                (Path(temporary) / _NOTES).write_text(json.dumps(notes), encoding="utf-8")
                shutil.rmtree(place, ignore_errors=True)  # what a crash of the system has left
                Path(temporary).rename(place)
                Path(temporary).mkdir()  # for the end of the block to remove
    notes = json.loads((place / _NOTES).read_text(encoding="utf-8"))
    return {role: open_shards(place / role) for role in roles}, notes


def _name(config: DataConfig, seed: int, known: Mapping[str, ShardFolder]) -> str:
    """Of everything that the shards depend on."""
    settings: dict[str, Any] = dataclasses.asdict(config)
    settings["stream"] = config.stream.shard_size
    for role in ("teacher", "student"):
        del settings[role]["standardise"]
        file = Path(settings[role]["dataset"]).expanduser()
        if role not in known and file.is_file():  # an .npz may change
            settings[role]["stamp"] = (str(file.resolve()), file.stat().st_mtime_ns)
    classes = {role: folder.class_names for role, folder in known.items()}
    text = json.dumps([FORMAT, ucmkd.__version__, seed, settings, classes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _write(
    folder: Path, config: DataConfig, seed: int, known: Mapping[str, ShardFolder], roles: list[str]
) -> list[str]:
    generator = np.random.default_rng(seed)
    if len(roles) == 2:
        teacher, student, _, parts, labelled, unlabelled, notes = choose(config, seed, generator)
        _write_teacher(folder, config, seed, teacher, parts.teacher_train, parts.teacher_validation)
        return _write_student(folder, config, seed, student, parts, labelled, unlabelled, notes)
    other = next(iter(known.values()))
    data = _with_classes(config, roles[0], other)
    nothing = np.empty(0, dtype=np.int64)
    if roles == ["teacher"]:
        own = teacher_split(data, np.arange(len(data)), generator)
        parts = capped(config, Parts(own[0], own[1], nothing, nothing, nothing), data, data, seed)
        _write_teacher(folder, config, seed, data, *parts[:2])
        return []
    test, notes = test_rows(config, data, seed)
    train, validation, tested = student_split(config, data, test, generator)
    parts = Parts(nothing, nothing, train, validation, tested)
    parts = capped(config, parts, data, data, seed)
    labelled, unlabelled, drawn = choose_labels(config, data, parts.student_train, seed, generator)
    labelled, unlabelled = thinned(config, data, labelled, unlabelled, seed)
    return _write_student(folder, config, seed, data, parts, labelled, unlabelled, notes + drawn)


def _with_classes(config: DataConfig, role: str, other: ShardFolder) -> Dataset:
    """One side's data set, its classes numbered as in the other side's shards."""
    data = read_side(config, role)
    if set(data.class_names) != set(other.class_names):
        raise ConfigError(
            f"data.{role}: {data.name} must have the classes of the shards in {other.path}, "
            f"{other.class_names}; it has {data.class_names}"
        )
    return restricted(data, other.class_names)


def _write_teacher(
    folder: Path, config: DataConfig, seed: int, data: Dataset, train: Rows, validation: Rows
) -> None:
    _save(
        folder / "teacher", config, seed, data,
        {"train": _rows(data, train), "validation": _rows(data, validation)},
    )  # fmt: skip


def _write_student(
    folder: Path, config: DataConfig, seed: int, data: Dataset, parts: Parts, labelled: Rows,
    unlabelled: Rows, notes: list[str],
) -> list[str]:  # fmt: skip
    known = known_labels(config, data, labelled, seed, notes)
    splits: dict[str, Source] = {
        "train": (data.inputs[labelled], known),
        "validation": _rows(data, parts.student_validation),
        "test": _rows(data, parts.test),
    }
    if len(unlabelled):
        splits["unlabelled"] = (data.inputs[unlabelled], None)
    _save(folder / "student", config, seed, data, splits)
    return notes


def _rows(data: Dataset, rows: Rows) -> Source:
    return data.inputs[rows], data.labels[rows]


def _save(
    folder: Path, config: DataConfig, seed: int, data: Dataset, splits: dict[str, Source]
) -> None:
    write_shards(
        folder, splits, data.class_names,
        samples_per_shard=config.stream.shard_size, seed=seed, modalities=data.modalities,
    )  # fmt: skip
