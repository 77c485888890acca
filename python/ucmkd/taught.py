"""A student's data, completed by what the frozen teacher says."""

from __future__ import annotations

from dataclasses import replace

import torch

from .batches import TrainingData
from .models import Student
from .pools import Stream
from .preparation import Prepared
from .teacher import cache_outputs


def untaught(prepared: Prepared, *, inputs: bool = False) -> TrainingData:
    """The student's data for a method without a teacher; its class frequencies may be used.

    Args:
        prepared: Both sides.
        inputs: With the teacher's samples themselves, for a method that trains a model on them.
    """
    return replace(
        prepared.student,
        teacher_label=prepared.teacher.student_label,
        teacher_input=prepared.teacher.student if inputs else None,
        paired=None,
        paired_label=None,
        cohort_group=None,
        streams=_streams(prepared, None),
    )


def taught(
    prepared: Prepared,
    teacher: Student,
    device: torch.device | str = "cpu",
    *,
    on_pairs: Student | None = None,
) -> TrainingData:
    """The student's data with the teacher's outputs on its own samples, pairs and cohorts.

    Args:
        prepared: Both sides.
        teacher: Frozen, in evaluation mode; on ``device``, float32.
        device: Of the data that are returned.
        on_pairs: Another form of the teacher, asked on the pairs (:mod:`ucmkd.staged`).

    Raises:
        ValueError: The teacher is in training mode.
    """
    own = prepared.teacher
    feature, logits = cache_outputs(teacher, own.student.to(device))
    data = replace(
        replace(
            prepared.student,
            teacher_label=own.student_label,
            streams=_streams(prepared, teacher),
        ).to(device),
        teacher_feature=feature,
        teacher_logits=logits,
    )
    if prepared.paired_teacher is not None:
        pair = cache_outputs(on_pairs or teacher, prepared.paired_teacher.to(device))
        data = replace(data, paired_teacher_feature=pair[0], paired_teacher_logits=pair[1])
    if prepared.cohort_teacher is not None:
        cohort = cache_outputs(teacher, prepared.cohort_teacher.to(device))
        data = replace(data, cohort_feature=cohort[0], cohort_logits=cohort[1])
    return data


def _streams(prepared: Prepared, teacher: Student | None) -> dict[str, Stream]:
    """The student's streams, and the teacher's own samples as one if they are."""
    found = dict(prepared.student.streams)
    if "student" in prepared.teacher.streams:
        found["teacher"] = replace(prepared.teacher.streams["student"], teacher=teacher)
    return found
