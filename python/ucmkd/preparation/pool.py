"""What is left of the samples: caps, thinned classes, pairs, and which classes a part lacks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..config_data import DataConfig
from ..config_errors import ConfigError
from ..data import Dataset, reweighted_subset, stratified_subset
from .mismatch import MISMATCHES, class_weights
from .parts import Parts, Rows
from .streams import option_generator


def capped(
    config: DataConfig, parts: Parts, teacher: Dataset, student: Dataset, seed: int
) -> Parts:
    """The parts with at most ``max_teacher`` and ``max_test`` samples."""
    return parts._replace(
        teacher_train=_at_most(
            config.max_teacher, teacher, parts.teacher_train, seed, "max_teacher"
        ),
        test=_at_most(config.max_test, student, parts.test, seed, "max_test"),
    )


def _at_most(limit: int | None, data: Dataset, rows: Rows, seed: int, option: str) -> Rows:
    if limit is None or len(rows) <= limit:
        return rows
    return stratified_subset(data.labels, limit, option_generator(seed, option), pool=rows)


def thinned(
    config: DataConfig, student: Dataset, labelled: Rows, unlabelled: Rows, seed: int
) -> tuple[Rows, Rows]:
    """Labelled and unlabelled rows after ``mismatch`` and ``max_unlabelled``."""
    if config.mismatch is not None:
        generator = option_generator(seed, "marginal")
        weights = class_weights(MISMATCHES[config.mismatch], student.num_classes, generator)
        if config.student.labels_per_class is None:
            labelled = reweighted_subset(student.labels, weights, generator, pool=labelled)
        if len(unlabelled):
            unlabelled = reweighted_subset(student.labels, weights, generator, pool=unlabelled)
    limit = config.student.max_unlabelled
    return labelled, _at_most(limit, student, unlabelled, seed, "max_unlabelled")


def choose_pairs(
    config: DataConfig, candidates: Rows, together: bool, generator: np.random.Generator
) -> Rows:
    """The student's rows that the teacher's modality has, too.

    ``candidates`` are the unlabelled training rows, or all of them with ``shared``.
    """
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


def absent_classes(
    class_names: tuple[str, ...], labels: Mapping[str, Rows], consequence: Mapping[str, str]
) -> list[str]:
    """A sentence for every set of labels that lacks some class.

    Args:
        class_names: C names.
        labels: for each set its labels ``(n,)``.
        consequence: for each set what the lack of a class means.
    """
    notes = []
    for name, values in labels.items():
        absent = np.flatnonzero(np.bincount(values, minlength=len(class_names)) == 0)
        if len(absent):
            listed = ", ".join(repr(class_names[k]) for k in absent)
            notes.append(f"no {name} of class {listed}: {consequence[name]}")
    return notes
