"""A distillation in closed form, tried out before the real one."""

from __future__ import annotations

import numpy as np

from ucmkd.information.rules.accuracy import teacher_outputs
from ucmkd.information.rules.evidence import (
    Array,
    Codes,
    Evidence,
    Finding,
    Settings,
    mean_with_interval,
)
from ucmkd.information.rules.kernel import Ridge, Scale, best_left_out, one_hot

ROUNDING = 1e-10
"""Differences below it are none: a teacher that only repeats the labels changes nothing."""


def trial(evidence: Evidence, settings: Settings) -> Finding:
    r"""Squared error of a kernel student without the teacher, minus that with it.

    The student is kernel ridge regression on H_S. Without the teacher it minimises

    .. math:: \frac{1}{n_l}\sum_{i \in L} \lVert y_i - f(x_i)\rVert^2 + \rho \lVert f\rVert^2,

    with it :math:`\frac{\lambda}{n_p}\sum_{i\in P}\lVert t_i - f(x_i)\rVert^2` is added, t the
    teacher's probabilities and P the unlabelled pairs (all rows where every row has a label).
    Both are judged on the labelled rows, each left out in turn, in closed form:
    :math:`\lVert y_i - f_{-i}(x_i)\rVert^2`, classes counted as they come
    (:attr:`.Evidence.row_weight`); ρ is chosen by the same error. Squared errors and not mistakes,
    since fifty rows have few mistakes to count. What a real student gains is another number; its
    sign and its order among teachers are what this is for.

    Interval: normal, over the labelled rows' paired differences.
    """
    rows, weight = evidence.labelled, evidence.row_weight
    truth = one_hot(evidence.labels[rows], evidence.classes)
    alone = np.square(_alone(evidence, rows, truth, weight) - truth).sum(axis=1)
    targets, ridge = _taught(evidence, settings, rows, truth)
    place = np.arange(len(rows))
    found = best_left_out(ridge, targets, place, truth, weight)[1]
    taught = np.square(found - truth).sum(axis=1)
    difference = np.where(np.abs(alone - taught) < ROUNDING, 0.0, alone - taught)
    margin, low, high = mean_with_interval(difference, settings.confidence, weight)
    with_teacher, without = (
        mean_with_interval(part, settings.confidence, weight)[0] for part in (taught, alone)
    )
    return Finding(margin, low, high, with_teacher, without)


def _alone(evidence: Evidence, rows: Codes, truth: Array, weight: Array) -> Array:
    """Leave-one-out predictions of the labelled rows alone."""
    if "trial_alone" not in evidence.memory:
        x = evidence.student[rows]
        scale = Scale.fit(evidence.student)
        ridge = Ridge(scale.kernel(x, x), np.full(len(x), 1.0 / len(x)))
        found = best_left_out(ridge, truth, np.arange(len(x)), truth, weight)
        evidence.memory["trial_alone"] = found[1]
    return np.asarray(evidence.memory["trial_alone"])


def _taught(
    evidence: Evidence, settings: Settings, rows: Codes, truth: Array
) -> tuple[Array, Ridge]:
    """Targets of all rows, the labelled ones first, and their ridge."""
    pairs = evidence.unlabelled
    said = teacher_outputs(evidence)[0] - 1.0 / evidence.classes
    key = ("trial_taught", settings.weight)
    if len(pairs):
        order = np.concatenate([rows, pairs])
        if key not in evidence.memory:
            weight = np.concatenate(
                [
                    np.full(len(rows), 1 / len(rows)),
                    np.full(len(pairs), settings.weight / len(pairs)),
                ]
            )
            x = evidence.student[order]
            evidence.memory[key] = Ridge(Scale.fit(evidence.student).kernel(x, x), weight)
        return np.concatenate([truth, said[pairs]]), evidence.memory[key]
    # Every row has both: the sum of the two squares is one square around their mean.
    if key not in evidence.memory:
        x = evidence.student[rows]
        weight = np.full(len(rows), (1.0 + settings.weight) / len(rows))
        evidence.memory[key] = Ridge(Scale.fit(evidence.student).kernel(x, x), weight)
    mixed = (truth + settings.weight * said[rows]) / (1.0 + settings.weight)
    return mixed, evidence.memory[key]
