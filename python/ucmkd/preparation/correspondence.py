"""Coarse correspondences: not which sample belongs to which, only which subject or session.

A subject measured in both modalities, at different moments, is less than a pair and more than
nothing. With ``data.correspondence: group`` the groups of equal name on both sides are taken to
be the same; teacher and student share them in training, while validation and test keep groups
that neither has seen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..config_data import DataConfig
from ..config_errors import ConfigError
from ..data import Dataset, stratified_parts
from .parts import Parts, Rows, naming, student_split, teacher_split


def corresponding_split(
    config: DataConfig,
    teacher: Dataset,
    student: Dataset,
    together: bool,
    test: NDArray[np.bool_] | None,
    generator: np.random.Generator,
) -> tuple[Parts, list[str]]:
    """Parts whose teacher and student training samples share groups.

    First the student's validation and test groups are set aside, as without correspondences. One
    data set: every group's other samples are divided, ``teacher_fraction`` of each of its classes
    going to the teacher. Two data sets: the teacher loses what it has of the groups set aside.
    The teacher's own validation samples are whole groups, too.

    Raises:
        ConfigError: a side without groups, too few groups, or none that both sides have.
    """
    for role, data in (("teacher", teacher), ("student", student)):
        if data.groups is None:
            raise ConfigError(
                f"data.correspondence = 'group' needs groups on both sides; data.{role} "
                f"({data.name}) has none"
            )
    assert teacher.groups is not None and student.groups is not None
    train, validation, tested = student_split(config, student, test, generator)
    notes = []
    if together:
        cells = np.stack([_codes(student.groups[train]), student.labels[train]], axis=1)
        shares = (config.teacher_fraction, 1 - config.teacher_fraction)
        with naming(config, "teacher_fraction"):
            cell = np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)
            first, second = stratified_parts(cell, shares, generator)
        rows, train = train[first], train[second]
    else:
        aside = np.union1d(student.groups[validation], student.groups[tested])
        rows = np.flatnonzero(~np.isin(teacher.groups, aside))
        if len(rows) < len(teacher):
            notes.append(
                f"correspondence: {len(teacher) - len(rows)} of the teacher's {len(teacher)} "
                "samples are of the student's validation and test groups and left out"
            )
        if not len(rows):
            raise ConfigError(
                "data.correspondence = 'group': the teacher's groups are all among the student's "
                "validation and test groups"
            )
    own = teacher_split(teacher, rows, generator)
    return Parts._make((*own, train, validation, tested)), notes


def _codes(names: NDArray[np.str_]) -> Rows:
    return np.unique(names, return_inverse=True)[1].reshape(-1).astype(np.int64)


def group_codes(
    teacher: NDArray[np.str_], student: NDArray[np.str_]
) -> tuple[Rows, Rows, tuple[str, ...]]:
    """Numbers for the groups that occur on both sides; -1 for the others.

    Args:
        teacher: ``(m,)`` names of the groups of the teacher's samples.
        student: ``(u,)`` names of the groups of the unlabelled student samples.

    Returns:
        ``(m,)`` and ``(u,)`` int64, equal numbers meaning the same group, and the names of the
        groups 0, 1, …, sorted.

    Raises:
        ConfigError: no name occurs on both sides.
    """
    shared = np.intersect1d(teacher, student)
    if not len(shared):
        raise ConfigError(
            "data.correspondence = 'group' needs groups that occur among the training samples of "
            f"both sides, by name; the teacher has {len(np.unique(teacher))}, the student "
            f"{len(np.unique(student))}, and none is the same"
        )

    def coded(names: NDArray[np.str_]) -> Rows:
        position = np.searchsorted(shared, names)
        return np.where(np.isin(names, shared), position, -1).astype(np.int64)

    return coded(teacher), coded(student), tuple(shared.tolist())
