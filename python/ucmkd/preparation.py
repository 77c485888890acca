"""From a recipe's data section to tensors: split, few labels, columns, scaling, pairs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .batches import TrainingData
from .common_split import common_split
from .config import ConfigError, DataConfig, TeacherDataConfig
from .data import (
    DATASETS,
    Dataset,
    Standardiser,
    Views,
    assert_disjoint,
    few_labels,
    load,
    long_tail,
    require_same_classes,
    stratified_parts,
    top_variance,
)
from .data.base import FloatArray
from .data.stored import StoredArray
from .stored_inputs import Inputs, StoredInputs


@dataclass(frozen=True)
class InputTransform:
    """What happens to raw inputs of one side: choice of columns, then standardisation."""

    columns: NDArray[np.int64] | None
    standardiser: Standardiser | None

    @classmethod
    def fit(
        cls, config: TeacherDataConfig, train: FloatArray | StoredArray, place: str
    ) -> InputTransform:
        """Fit on the training rows of this side, without their labels.

        Rows that stay in a file get one mean and one scale per channel.
        """
        columns = None
        if isinstance(train, StoredArray):
            if config.columns is not None:
                raise ConfigError(
                    f"{place}.columns must be null for {config.dataset!r}, whose inputs are images "
                    f"or spectrograms, got {config.columns}"
                )
            return cls(None, _per_channel(train) if config.standardise else None)
        if config.columns is not None:
            train = train.reshape(len(train), -1)
            if config.columns > train.shape[1]:
                raise ConfigError(
                    f"{place}.columns must be at most {train.shape[1]}, what {config.dataset!r} "
                    f"has, got {config.columns}"
                )
            columns = top_variance(train, config.columns)
            train = train[:, columns]
        return cls(columns, Standardiser.fit(train) if config.standardise else None)

    def __call__(self, inputs: FloatArray | StoredArray) -> Inputs:
        if isinstance(inputs, StoredArray):
            if self.standardiser is None:
                return StoredInputs(inputs)
            return StoredInputs(inputs, self.standardiser.mean, self.standardiser.scale)
        if self.columns is not None:
            inputs = inputs.reshape(len(inputs), -1)[:, self.columns]
        if self.standardiser is not None:
            inputs = self.standardiser(inputs)
        return torch.from_numpy(np.ascontiguousarray(inputs, dtype=np.float32))

    def tensors(self) -> dict[str, Tensor]:
        """The fitted numbers, to be stored beside the student's weights."""
        found: dict[str, Tensor] = {}
        if self.columns is not None:
            found["columns"] = torch.from_numpy(self.columns)
        if self.standardiser is not None:
            for name, value in self.standardiser.state_dict().items():
                found[name] = torch.from_numpy(np.ascontiguousarray(value))
        return found


def _per_channel(train: StoredArray) -> Standardiser:
    mean, scale = (np.broadcast_to(part, train.shape[1:]) for part in train.channel_moments())
    return Standardiser(mean, np.where(scale > 0, scale, 1.0))


@dataclass(frozen=True)
class Prepared:
    """Both sides as tensors, before there is a teacher.

    Attributes:
        teacher: the teacher's own supervised problem (its labelled samples as ``student``, its
            validation samples as ``validation``).
        student: the student's problem; the teacher's cached outputs are still missing.
        paired_teacher: the pairs in the teacher's modality (p, ...), or None.
        transform: of the student's inputs.
        class_names: C names.
    """

    teacher: TrainingData
    student: TrainingData
    paired_teacher: Inputs | None
    transform: InputTransform
    class_names: tuple[str, ...]


