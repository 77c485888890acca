"""Who is in which part: the five disjoint sets of samples of a distillation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..config_data import DataConfig
from ..config_errors import ConfigError
from ..data import DATASETS, Dataset, stratified_parts, unpaired_split

Rows = NDArray[np.int64]
OWN_SHARES = (0.9, 0.1)
"""Training and validation of the teacher."""


class Parts(NamedTuple):
    """Row numbers; the first two count in the teacher's data set, the others in the student's."""

    teacher_train: Rows
    teacher_validation: Rows
    student_train: Rows
    student_validation: Rows
    test: Rows


@contextmanager
def naming(config: DataConfig, *keys: str) -> Iterator[None]:
    """Errors of a split, in terms of the recipe's keys."""
    try:
        yield
    except ValueError as error:
        values = {key: getattr(config, key) for key in keys}
        given = ", ".join(
            f"data.{key} = {value:g}" if isinstance(value, float) else f"data.{key} = {value!r}"
            for key, value in values.items()
        )
        raise ConfigError(f"the samples cannot be split with {given}: {error}") from error


def common_split(
    config: DataConfig,
    data: Dataset,
    test: NDArray[np.bool_] | None,
    generator: np.random.Generator,
) -> Parts:
    """One data set for both sides: its samples are divided, groups as a whole.

    ``test`` marks the rows of an official test split or of ``test_groups``; None: ``config.test``
    of the student's samples. An official validation split is kept. With ``config.shared`` what is
    left belongs to both sides.
    """
    if config.shared:
        return _shared_split(config, data, test, generator)
    if test is None and data.validation is None:
        with naming(config, "teacher_fraction", "validation", "test"):
            split = unpaired_split(
                data.labels,
                generator,
                teacher_fraction=config.teacher_fraction,
                validation=config.validation,
                test=config.test,
                ids=data.ids,
                groups=data.groups,
            )
        return Parts._make(getattr(split, name) for name in Parts._fields)
    with naming(config, "teacher_fraction", "validation", "test", "test_groups"):
        free, validation, tested = _set_aside(config, data, test, generator)
        shares = (config.teacher_fraction, 1 - config.teacher_fraction)
        teacher, student = divided(data, free, shares, generator)
        own = divided(data, teacher, OWN_SHARES, generator)
        if validation is None:
            shares = (1 - config.validation, config.validation)
            student, validation = divided(data, student, shares, generator)
    return Parts._make((*own, student, validation, tested))


def _shared_split(
    config: DataConfig,
    data: Dataset,
    test: NDArray[np.bool_] | None,
    generator: np.random.Generator,
) -> Parts:
    """Training and validation rows that both sides have, and the test rows."""
    with naming(config, "validation", "test", "test_groups"):
        free, validation, tested = _set_aside(config, data, test, generator)
        if validation is None:
            share = config.validation / (1 if test is not None else 1 - config.test)
            free, validation = divided(data, free, (1 - share, share), generator)
    return Parts(free, validation, free, validation, tested)


def _set_aside(
    config: DataConfig,
    data: Dataset,
    test: NDArray[np.bool_] | None,
    generator: np.random.Generator,
) -> tuple[Rows, Rows | None, Rows]:
    """What is left, the official validation rows if there are any, and the test rows."""
    if test is None:
        everything = np.arange(len(data))
        free, tested = divided(data, everything, (1 - config.test, config.test), generator)
    else:
        free, tested = np.flatnonzero(~test), np.flatnonzero(test)
    if data.validation is None:
        return free, None, tested
    official = np.flatnonzero(data.validation)
    return np.setdiff1d(free, official), np.setdiff1d(official, tested), tested


def separate_split(
    config: DataConfig,
    teacher: Dataset,
    student: Dataset,
    test: NDArray[np.bool_] | None,
    generator: np.random.Generator,
) -> Parts:
    """Two data sets: the teacher has all of its own."""
    own = teacher_split(teacher, np.arange(len(teacher)), generator)
    return Parts._make((*own, *student_split(config, student, test, generator)))


def teacher_split(teacher: Dataset, rows: Rows, generator: np.random.Generator) -> tuple[Rows, ...]:
    """The teacher's training and validation rows among ``rows``."""
    try:
        return divided(teacher, rows, OWN_SHARES, generator)
    except ValueError as error:
        raise ConfigError(
            f"data.teacher: a tenth of the samples must be left for validation: {error}"
        ) from error


def student_split(
    config: DataConfig,
    student: Dataset,
    test: NDArray[np.bool_] | None,
    generator: np.random.Generator,
) -> tuple[Rows, ...]:
    """The student's training, validation and test rows; the latter may be given."""
    if test is None:
        thirds = (1 - config.validation - config.test, config.validation, config.test)
        with naming(config, "validation", "test"):
            return stratified_parts(student.labels, thirds, generator, groups=student.groups)
    if student.validation is not None:
        train, official, tested = _set_aside(config, student, test, generator)
        assert official is not None
        return train, official, tested
    free = np.flatnonzero(~test)
    whole = _groups_beside_test(config, student, test) is not None
    with naming(config, "validation"):
        shares = (1 - config.validation, config.validation)
        train, validation = divided(student, free, shares, generator, whole=whole)
    return train, validation, np.flatnonzero(test)


def divided(
    data: Dataset,
    rows: Rows,
    shares: tuple[float, ...],
    generator: np.random.Generator,
    *,
    whole: bool = True,
) -> tuple[Rows, ...]:
    """``rows`` cut into stratified parts, groups as a whole unless ``whole`` is False."""
    groups = data.groups[rows] if whole and data.groups is not None else None
    parts = stratified_parts(data.labels[rows], shares, generator, groups=groups)
    return tuple(rows[part] for part in parts)


def divides_groups(data: Dataset, test: NDArray[np.bool_]) -> bool:
    """Whether a group is on both sides of the test split."""
    if data.groups is None:
        return False
    return len(np.intersect1d(data.groups[test], data.groups[~test])) > 0


def _groups_beside_test(
    config: DataConfig, student: Dataset, test: NDArray[np.bool_]
) -> NDArray[np.str_] | None:
    """The groups to keep whole, given the test rows."""
    if student.groups is None:
        return None
    shared = np.intersect1d(student.groups[test], student.groups[~test])
    if not len(shared):
        return student.groups
    if config.student.dataset in DATASETS and config.correspondence is None:
        return None  # its official split is by recording, and so is the validation then
    raise ConfigError(
        f"data.student.dataset {config.student.dataset!r}: group {str(shared[0])!r} is on both "
        "sides of the array 'test'; put every group on one side, or leave out 'test' or 'groups', "
        "or name the test set with data.test_groups"
    )
