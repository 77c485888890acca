"""Classes are matched by name; the two sides keep those that both have samples of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..config_errors import ConfigError
from ..data import Dataset


def common_classes(teacher: Dataset, student: Dataset) -> tuple[Dataset, Dataset, list[str]]:
    """Both sides with the same classes in the same order.

    Sides that agree are returned as they are. Otherwise the classes that have samples on both
    sides are kept, in the student's order, and renumbered; samples of other classes are left out.

    Returns:
        Teacher, student, and what was decided, in sentences.

    Raises:
        ConfigError: fewer than two classes in common, or a name that stands for two classes.
    """
    own, other = _sizes("teacher", teacher), _sizes("student", student)
    common = tuple(name for name, size in other.items() if size and own.get(name))
    if common == teacher.class_names == student.class_names:
        return teacher, student, []
    if len(common) < 2:
        raise ConfigError(
            "data.teacher and data.student must have samples of at least two classes in common, "
            f"by name; the teacher's are {_listed(own)}, the student's {_listed(other)}"
        )
    notes = []
    if set(own) == set(other) == set(common):
        notes.append("classes: matched by name, in the student's order")
    else:
        left = [
            f"the {role}'s {name!r} ({size} samples)"
            for role, sizes in (("teacher", own), ("student", other))
            for name, size in sizes.items()
            if name not in common
        ]
        notes.append(
            f"classes: {len(common)} are common to teacher and student, by name "
            f"({', '.join(common)}); left out: {', '.join(left)}"
        )
    return restricted(teacher, common), restricted(student, common), notes


def _sizes(role: str, data: Dataset) -> dict[str, int]:
    """Samples of every class, by name."""
    counts = np.bincount(data.labels, minlength=data.num_classes).tolist()
    sizes = dict(zip(data.class_names, counts, strict=True))
    if len(sizes) < data.num_classes:
        twice = next(name for name in data.class_names if data.class_names.count(name) > 1)
        raise ConfigError(
            f"data.{role}: {data.name} has two classes of the name {twice!r}; class names must be "
            "distinct"
        )
    return sizes


def _listed(sizes: dict[str, int]) -> str:
    named = [name for name, size in sizes.items() if size]
    return ", ".join(named[:12]) + (f" and {len(named) - 12} more" if len(named) > 12 else "")


def restricted(data: Dataset, names: tuple[str, ...]) -> Dataset:
    """The samples of the classes ``names``, numbered in that order."""
    if data.class_names == names:
        return data
    number = np.full(data.num_classes, -1, dtype=np.int64)
    for new, name in enumerate(names):
        number[data.class_names.index(name)] = new
    keep = number[data.labels] >= 0
    return replace(
        data,
        inputs=data.inputs[keep],
        labels=number[data.labels[keep]],
        class_names=names,
        ids=data.ids[keep],
        groups=None if data.groups is None else data.groups[keep],
        test=None if data.test is None else data.test[keep],
        validation=None if data.validation is None else data.validation[keep],
    )
