"""Signal-to-noise ratios, as the theory of multi-modal contrastive learning counts them."""

from __future__ import annotations

import math

import numpy as np

from ucmkd.information.rules.evidence import Array, Codes, Evidence, Finding, Settings
from ucmkd.theory.contrastive import SignalToNoise, signal_to_noise


def snr(evidence: Evidence, settings: Settings) -> Finding:
    """``SNR(H_T; Y) - SNR(H_S; Y)``, the spread of class means over that within classes.

    :func:`ucmkd.theory.contrastive.signal_to_noise` on the teacher's own samples (without any, on
    the labelled rows) and on the student's labelled rows; classes of a single sample are left out.
    Above zero the ratio C_μ of the theorems is above 1. They are about contrastive learning and
    want C_μ·n·SNR² above about 2, so that this rule only ranks. No pairs are needed.

    Interval: jackknife of either side, taken as independent.

    Raises:
        ValueError: Fewer than two classes of two labelled samples.
    """
    rows = evidence.labelled
    labels = evidence.labels[rows]
    own = (evidence.teacher[rows], labels) if evidence.own is None else evidence.own
    teacher = _ratio("teacher", *own, settings)
    student = _ratio("student", evidence.student[rows], labels, settings)
    margin = teacher.value - student.value
    return Finding(
        margin,
        margin - math.hypot(teacher.value - teacher.low, student.high - student.value),
        margin + math.hypot(teacher.high - teacher.value, student.value - student.low),
        teacher.value,
        student.value,
        decides=False,
    )


def _ratio(side: str, features: Array, labels: Codes, settings: Settings) -> SignalToNoise:
    kept = np.bincount(labels)[labels] > 1
    if len(np.unique(labels[kept])) < 2:
        raise ValueError(
            f"rule 'snr' needs two classes or more of two labelled samples each on the {side}'s "
            f"side, got {np.bincount(labels).tolist()} samples of the classes"
        )
    return signal_to_noise(
        features[kept], labels[kept], confidence=settings.confidence, seed=settings.seed
    )
