"""Reading the data of both sides, once per process."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from ..config_data import DataConfig, TeacherDataConfig
from ..config_errors import ConfigError
from ..data import DATASETS, Dataset, Views, assert_disjoint, cache_folder, load
from ..data.base import data_root

JOIN = "+"
"""Between the names of views that are one side's modalities together: ``rna+meth``."""


def both_sides(config: DataConfig) -> tuple[Dataset, Dataset, bool]:
    """Teacher, student, and whether they are the same samples.

    Raises:
        ConfigError: a view that is missing or too much, views of one data set whose rows disagree,
            or groups of the same name in two data sets without ``correspondence``.
        ValueError: an unknown data set or view, or the same samples in two files.
    """
    teacher = read_side(config, "teacher")
    student = read_side(config, "student")
    if config.teacher.dataset == config.student.dataset:
        if not np.array_equal(teacher.labels, student.labels):
            raise ConfigError(
                f"data.teacher.view {config.teacher.view!r} and data.student.view "
                f"{config.student.view!r} of {config.student.dataset!r} have different labels"
            )
        return teacher, student, True
    if config.shared:
        raise ConfigError(
            "data.shared must be false: teacher and student come from different data sets"
        )
    assert_disjoint(teacher=teacher.ids, student=student.ids)
    if teacher.groups is not None and student.groups is not None and config.correspondence is None:
        shared = np.intersect1d(teacher.groups, student.groups)
        if len(shared):
            raise ConfigError(
                f"data.teacher and data.student share {len(shared)} groups, for example "
                f"{str(shared[0])!r}; name them differently if they are not the same, or set "
                "data.correspondence to 'group' if they are"
            )
    return teacher, student, False


def read_side(config: DataConfig, role: str) -> Dataset:
    """One view of one data set, ``role`` being ``teacher`` or ``student``.

    Raises:
        ConfigError: a view that is missing or too much.
        ValueError: an unknown data set or view.
    """
    side: TeacherDataConfig = getattr(config, role)
    name, place = side.dataset, f"data.{role}.view"
    known = DATASETS[name].views if name in DATASETS else ()
    if known and side.view is None:
        raise ConfigError(f"{place} must be given for {name!r}: one of {', '.join(known)}")
    if not known and side.view is not None and (name in DATASETS or name.endswith(".npz")):
        raise ConfigError(f"{place} must be null for {name!r}: it has one modality")
    if name not in DATASETS:  # a file may have changed since
        return _one_view(load(name, data_root=config.root), side.view)
    root = data_root(config.root)
    return _cached(name, side.view, root, cache_folder())


@lru_cache(maxsize=16)
def _cached(name: str, view: str | None, root: Path | None, cache: Path) -> Dataset:
    """Parsing takes seconds, and a study prepares one data set many times. Nobody writes to it.

    ``cache`` is only a key: a process that changes ``UCMKD_CACHE`` looks there.
    """
    views = None if view is None else view.split(JOIN)
    return _one_view(load(name, data_root=root, views=views), view)


def _one_view(loaded: Dataset | Views, view: str | None) -> Dataset:
    if isinstance(loaded, Views):
        assert view is not None  # `read_side` has seen to it
        return loaded.join(view.split(JOIN)) if JOIN in view else loaded.view(view)
    return loaded