def prepare(config: DataConfig, seed: int) -> Prepared:
    """Load and split the data of a recipe; the same seed gives the same split everywhere.

    One data set for both sides: its samples are divided, so that nothing the teacher saw belongs
    to the student; with ``shared`` both train on the same samples. Two data sets: the teacher has
    all of its own. Official test and validation splits are used where there are any. Samples of one
    group (``Dataset.groups``: a speaker, a subject) stay on one side of every split, except where
    an official test split of the package's own data sets divides the groups itself.

    Raises:
        ConfigError: data sets that do not fit together, shares or labels that the samples do not
            allow, or pairs where there can be none; names the keys of the recipe.
        ValueError: an unknown data set or view, too few samples (from ``ucmkd.data``).
    """
    generator = np.random.default_rng(seed)
    teacher, student, together = _both_sides(config)
    require_same_classes(teacher, student)
    if together:
        with _naming(config, "teacher_fraction", "validation", "test"):
            split = _Parts(*common_split(config, student, generator))
    else:
        split = _separate_split(config, teacher, student, generator)
    labelled, unlabelled = _choose_labels(config, student, split, generator)

    to_teacher = InputTransform.fit(
        config.teacher, teacher.inputs[split.teacher_train], "data.teacher"
    )
    to_student = InputTransform.fit(
        config.student, student.inputs[split.student_train], "data.student"
    )
    known = config.shared and not len(unlabelled)  # then no label of a pair is hidden
    candidates = split.student_train if config.shared else unlabelled
    paired = _choose_pairs(config, candidates, together, generator)

    def rows(index: NDArray[np.int64]) -> Inputs | None:
        return to_student(student.inputs[index]) if len(index) else None

    def labels(side: Dataset, index: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(side.labels[index])

    return Prepared(
        teacher=TrainingData(
            teacher.num_classes,
            to_teacher(teacher.inputs[split.teacher_train]),
            labels(teacher, split.teacher_train),
            to_teacher(teacher.inputs[split.teacher_validation]),
            labels(teacher, split.teacher_validation),
        ),
        student=TrainingData(
            student.num_classes,
            to_student(student.inputs[labelled]),
            labels(student, labelled),
            rows(split.student_validation),
            labels(student, split.student_validation),
            rows(split.test),
            labels(student, split.test),
            unlabelled=rows(unlabelled) if config.student.unlabelled else None,
            paired=rows(paired),
            paired_label=labels(student, paired) if len(paired) and known else None,
        ),
        paired_teacher=to_teacher(teacher.inputs[paired]) if len(paired) else None,
        transform=to_student,
        class_names=student.class_names,
    )


def _both_sides(config: DataConfig) -> tuple[Dataset, Dataset, bool]:
    """Teacher, student, and whether they are the same samples."""
    if config.teacher.dataset != config.student.dataset:
        if config.shared:
            raise ConfigError(
                "data.shared must be false: teacher and student come from different data sets"
            )
        (teacher,) = _read(config, {"teacher": config.teacher})
        (student,) = _read(config, {"student": config.student})
        assert_disjoint(teacher=teacher.ids, student=student.ids)
        if teacher.groups is not None and student.groups is not None:
            shared = np.intersect1d(teacher.groups, student.groups)
            if len(shared):
                raise ConfigError(
                    f"data.teacher and data.student share {len(shared)} groups, for example "
                    f"{str(shared[0])!r}; name them differently if they are not the same"
                )
        return teacher, student, False
    teacher, student = _read(config, {"teacher": config.teacher, "student": config.student})
    return teacher, student, True


def _read(config: DataConfig, sides: dict[str, TeacherDataConfig]) -> list[Dataset]:
    """The views of one data set that the sides name, read once."""
    name = next(iter(sides.values())).dataset
    known = DATASETS[name].views if name in DATASETS else ()
    for role, side in sides.items():
        place = f"data.{role}.view"
        if known and side.view is None:
            raise ConfigError(f"{place} must be given for {name!r}: one of {', '.join(known)}")
        if not known and side.view is not None and (name in DATASETS or name.endswith(".npz")):
            raise ConfigError(f"{place} must be null for {name!r}: it has one modality")
    wanted = [side.view for side in sides.values() if side.view is not None]
    loaded = load(name, data_root=config.root, views=wanted or None)
    if isinstance(loaded, Views):
        return [loaded.view(view) for view in wanted]
    return [loaded] * len(sides)


class _Parts(NamedTuple):
    """Row numbers; the first two count in the teacher's data set, the others in the student's."""

    teacher_train: NDArray[np.int64]
    teacher_validation: NDArray[np.int64]
    student_train: NDArray[np.int64]
    student_validation: NDArray[np.int64]
    test: NDArray[np.int64]


@contextmanager
def _naming(config: DataConfig, *keys: str) -> Iterator[None]:
    """Errors of a split, in terms of the recipe's keys."""
    try:
        yield
    except ValueError as error:
        given = ", ".join(f"data.{key} = {getattr(config, key):g}" for key in keys)
        raise ConfigError(f"the samples cannot be split with {given}: {error}") from error


def _separate_split(
    config: DataConfig, teacher: Dataset, student: Dataset, generator: np.random.Generator
) -> _Parts:
    try:
        own = stratified_parts(teacher.labels, (0.9, 0.1), generator, groups=teacher.groups)
    except ValueError as error:
        raise ConfigError(
            f"data.teacher: a tenth of the samples must be left for validation: {error}"
        ) from error
    if student.test is None:
        shares = (1 - config.validation - config.test, config.validation, config.test)
        with _naming(config, "validation", "test"):
            rest = stratified_parts(student.labels, shares, generator, groups=student.groups)
    else:
        free, test = np.flatnonzero(~student.test), np.flatnonzero(student.test)
        if student.validation is not None:
            official = np.flatnonzero(student.validation)
            return _Parts(own[0], own[1], np.setdiff1d(free, official), official, test)
        groups = _groups_beside_test(config, student)
        with _naming(config, "validation"):
            train, validation = stratified_parts(
                student.labels[free],
                (1 - config.validation, config.validation),
                generator,
                groups=None if groups is None else groups[free],
            )
        rest = (free[train], free[validation], test)
    return _Parts(*own, *rest)


def _groups_beside_test(config: DataConfig, student: Dataset) -> NDArray[np.str_] | None:
    """The groups to keep whole, given an official test split."""
    if student.groups is None or student.test is None:
        return None
    shared = np.intersect1d(student.groups[student.test], student.groups[~student.test])
    if not len(shared):
        return student.groups
    if config.student.dataset in DATASETS:
        return None  # its official split is by recording, and so is the validation then
    raise ConfigError(
        f"data.student.dataset {config.student.dataset!r}: group {str(shared[0])!r} is on both "
        "sides of the array 'test'; put every group on one side, or leave out 'test' or 'groups'"
    )


def _choose_labels(
    config: DataConfig, student: Dataset, split: _Parts, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    count, ratio = config.student.labels_per_class, config.student.long_tail
    if count is None:
        return split.student_train, np.empty(0, dtype=np.int64)
    present, found = np.unique(student.labels[split.student_train], return_counts=True)
    if ratio is None and found.min() < count:
        rarest = student.class_names[present[found.argmin()]]
        raise ConfigError(
            f"data.student.labels_per_class must be at most {found.min()}, the training samples "
            f"of the student's class {rarest!r}, got {count}"
        )
    if ratio is None:
        labelled = few_labels(student.labels, count, generator, pool=split.student_train)
    else:
        tail = max(1, round(count / ratio))
        try:
            labelled = long_tail(
                student.labels, generator, head=count, tail=tail, pool=split.student_train
            )
        except ValueError as error:
            raise ConfigError(
                f"data.student.labels_per_class = {count} with data.student.long_tail = {ratio:g}: "
                f"{error}"
            ) from error
    return labelled, np.setdiff1d(split.student_train, labelled)


def _choose_pairs(
    config: DataConfig,
    candidates: NDArray[np.int64],
    together: bool,
    generator: np.random.Generator,
) -> NDArray[np.int64]:
    if config.pairs == 0:
        return np.empty(0, dtype=np.int64)
    if not together:
        raise ConfigError("data.pairs must be 0: teacher and student come from different data sets")
    if config.pairs > len(candidates):
        kind = "shared" if config.shared else "unlabelled"
        raise ConfigError(
            f"data.pairs must be at most {len(candidates)}, the {kind} training samples of the "
            f"student, got {config.pairs}"
        )
    count = len(candidates) if config.pairs == -1 else config.pairs
    return np.sort(generator.permutation(candidates)[:count])
