"""The gain that the exact Gaussian theory predicts."""

from __future__ import annotations

from ucmkd.information.rules.accuracy import teacher_outputs
from ucmkd.information.rules.evidence import Evidence, Finding, Settings
from ucmkd.theory.gaussian import PredictedGain, predicted_gain


def gaussian(evidence: Evidence, settings: Settings) -> Finding:
    """The predicted gain of a linear student over its excess risk without the teacher.

    :func:`ucmkd.theory.gaussian.predicted_gain`: the reference samples are the labelled rows, the
    pairs of the training the unlabelled ones (or all rows where every row has a label), the weight
    that of ``CE + λ KD`` with both means. A pull towards anything helps a student of few labels,
    so that this is rarely below zero.

    Raises:
        ValueError: Too few labelled rows for the model.
    """
    found = _predicted(evidence, settings)
    value, low, high = found.relative
    return Finding(value, low, high, warnings=found.warnings)


def gaussian_own(evidence: Evidence, settings: Settings) -> Finding:
    """The teacher's own part of :func:`gaussian`: the gain beyond that of a constant teacher.

    In units of the excess risk without a teacher, too.

    Raises:
        ValueError: Too few labelled rows for the model.
    """
    found = _predicted(evidence, settings)
    value, low, high = (end / found.excess_risk_without for end in found.over_constant)
    return Finding(value, low, high, warnings=found.warnings)


def _predicted(evidence: Evidence, settings: Settings) -> PredictedGain:
    rows, pairs = evidence.labelled, len(evidence.unlabelled)
    count = len(rows)
    return predicted_gain(
        evidence.student[rows],
        evidence.labels[rows],
        teacher_outputs(evidence)[0][rows],
        n_labelled=count,
        unlabelled_pairs=pairs,
        labelled_paired=pairs == 0,
        # One class of the loss per sample: α = λ n_l / (n_p + λ n_l).
        weight=settings.weight * count / ((pairs or count) + settings.weight * count),
        confidence=settings.confidence,
        subsamples=max(20, settings.subsamples),
        seed=settings.seed,
    )
