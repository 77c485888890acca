"""The naive rule: the most accurate teacher."""

from __future__ import annotations

import math

import numpy as np

from ucmkd.information.rules.evidence import (
    Array,
    Codes,
    Evidence,
    Finding,
    Settings,
    mean_with_interval,
)
from ucmkd.information.rules.kernel import probe


def teacher_outputs(evidence: Evidence) -> tuple[Array, Array]:
    """What the teacher says of every row, and how often it is right where it is known.

    Given outputs count as they are. Else a kernel probe is fitted: on the teacher's own samples
    or, without any, on the labelled rows, each of which then gets what is said without it.

    Returns:
        Probabilities ``(n, C)`` and correctness ``(m,)`` as 0 or 1.
    """
    rows, labels = evidence.labelled, evidence.labels
    if evidence.outputs is not None:
        guess = evidence.outputs[rows].argmax(axis=1)
        return evidence.outputs, np.asarray(guess == labels[rows], dtype=np.float64)
    if evidence.own is not None:
        outputs, left_out, used = probe(*evidence.own, evidence.classes, evidence.teacher)
        return outputs, _correct(left_out, evidence.own[1][used])
    outputs, left_out, used = probe(
        evidence.teacher[rows], labels[rows], evidence.classes, evidence.teacher
    )
    outputs[rows[used]] = left_out
    return outputs, _correct(left_out, labels[rows[used]])


def _correct(outputs: Array, labels: Codes) -> Array:
    return np.asarray(outputs.argmax(axis=1) == labels, dtype=np.float64)


def student_correct(evidence: Evidence) -> tuple[Array, Array]:
    """Leave-one-out correctness ``(n_l,)`` of a probe on the student's labels, and weights."""
    if "student_correct" not in evidence.memory:
        rows = evidence.labelled
        x, labels = evidence.student[rows], evidence.labels[rows]
        _, left_out, used = probe(x, labels, evidence.classes, x[:1])
        evidence.memory["student_correct"] = _correct(left_out, labels[used]), used
    correct, used = evidence.memory["student_correct"]
    return correct, evidence.row_weight[used]


def accuracy(evidence: Evidence, settings: Settings) -> Finding:
    """``accuracy(teacher) - accuracy(student)``, each in its own modality, without distillation.

    Both by leave-one-out of a kernel probe, the student's on its labelled rows. Whatever the
    student, the ranking is that of the teachers' accuracies. No pairs are needed.

    Interval: normal, from two independent binomial errors.
    """
    own = teacher_outputs(evidence)[1]
    base, weight = student_correct(evidence)
    teacher, t_low, _ = mean_with_interval(own, settings.confidence)
    student, s_low, _ = mean_with_interval(base, settings.confidence, weight)
    margin = teacher - student
    reach = math.hypot(teacher - t_low, student - s_low)
    return Finding(margin, margin - reach, margin + reach, teacher, student)
