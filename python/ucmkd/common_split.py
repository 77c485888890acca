"""Splits of one data set with two views, where teacher and student draw on the same samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .config import DataConfig
from .data import Dataset, stratified_parts, unpaired_split

Rows = NDArray[np.int64]


def common_split(
    config: DataConfig, data: Dataset, generator: np.random.Generator
) -> tuple[Rows, Rows, Rows, Rows, Rows]:
    """The teacher's training and validation rows, the student's, and the test rows.

    An official test or validation split of the data is kept; else ``config.test`` and
    ``config.validation`` say how many samples are set aside. With ``config.shared`` both sides
    train and validate on the same rows; otherwise the rest is divided by
    ``config.teacher_fraction``. Groups stay whole.

    Raises:
        ValueError: Too few samples or groups (from ``ucmkd.data``).
    """
    if not config.shared and data.test is None and data.validation is None:
        split = unpaired_split(
            data.labels,
            generator,
            teacher_fraction=config.teacher_fraction,
            validation=config.validation,
            test=config.test,
            ids=data.ids,
            groups=data.groups,
        )
        return (
            split.teacher_train,
            split.teacher_validation,
            split.student_train,
            split.student_validation,
            split.test,
        )

    def cut(rows: Rows, share: float) -> tuple[Rows, Rows]:
        """What remains, and the part of this share."""
        groups = None if data.groups is None else data.groups[rows]
        parts = stratified_parts(data.labels[rows], (1 - share, share), generator, groups=groups)
        return rows[parts[0]], rows[parts[1]]

    free, share = np.arange(len(data)), config.validation
    if data.test is None:
        free, test = cut(free, config.test)
        share /= 1 - config.test  # of what the test leaves
    else:
        free, test = np.flatnonzero(~data.test), np.flatnonzero(data.test)
    validation: Rows | None = None
    if data.validation is not None:
        validation = np.flatnonzero(data.validation)
        free = np.setdiff1d(free, validation)
    if config.shared:
        if validation is None:
            free, validation = cut(free, share)
        return free, validation, free, validation, test
    student, teacher = cut(free, config.teacher_fraction)
    teacher, own = cut(teacher, 0.1)
    if validation is None:
        student, validation = cut(student, share)
    return teacher, own, student, validation, test
