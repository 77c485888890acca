"""PKDOT without pairs: a sample's place among the prototypes of its own modality's classes."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ucmkd.losses._common import full_precision, unit_rows, wide
from ucmkd.methods.base import Batch
from ucmkd.methods.class_means import RunningClassMeans
from ucmkd.methods.fitnet import hint_loss
from ucmkd.methods.pkdot import PKDOT, row_transport
from ucmkd.methods.prototype_geometry import prototypes
from ucmkd.models import Student


def prototype_rows(features: Tensor, prototype: Tensor, known: Tensor) -> Tensor:
    """Cosines to the prototypes ``(n, C)``, less the smallest; 0 at classes that are not known.

    Args:
        features: ``(n, d)``.
        prototype: ``(C, d)``.
        known: Classes ``(C,)`` that count.
    """
    with full_precision(features):
        cosine = unit_rows(features) @ unit_rows(prototype).T
    lowest = cosine.masked_fill(~known, torch.inf).min()
    return torch.where(known, cosine - lowest, 0.0)


class ClassPKDOT(PKDOT):
    """``pkdot_classes``: PKDOT with the class prototypes as anchors; without pairs, and ours.

    The columns of a similarity matrix are samples in PKDOT, which both sides must share. Classes
    they share without pairs: a row is a sample's cosines to the prototypes of its own modality
    (:func:`prototype_rows`; the labelled batch's class means, those of all the teacher's samples
    seen so far), and transport between two clouds of rows needs no pairs. All C columns are kept,
    and ``columns`` is without effect. The network's target is the prototype of the sample's class
    in the teacher's modality.

    Terms: ``ce``, ``structure``, ``hallucination``. Options and errors as of
    :class:`ucmkd.methods.pkdot.PKDOT`.
    """

    name: ClassVar[str] = "pkdot_classes"
    paired = False
    uses_pairs = False
    class_matched = True
    requires = ("teacher_feature", "teacher_label")

    def __init__(self, student: Student, **options: Any) -> None:
        super().__init__(student, **options)
        self.teacher_prototypes = RunningClassMeans(self.num_classes, self.teacher_width)

    def terms(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """``{"ce", "structure", "hallucination"}``."""
        assert batch.teacher_feature is not None and batch.teacher_label is not None
        teacher, label = self.teacher_prototypes, batch.student_label
        if self.training:
            teacher.update(batch.teacher_feature, batch.teacher_label)
        features, logits, guess = self.fused(batch.student)
        own, present = prototypes(features, label, self.num_classes)
        other = wide(teacher.means(), features)
        both = present & teacher.seen()
        rows = prototype_rows(batch.teacher_feature.to(other.dtype), other, both)
        known = teacher.seen()[label, None]
        return {
            "ce": self.cross_entropy(logits, label),
            "structure": row_transport(prototype_rows(features, own, both), rows, blur=self.blur),
            "hallucination": hint_loss(guess * known, other[label] * known),
        }
