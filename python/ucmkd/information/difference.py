"""The difference of two mutual informations by one estimator, with a joint interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ucmkd.information.choice import Choice
from ucmkd.information.estimate import MIEstimate
from ucmkd.information.estimator import Estimator
from ucmkd.information.intervals import Rows, Spread, neighbour_rate, subsample_interval
from ucmkd.information.methods import NEIGHBOURS, QUICK
from ucmkd.information.variables import Data, Variable

#: Methods that take continuous pairs and labels alike.
COMPARABLE = ("knn", "mixed", "gaussian", "latent", "mine", "nwj", "infonce", "smile")


@dataclass(frozen=True)
class MIDifference:
    """``first - second`` in nats, both by the same method after the same reduction.

    Attributes:
        value: The difference.
        low: Lower end of its interval.
        high: Upper end.
        first: The first mutual information.
        second: The second.
    """

    value: float
    low: float
    high: float
    first: MIEstimate
    second: MIEstimate


def information_difference(
    first: tuple[Data, Data], second: tuple[Data, Data], estimator: Estimator
) -> MIDifference:
    """``I(first) - I(second)``, such as ``I(H_T; H_S) - I(H_S; Y)``, and its interval.

    Both sides go through the same estimator with the same reduction; a variable that occurs in
    both is reduced alike. Where the estimator is quick, both are computed on the same subsets
    and the interval is that of the difference; otherwise the two errors are added in quadrature.

    Args:
        first: (x, y) of n samples.
        second: (x, y) of the same n samples.
        estimator: With a method of ``COMPARABLE``: one that takes labels and features alike.

    Raises:
        TypeError: See :func:`ucmkd.information.mutual_information`.
        ValueError: See there; a method that cannot treat both pairs alike; or different numbers
            of samples.
    """
    if estimator.method not in COMPARABLE:
        raise ValueError(
            f"method must treat both pairs alike, one of {', '.join(COMPARABLE)}, got "
            f"{estimator.method!r}: values of different estimators cannot be compared"
        )
    sizes = [len(side) for side in (*first, *second)]
    if len(set(sizes)) != 1:
        raise ValueError(f"first and second must hold the same samples, got {sizes}")
    one, two = estimator(*first), estimator(*second)
    spread = _joint_spread(first, second, estimator)
    if spread is None:
        value = one.value - two.value
        reach_low = math.hypot(one.value - one.low, two.high - two.value)
        reach_high = math.hypot(one.high - one.value, two.value - two.low)
        return MIDifference(value, value - reach_low, value + reach_high, one, two)
    return MIDifference(one.value - two.value, spread.low, spread.high, one, two)


def _joint_spread(
    first: tuple[Data, Data], second: tuple[Data, Data], estimator: Estimator
) -> Spread | None:
    """The interval of the difference from common subsets; None where that cannot be had."""
    from ucmkd.information.variables import as_pair

    prepared = [estimator.prepare(*as_pair(*pair)) for pair in (first, second)]
    sides: list[tuple[Variable, Variable, Choice]] = []
    for found in prepared:
        if isinstance(found, str) or found[2].method not in QUICK or not estimator.subsamples:
            return None
        sides.append(found[:3])
    settings = [estimator.settings(x, y, c.method) for x, y, c in sides]

    def estimate(rows: Rows) -> float:
        parts = [
            QUICK[c.method](x.rows(rows), y.rows(rows), options)
            for (x, y, c), options in zip(sides, settings, strict=True)
        ]
        return max(0.0, parts[0]) - max(0.0, parts[1])

    values = [
        max(0.0, QUICK[c.method](x, y, options))
        for (x, y, c), options in zip(sides, settings, strict=True)
    ]
    if not all(math.isfinite(value) for value in values):
        return None
    widths = [x.width + y.width for x, y, c in sides if c.method in NEIGHBOURS]
    return subsample_interval(
        estimate, values[0] - values[1], len(sides[0][0]), subsamples=estimator.subsamples,
        confidence=estimator.confidence, seed=estimator.seed, progress=estimator.progress,
        rate=neighbour_rate(max(widths)) if widths else 0.5,
    )  # fmt: skip
