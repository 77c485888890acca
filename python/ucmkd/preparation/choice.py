"""Which samples of both sides are for what: rows, before any of them is touched."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..config_data import DataConfig
from ..data import Dataset
from .classes import common_classes
from .correspondence import corresponding_split
from .heldout import test_rows
from .labels import choose_labels
from .parts import Parts, Rows, common_split, divides_groups, separate_split
from .pool import capped, thinned
from .sides import both_sides


class Choice(NamedTuple):
    """Both data sets with the same classes, and the rows of every part.

    ``together``: the two are views of the same samples. ``labelled`` and ``unlabelled`` are the
    student's training rows.
    """

    teacher: Dataset
    student: Dataset
    together: bool
    parts: Parts
    labelled: Rows
    unlabelled: Rows
    notes: list[str]


def choose(config: DataConfig, seed: int, generator: np.random.Generator) -> Choice:
    """Read, match the classes, split, and choose what is labelled.

    Raises:
        ConfigError: see :func:`ucmkd.preparation.prepare`.
    """
    teacher, student, together = both_sides(config)
    teacher, student, notes = common_classes(teacher, student)
    parts, more = _split(config, teacher, student, together, seed, generator)
    parts = capped(config, parts, teacher, student, seed)
    labelled, unlabelled, drawn = choose_labels(
        config, student, parts.student_train, seed, generator
    )
    labelled, unlabelled = thinned(config, student, labelled, unlabelled, seed)
    notes = [*notes, *more, *drawn]
    return Choice(teacher, student, together, parts, labelled, unlabelled, notes)


def _split(
    config: DataConfig,
    teacher: Dataset,
    student: Dataset,
    together: bool,
    seed: int,
    generator: np.random.Generator,
) -> tuple[Parts, list[str]]:
    test, notes = test_rows(config, student, seed)
    if config.correspondence is not None:
        parts, more = corresponding_split(config, teacher, student, together, test, generator)
        return parts, notes + more
    if together:
        if config.test_groups is None and test is not None and divides_groups(student, test):
            test = None  # an official split by recording: the sides could share a speaker
        return common_split(config, student, test, generator), notes
    return separate_split(config, teacher, student, test, generator), notes
