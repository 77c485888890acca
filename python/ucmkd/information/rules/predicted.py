"""The gain that the exact Gaussian theory predicts."""

from __future__ import annotations

from ucmkd.information.rules.accuracy import teacher_outputs
from ucmkd.information.rules.evidence import Evidence, Finding, Settings


def gaussian_gain(evidence: Evidence, settings: Settings) -> Finding:
    """:func:`ucmkd.theory.gaussian.predicted_gain` of a linear student, relative to its excess risk.

    The reference samples are the labelled rows, the pairs of the training the unlabelled ones (or
    all rows where every row has a label); the weight α is the one of ``CE + λ KD`` with both means,
    ``λ n_l / (n_p + λ n_l)``.

    Raises:
        ValueError: Too few labelled rows for the model.
    """
    from ucmkd.theory.gaussian import predicted_gain

    rows, pairs = evidence.labelled, len(evidence.unlabelled)
    count = len(rows)
    found = predicted_gain(
        evidence.student[rows],
        evidence.labels[rows],
        teacher_outputs(evidence)[0][rows],
        n_labelled=count,
        unlabelled_pairs=pairs,
        labelled_paired=pairs == 0,
        weight=settings.weight * count / ((pairs or count) + settings.weight * count),
        confidence=settings.confidence,
        subsamples=max(20, settings.subsamples),
        seed=settings.seed,
    )
    return Finding(*found.relative, warnings=found.warnings)
