"""From a recipe's data section to tensors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..batches import TrainingData
from ..config_data import DataConfig
from ..config_errors import ConfigError
from ..data import Dataset
from ..data.base import FloatArray
from ..data.stored import StoredArray
from ..stored_inputs import Inputs
from .choice import choose
from .correspondence import cohorts, group_codes
from .labels import known_labels
from .mismatch import MISMATCHES, DomainShift
from .parts import Parts, Rows
from .pool import absent_classes, choose_pairs
from .result import CONSEQUENCE, Prepared
from .streamed import is_streamed, prepare_streams
from .streams import option_generator
from .transform import InputTransform


def prepare(config: DataConfig, seed: int) -> Prepared:
    """Load and split the data of a recipe; the same seed gives the same split everywhere.

    One data set for both sides: its samples are divided, so that nothing the teacher saw belongs
    to the student; with ``shared`` both train on the same samples. Two data sets: the teacher has
    all of its own. Official test and validation splits are used where there are any. Samples of one
    group (``Dataset.groups``: a speaker, a subject) stay on one side of every split, except where
    an official test split of the package's own data sets divides the groups itself, or
    ``correspondence`` lets the two trainings share them. Classes are matched by name; where the two
    sides differ, those in common are used. The other options of a scenario draw from random streams
    of their own: they change what they are about and nothing else. With ``config.stream``, or a
    folder of shards as a data set, training samples stay in files (:mod:`.streamed`).

    Raises:
        ConfigError: data sets that do not fit together, shares, groups or labels that the samples
            do not allow, or pairs where there can be none; names the keys of the recipe.
        ValueError: an unknown data set or view, too few samples (from ``ucmkd.data``).
    """
    if is_streamed(config):
        return prepare_streams(config, seed)
    generator = np.random.default_rng(seed)
    teacher, student, together, parts, labelled, unlabelled, notes = choose(config, seed, generator)
    train = np.union1d(labelled, unlabelled)
    paired = choose_pairs(config, train if config.shared else unlabelled, together, generator)

    to_teacher = InputTransform.fit(
        config.teacher, teacher.inputs[parts.teacher_train], "data.teacher", teacher.modalities
    )
    shift = _shift(config, student.inputs[train], seed)
    recorded = student.inputs[train] if shift is None else shift(student.inputs[train])
    to_student = InputTransform.fit(config.student, recorded, "data.student", student.modalities)

    def rows(index: Rows) -> Inputs | None:
        return to_student(student.inputs[index]) if len(index) else None

    def shifted(index: Rows) -> Inputs | None:
        if shift is None or not len(index):
            return rows(index)
        return to_student(shift(student.inputs[index]))

    def labels(side: Dataset, index: Rows) -> Tensor:
        return torch.from_numpy(side.labels[index])

    known = known_labels(config, student, labelled, seed, notes)
    found = (
        teacher.labels[parts.teacher_train],
        known,
        student.labels[parts.student_validation],
        student.labels[parts.test],
    )
    notes += absent_classes(
        student.class_names, dict(zip(CONSEQUENCE, found, strict=True)), CONSEQUENCE
    )
    pool = unlabelled if config.student.unlabelled else unlabelled[:0]
    teacher_group, unlabelled_group = _groups(config, teacher, student, parts, pool, notes)
    of_cohorts: Rows | None = None
    cohort_group: Tensor | None = None
    if config.cohort_size is not None:
        member, of_cohorts, theirs = cohorts(
            config, pool, together, option_generator(seed, "cohorts")
        )
        unlabelled_group, cohort_group = torch.from_numpy(member), torch.from_numpy(theirs)
    inputs = shifted(labelled)
    assert inputs is not None  # `choose_labels` has seen to it
    return Prepared(
        teacher=TrainingData(
            teacher.num_classes,
            to_teacher(teacher.inputs[parts.teacher_train]),
            labels(teacher, parts.teacher_train),
            to_teacher(teacher.inputs[parts.teacher_validation]),
            labels(teacher, parts.teacher_validation),
        ),
        student=TrainingData(
            student.num_classes,
            inputs,
            torch.from_numpy(known),
            rows(parts.student_validation),
            labels(student, parts.student_validation),
            rows(parts.test),
            labels(student, parts.test),
            unlabelled=shifted(pool),
            paired=shifted(paired),
            paired_label=_pair_labels(labelled, known, paired),
            teacher_group=teacher_group,
            unlabelled_group=unlabelled_group,
            cohort_group=cohort_group,
            modalities=to_student.modalities,
            teacher_modalities=to_teacher.modalities,
        ),
        paired_teacher=to_teacher(teacher.inputs[paired]) if len(paired) else None,
        transform=to_student,
        class_names=student.class_names,
        notes=tuple(notes),
        cohort_teacher=None if of_cohorts is None else to_teacher(teacher.inputs[of_cohorts]),
        teacher_test=to_teacher(teacher.inputs[parts.test]) if together else None,
    )


def _pair_labels(labelled: Rows, known: Rows, paired: Rows) -> Tensor | None:
    """The labels of pairs that are all among the labelled samples, right or wrong; else None."""
    position = np.searchsorted(labelled, paired)
    if not len(paired) or not np.isin(paired, labelled).all():
        return None
    return torch.from_numpy(known[position])


def _shift(config: DataConfig, train: FloatArray | StoredArray, seed: int) -> DomainShift | None:
    if config.mismatch is None:
        return None
    level = MISMATCHES[config.mismatch].domain_shift
    return DomainShift.draw(level, train, option_generator(seed, "shift"))


def _groups(
    config: DataConfig,
    teacher: Dataset,
    student: Dataset,
    parts: Parts,
    pool: Rows,
    notes: list[str],
) -> tuple[Tensor | None, Tensor | None]:
    """Groups of the teacher's and of the unlabelled samples, -1 if only on one side."""
    if config.correspondence is None:
        return None, None
    if not len(pool):
        raise ConfigError(
            "data.correspondence = 'group' needs unlabelled samples of the student, and there are "
            "none: see data.student.unlabelled and data.student.labels_per_class"
        )
    assert teacher.groups is not None and student.groups is not None  # the split has seen to it
    own, other, names = group_codes(teacher.groups[parts.teacher_train], student.groups[pool])
    notes.append(
        f"correspondence: {len(names)} groups occur on both sides, with {(own >= 0).sum()} of the "
        f"teacher's {len(own)} and {(other >= 0).sum()} of the {len(other)} unlabelled samples"
    )
    return torch.from_numpy(own), torch.from_numpy(other)
