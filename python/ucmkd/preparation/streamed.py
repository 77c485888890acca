"""Training samples that stay in shards: what a recipe's data are then, and which keys it may use.

A folder of shards has been divided by whoever wrote it: ``train`` (labelled), ``unlabelled``,
``validation`` and ``test``; a teacher needs the first alone. Validation and test samples are read
into memory.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from ..batches import TrainingData
from ..config_data import DataConfig, StudentDataConfig, TeacherDataConfig
from ..config_errors import ConfigError
from ..data import DATASETS, Standardiser
from ..data.streaming.index import ShardFolder, open_shards
from ..data.streaming.moments import pooled
from ..pools import Stream
from .result import Prepared
from .shards import write_sides
from .transform import InputTransform

_SIDES = ("teacher", "student")
#: Keys that say something of rows in memory, with the only value that streams can have.
_MEMORY_ONLY = {
    "pairs": 0, "shared": False, "mismatch": None, "correspondence": None, "cohort_size": None,
}  # fmt: skip
_WRITTEN = {
    "teacher": {"max_teacher": None},
    "student": {"max_test": None, "test_groups": None},
}
"""Keys of the data section that divide a side, which a folder of shards has been already."""


def is_folder(dataset: str) -> bool:
    """Whether a side's ``dataset`` is (to be) a folder of shards."""
    if dataset in DATASETS or dataset.lower().endswith(".npz"):
        return False
    path = Path(dataset).expanduser()
    return path.is_dir() or len(path.parts) > 1


def is_streamed(config: DataConfig) -> bool:
    """Whether the training samples of a recipe stay in shards."""
    return config.stream.write or any(is_folder(getattr(config, s).dataset) for s in _SIDES)


def prepare_streams(config: DataConfig, seed: int) -> Prepared:
    """As :func:`ucmkd.preparation.prepare`, with the training samples left in shards.

    A side that is no folder of shards is written to some, in the cache, by the same split as for a
    training in memory.

    Raises:
        ConfigError: keys that need samples in memory, or that a folder of shards has no use for;
            a missing split; classes that differ.
        ShardError: a folder without an index, a damaged one, or a damaged shard.
    """
    given = {role: getattr(config, role) for role in _SIDES}
    _check(config, given)
    folders = {role: open_shards(s.dataset) for role, s in given.items() if is_folder(s.dataset)}
    written, notes = write_sides(config, seed, folders)
    folders |= written
    teacher, student = folders["teacher"], folders["student"]
    if teacher.class_names != student.class_names:
        raise ConfigError(
            "data.teacher and data.student must have the same classes in the same order; "
            f"{teacher.path} has {teacher.class_names}, {student.path} has {student.class_names}"
        )
    own, _ = _problem(config, "teacher", teacher, ("train",))
    pools = ["train"]
    if config.student.unlabelled and "unlabelled" in student.splits:
        pools.append("unlabelled")
    data, transform = _problem(config, "student", student, pools, needed=("validation", "test"))
    for role, part in (("teacher", own), ("student", data)):
        sizes = (
            f"{len(s)} {name} in {len(s.split.files)} shards" for name, s in part.streams.items()
        )
        named = ", ".join(sizes).replace("student", "labelled")
        notes.append(f"streamed, {role}: {named}, from {folders[role].path}")
    return Prepared(
        teacher=own,
        student=replace(data, teacher_modalities=teacher.modalities),
        paired_teacher=None,
        transform=transform,
        class_names=student.class_names,
        notes=tuple(notes),
    )


def _problem(
    config: DataConfig,
    role: str,
    folder: ShardFolder,
    pools: list[str] | tuple[str, ...],
    needed: tuple[str, ...] = (),
) -> tuple[TrainingData, InputTransform]:
    """One side's samples: streams, specimens of them, and what is held in memory."""
    for name in ("train", *needed):
        if name not in folder.splits:
            raise ConfigError(
                f"data.{role}.dataset {str(folder.path)!r} needs a split {name!r}; it has "
                f"{', '.join(folder.splits)}"
            )
        if folder.splits[name].labels is None:
            raise ConfigError(
                f"data.{role}.dataset {str(folder.path)!r}: split {name!r} has no labels"
            )
    side: TeacherDataConfig = getattr(config, role)
    standardiser = _standardiser(folder, pools) if side.standardise else None
    read = config.stream
    streams = {
        {"train": "student"}.get(name, name): Stream(
            folder, name, standardiser, workers=read.workers, buffer=read.buffer
        )
        for name in pools
    }
    inputs, label = streams["student"].specimen()
    assert label is not None
    held: dict[str, tuple[Tensor, Tensor | None]] = {
        name: Stream(folder, name, standardiser).whole()
        for name in ("validation", "test")[: 1 if role == "teacher" else 2]
        if name in folder.splits and folder.splits[name].labels is not None
    }
    validation, validation_label = held.get("validation", (None, None))
    test, test_label = held.get("test", (None, None))
    data = TrainingData(
        len(folder.class_names),
        inputs,
        label,
        validation,
        validation_label,
        test,
        test_label,
        unlabelled=streams["unlabelled"].specimen()[0] if "unlabelled" in streams else None,
        modalities=folder.modalities,
        streams=streams,
    )
    return data, InputTransform(None, standardiser, folder.modalities)


def _standardiser(folder: ShardFolder, pools: list[str] | tuple[str, ...]) -> Standardiser:
    """With the moments of the training samples, which the index has."""
    mean, scale = pooled([folder.split(name).moments for name in pools])
    return Standardiser(*(np.broadcast_to(p, folder.shape).copy() for p in (mean, scale)))


def _check(config: DataConfig, given: dict[str, TeacherDataConfig]) -> None:
    for key, accepted in _MEMORY_ONLY.items():
        if getattr(config, key) != accepted:
            raise ConfigError(
                f"data.{key} must be {json.dumps(accepted)} where samples are streamed "
                f"(data.stream, or a folder of shards), got {getattr(config, key)!r}"
            )
    if importlib.util.find_spec("torchdata") is None:
        raise ConfigError(
            "streamed samples (data.stream, or a folder of shards) need torchdata: install it with "
            "pip install 'ucmkd[stream]'"
        )
    plain = StudentDataConfig(labels_per_class=None)
    for role, side in given.items():
        if side.columns is not None:
            raise ConfigError(
                f"data.{role}.columns must be null where samples are streamed, got {side.columns}; "
                "choose columns before shards are written"
            )
        if not is_folder(side.dataset):
            continue
        wanted = {f"data.{key}": (getattr(config, key), v) for key, v in _WRITTEN[role].items()}
        wanted[f"data.{role}.view"] = (side.view, None)
        if isinstance(side, StudentDataConfig):
            for key in ("labels_per_class", "long_tail", "missing_classes", "label_noise",
                        "max_unlabelled"):  # fmt: skip
                wanted[f"data.student.{key}"] = (getattr(side, key), getattr(plain, key))
        for key, (value, accepted) in wanted.items():
            if value != accepted:
                raise ConfigError(
                    f"{key} must be {json.dumps(accepted)} for the folder of shards "
                    f"{side.dataset!r}, which is divided and labelled as it was written; got "
                    f"{value!r}"
                )
