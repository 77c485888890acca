"""Least squares on a real table, with and without a teacher: what the model predicts, measured."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import checks

Array = NDArray[np.float64]


#: Directions below this share of the largest singular value count as not determined.
CUT = 1e-6


class Measured(NamedTuple):
    """Gain over random splits of one table; the interval is that of the mean, ±1.96 errors.

    Attributes:
        gain: Squared error on the rest without a teacher minus that with it, summed over outputs.
        low: Lower end.
        high: Upper end.
    """

    gain: float
    low: float
    high: float


def measure_gain(
    features: Array,
    target: Array,
    answer: Array,
    *,
    n_labelled: int,
    weight: float,
    unlabelled_pairs: int = 0,
    labelled_paired: bool = True,
    repetitions: int = 60,
    seed: int = 0,
) -> Measured:
    """Fit the student of :mod:`.model` with an intercept on random rows and score it on the rest.

    Rows that do not determine the weights get the shortest ones.

    Args:
        features: ``(N, d)``.
        target: ``(N, q)``.
        answer: The teacher's, ``(N, q)``.
        n_labelled: n rows with a label.
        weight: α in [0, 1].
        unlabelled_pairs: m more rows with the teacher's answer only.
        labelled_paired: Whether the n rows have one too.
        repetitions: Random splits, at least 2.
        seed: Of the splits.

    Raises:
        ValueError: A number out of range, or no row left to score on.
    """
    checks.share("weight", weight)
    checks.count("n_labelled", n_labelled, 1)
    checks.count("unlabelled_pairs", unlabelled_pairs, 0)
    checks.count("repetitions", repetitions, 2)
    rows = n_labelled + unlabelled_pairs
    if rows >= len(features):
        raise ValueError(
            f"n_labelled + unlabelled_pairs must leave rows to score on, got {rows} of "
            f"{len(features)}"
        )
    design = np.hstack([np.ones((len(features), 1)), features])
    of_label, of_answer = np.zeros((rows, 1)), np.full((rows, 1), weight)
    of_label[:n_labelled] = 1.0 - weight
    if not labelled_paired:
        of_answer[:n_labelled] = 0.0
    total = of_label + of_answer
    # A row of weight 0 has no target.
    root, share = np.sqrt(total), of_label / np.maximum(total, 1e-300)
    rng = np.random.default_rng(seed)
    gains = np.empty(repetitions)
    for row in range(repetitions):
        order = rng.permutation(len(features))
        train, test = order[:rows], order[rows:]
        labelled = train[:n_labelled]
        plain = np.linalg.lstsq(design[labelled], target[labelled], rcond=CUT)[0]
        mixed = share * target[train] + (1.0 - share) * answer[train]
        taught = np.linalg.lstsq(root * design[train], root * mixed, rcond=CUT)[0]
        gains[row] = sum(
            sign * float(np.mean(np.sum((design[test] @ fit - target[test]) ** 2, axis=1)))
            for sign, fit in ((1.0, plain), (-1.0, taught))
        )
    mean = float(gains.mean())
    reach = 1.96 * float(gains.std(ddof=1)) / repetitions**0.5
    return Measured(mean, mean - reach, mean + reach)
