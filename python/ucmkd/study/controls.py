"""Teachers that know nothing: what a method must beat before its teacher is given the credit."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from ucmkd.batches import TrainingData
from ucmkd.config import ConfigError
from ucmkd.models import Student
from ucmkd.preparation import Prepared
from ucmkd.teacher import cache_outputs

TeacherKind = Literal["trained", "untrained", "noise"]
Control = Literal["placebo", "untrained", "noise"]
CONTROLS: tuple[Control, ...] = get_args(Control)

MEANING: dict[str, str] = {
    "placebo": "the teacher's classes are permuted (class frequencies kept)",
    "untrained": "the teacher has its random initial weights",
    "noise": "features and logits of the teacher are standard normal noise",
}


def kind_of(control: Control | None) -> TeacherKind:
    """The teacher of a control; the placebo's is trained, and then misunderstood."""
    return control if control in ("untrained", "noise") else "trained"


def teacher_outputs(
    kind: TeacherKind, teacher: Student, prepared: Prepared, *, seed: int
) -> TrainingData:
    """The student's data with what a frozen teacher says about its own samples and the pairs.

    Args:
        kind: ``"trained"`` and ``"untrained"`` ask ``teacher``, whatever its weights;
            ``"noise"`` draws features ``(m, d_T)`` and logits ``(m, C)`` from N(0, 1).
        teacher: Frozen, in evaluation mode.
        prepared: Both sides; labels are the true ones for every kind.
        seed: Of the noise.

    Raises:
        ConfigError: Unknown ``kind``.
    """
    if kind not in get_args(TeacherKind):
        raise ConfigError(f"kind must be one of {get_args(TeacherKind)}, got {kind!r}")
    generator = torch.Generator().manual_seed(seed)

    def outputs(inputs: Tensor) -> tuple[Tensor, Tensor]:
        feature, logits = cache_outputs(teacher, inputs)
        if kind == "noise":
            feature, logits = (
                torch.randn(t.shape, generator=generator).to(t) for t in (feature, logits)
            )
        return feature, logits

    own = prepared.teacher
    feature, logits = outputs(own.student)
    data = replace(
        prepared.student,
        teacher_feature=feature,
        teacher_logits=logits,
        teacher_label=own.student_label,
    )
    if prepared.paired_teacher is None:
        return data
    pair = outputs(prepared.paired_teacher)
    return replace(data, paired_teacher_feature=pair[0], paired_teacher_logits=pair[1])
