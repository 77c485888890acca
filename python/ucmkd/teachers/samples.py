"""The samples behind a comparison: what a user has before any distillation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ucmkd.config import ConfigError, nearest
from ucmkd.config_data import DataConfig, StudentDataConfig, TeacherDataConfig
from ucmkd.data import top_variance
from ucmkd.data.files import read_archive
from ucmkd.preparation import prepare
from ucmkd.preparation.streamed import is_folder
from ucmkd.teachers.config import ArraysConfig, CandidatesConfig, TeachersConfig


@dataclass(frozen=True)
class Samples:
    """Student and candidates.

    Attributes:
        student: ``(n, d_S)`` inputs of its labelled and unlabelled training samples.
        labels: ``(n,)`` classes, -1 for the unlabelled ones.
        teachers: Name to ``(n, d_T)``, the same samples in the teacher's modality.
        own: Name to labelled samples ``(m, d_T)``, ``(m,)`` of the teacher alone.
        unpaired: Teachers of whom no sample is the student's, their ``own`` ones apart.
        class_names: C names; empty if there are none.
        notes: What was decided on the way.
    """

    student: Tensor
    labels: Tensor
    teachers: dict[str, Tensor]
    own: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    unpaired: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_samples(config: TeachersConfig) -> Samples:
    """Load and split.

    With ``data`` the split is that of ``ucmkd distill`` with the same seed. A common data set is
    divided: a teacher's own samples are labelled; of the student's training samples both views
    are taken, and the labels of ``labels_per_class`` a class. Its validation and test samples are
    not looked at. With ``arrays`` the file says it all.

    Raises:
        ConfigError: data sets or arrays that are missing or do not fit together.
        ValueError: an unknown data set or view, too few samples.
    """
    if config.arrays is not None:
        return _read_arrays(config.arrays)
    assert config.data is not None
    return read_candidates(config.data, config.seed)


def read_candidates(config: CandidatesConfig, seed: int) -> Samples:
    """The part of :func:`read_samples` for data sets."""
    student = config.student
    sides = {"student": student, **{f"teachers.{k}": side for k, side in config.teachers.items()}}
    for key, side in sides.items():
        if is_folder(side.dataset):
            raise ConfigError(
                f"data.{key}.dataset must be a data set in memory, got the folder {side.dataset}: "
                "a comparison of teachers looks at all samples at once, and shards are streamed"
            )
    first = next(iter(config.teachers.values()))
    rows, labels, names, notes = _student_rows(config, student, first, seed)
    teachers: dict[str, Tensor] = {}
    own: dict[str, tuple[Tensor, Tensor]] = {}
    unpaired = []
    for name, side in config.teachers.items():
        if side.dataset == student.dataset:
            # The view as its own teacher: rows depend on labels and seed, not on the view.
            as_student = replace(student, view=side.view, columns=None, standardise=False)
            found = prepare(_data(config, side, as_student), seed)
            theirs, known = _rows(found.student.student, found.student.unlabelled), found.student
            if not torch.equal(known.student_label, labels[: len(known.student_label)]):
                raise ConfigError(f"data.teachers.{name}: its labels differ from the student's")
        else:
            found = prepare(_data(config, side, replace(student, standardise=False)), seed)
            theirs = None
            unpaired.append(name)
            if found.class_names != names:
                raise ConfigError(
                    f"data.teachers.{name} must have the student's classes {', '.join(names)}, "
                    f"got {', '.join(found.class_names)} in common"
                )
        mine = _flat(found.teacher.student)
        if side.columns is not None:
            chosen = torch.from_numpy(top_variance(mine.numpy(), side.columns))
            mine, theirs = mine[:, chosen], None if theirs is None else theirs[:, chosen]
        own[name] = (mine, found.teacher.student_label)
        teachers[name] = mine if theirs is None else theirs
    return Samples(rows, labels, teachers, own, tuple(unpaired), names, notes)


def _student_rows(
    config: CandidatesConfig, student: StudentDataConfig, teacher: TeacherDataConfig, seed: int
) -> tuple[Tensor, Tensor, tuple[str, ...], tuple[str, ...]]:
    found = prepare(_data(config, teacher, replace(student, columns=None, standardise=False)), seed)
    rows = _rows(found.student.student, found.student.unlabelled)
    if student.columns is not None:
        rows = rows[:, torch.from_numpy(top_variance(rows.numpy(), student.columns))]
    unknown = torch.full((len(rows) - len(found.student.student_label),), -1)
    labels = torch.cat([found.student.student_label, unknown])
    return rows, labels, found.class_names, found.notes


def _data(
    config: CandidatesConfig, teacher: TeacherDataConfig, student: StudentDataConfig
) -> DataConfig:
    return DataConfig(
        teacher=replace(teacher, columns=None, standardise=False),
        student=student,
        teacher_fraction=config.teacher_fraction,
        validation=config.validation,
        test=config.test,
        max_teacher=config.max_teacher,
        root=config.root,
    )


def _rows(labelled: object, unlabelled: object) -> Tensor:
    parts = [_flat(part) for part in (labelled, unlabelled) if part is not None]
    return torch.cat(parts)


def _flat(inputs: object) -> Tensor:
    if not isinstance(inputs, Tensor):
        raise ConfigError(
            "data: these inputs are too big for memory; store features of them as .npz and use "
            "arrays"
        )
    return inputs.flatten(1)


def _read_arrays(config: ArraysConfig) -> Samples:
    path = Path(config.file).expanduser()
    try:
        found = read_archive(path)
    except OSError as error:
        why = "there is no such file" if not path.is_file() else error.strerror
        raise ConfigError(f"arrays.file {path} cannot be read: {why}") from error
    except ValueError as error:
        raise ConfigError(f"arrays.file: {error}") from error
    special = {config.labels, "class_names", "ids"}
    teachers = config.teachers
    if teachers is None:
        teachers = [name for name in found if name not in special | {config.student}]
    wanted = {"labels": [config.labels], "student": [config.student], "teachers": teachers}
    for key, names in wanted.items():
        for name in names:
            if name not in found:
                raise ConfigError(
                    f"arrays.{key}: {path} has no array {name!r}{nearest(name, found)} "
                    f"(it holds {', '.join(found)})"
                )
    if not teachers:
        raise ConfigError(f"arrays.teachers: {path} holds no array beside student and labels")
    rows = {name: _tensor(path, name, found[name]) for name in (config.student, *teachers)}
    labels = found[config.labels]
    assert labels is not None  # every array was read
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ConfigError(
            f"arrays.labels: {path}: {config.labels} must be integers (n,), -1 where unknown, "
            f"got {labels.dtype} {labels.shape}"
        )
    return Samples(rows.pop(config.student), _tensor(path, config.labels, labels).long(), rows)


def _tensor(path: Path, name: str, array: NDArray[Any] | None) -> Tensor:
    if array is None or array.dtype.kind not in "biuf":
        kind = None if array is None else array.dtype
        raise ConfigError(f"arrays.file {path}: {name} must hold real numbers, got {kind}")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))
