"""What a preparation ends in."""

from __future__ import annotations

from dataclasses import dataclass

from ..batches import TrainingData
from ..stored_inputs import Inputs
from .transform import InputTransform

CONSEQUENCE = {
    "training sample of the teacher": "it cannot teach it",
    "label of the student": "only the teacher and the unlabelled samples speak of it",
    "validation sample of the student": "it has no say in the choice of the model",
    "test sample of the student": "it has no recall, and balanced accuracy is over the others",
}
"""What follows where a class is absent; said in :attr:`Prepared.notes`."""


@dataclass(frozen=True)
class Prepared:
    """Both sides as tensors, before there is a teacher.

    Attributes:
        teacher: the teacher's own supervised problem (its labelled samples as ``student``, its
            validation samples as ``validation``).
        student: the student's problem; the teacher's cached outputs are still missing.
        paired_teacher: the pairs in the teacher's modality (p, ...), or None.
        cohort_teacher: the teacher's samples of known cohort (g, ...), or None.
        teacher_test: the test samples in the teacher's modality, for a teacher that is trained
            along; None where they are not measured in it.
        transform: of the student's inputs.
        class_names: C names, the classes that both sides have.
        notes: what was decided on the way and a reader should know: classes that were left out or
            that a part lacks, what was drawn by chance.
    """

    teacher: TrainingData
    student: TrainingData
    paired_teacher: Inputs | None
    transform: InputTransform
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    cohort_teacher: Inputs | None = None
    teacher_test: Inputs | None = None
