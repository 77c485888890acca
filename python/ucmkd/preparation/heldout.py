"""Test sets of whole groups: speakers or subjects that no training has seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..config import nearest
from ..config_data import DataConfig
from ..config_errors import ConfigError
from ..data import Dataset
from .streams import option_generator


def test_rows(
    config: DataConfig, student: Dataset, seed: int
) -> tuple[NDArray[np.bool_] | None, list[str]]:
    """The student's test rows ``(n,)`` where they are given, else None, and what was decided.

    ``data.test_groups`` comes before an official test split.

    Raises:
        ConfigError: no groups, an unknown name, or groups that leave none for training.
    """
    wanted = config.test_groups
    if wanted is None:
        return _official(student), []
    if student.groups is None:
        raise ConfigError(
            f"data.test_groups must be null: {config.student.dataset!r} has no groups; "
            f"got {wanted!r}"
        )
    known = np.unique(student.groups)
    if isinstance(wanted, int):
        _leave_some(wanted, len(known))
        generator = option_generator(seed, "test_groups")
        chosen = np.sort(generator.choice(known, size=wanted, replace=False))
        notes = [f"test groups, drawn by chance: {', '.join(chosen.tolist())}"]
        return np.isin(student.groups, chosen), notes
    for name in wanted:
        if name not in known:
            raise ConfigError(
                f"data.test_groups: {config.student.dataset!r} has no group {name!r}"
                f"{nearest(name, known.tolist())} (groups: {', '.join(known.tolist())})"
            )
    _leave_some(len(wanted), len(known))
    return np.isin(student.groups, wanted), []


def _official(student: Dataset) -> NDArray[np.bool_] | None:
    """The official test rows; None also where the classes in common are all on one side of it."""
    if student.test is None or student.test.all() or not student.test.any():
        return None
    return student.test


def _leave_some(count: int, groups: int) -> None:
    if count > groups - 2:
        raise ConfigError(
            f"data.test_groups must leave at least 2 of the {groups} groups for training and "
            f"validation, got {count}"
        )
