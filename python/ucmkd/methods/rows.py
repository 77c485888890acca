"""Which rows of a batch are aligned, and which are labelled: unpaired, or by pairs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ucmkd.methods.base import Batch


class Rows(NamedTuple):
    """What a step of UCMKD works on.

    Attributes:
        inputs: All student inputs ``(n, ...)``.
        aligned: Those that FA takes.
        labelled: Those that CE and LA take.
        label: Classes of ``inputs[labelled]``.
        teacher: The teacher's features ``(m, d_T)`` for FA.
    """

    inputs: Tensor
    aligned: slice
    labelled: slice
    label: Tensor
    teacher: Tensor


def has_pairs(batch: Batch) -> bool:
    """Whether the batch has student inputs with the teacher's features of the same samples."""
    return (
        batch.paired is not None
        and batch.paired_teacher_feature is not None
        and len(batch.paired) > 0
    )


def rows_of(batch: Batch) -> Rows:
    """Two independent batches: everything is labelled, and aligned with the teacher's batch."""
    assert batch.teacher_feature is not None
    every = slice(0, len(batch.student))
    return Rows(batch.student, every, every, batch.student_label, batch.teacher_feature)


def rows_of_pairs(batch: Batch) -> Rows:
    """The pairs are aligned, row by row the same samples; where they have labels, those count."""
    assert batch.paired is not None and batch.paired_teacher_feature is not None
    n, end = len(batch.student), len(batch.student) + len(batch.paired)
    inputs, label, labelled = torch.cat((batch.student, batch.paired)), batch.student_label, n
    if batch.paired_label is not None:
        label, labelled = torch.cat((label, batch.paired_label)), end
    return Rows(inputs, slice(n, end), slice(0, labelled), label, batch.paired_teacher_feature)
