"""What a reader of an estimate must be told: ties, repeated rows, saturation."""

from __future__ import annotations

import math

from ucmkd.information.gaussian import SHRINK_BELOW
from ucmkd.information.intervals import Spread
from ucmkd.information.ksg import ksg_limit
from ucmkd.information.methods import KRASKOV, NEIGHBOURS
from ucmkd.information.ties import MANY, repeated_rows, tied_share
from ucmkd.information.variables import Variable, entropy

#: Above so many dimensions of both sides together KSG is warned of.
KSG_DIMENSIONS = 6
#: A share of the largest value that an estimator can report; beyond it means "at least".
SATURATED = 0.75


def notes_on_data(x: Variable, y: Variable) -> tuple[str, ...]:
    """Ties in single columns and pairs that occur more than once."""
    notes: tuple[str, ...] = ()
    for side, name in ((x, "x"), (y, "y")):
        share = 0.0 if side.discrete else tied_share(side.values)
        if share > MANY:
            notes += (
                f"{name}: {share:.0%} of the values of a column are tied (a class label should "
                "be of integers)",
            )
    if not (x.discrete or y.discrete):
        share = repeated_rows(x.values, y.values)
        if share > MANY:
            notes += (
                f"{share:.0%} of the samples occur more than once (a bootstrap?): nearest "
                "neighbours take copies for dependence",
            )
    return notes


def notes_on_value(
    method: str, value: float, spread: Spread, x: Variable, y: Variable, k: int
) -> tuple[str, ...]:
    """Where the estimator cannot be believed at this value."""
    notes: tuple[str, ...] = ()
    width = x.width + y.width
    if math.isinf(value):
        notes += ("one side is a linear function of the other: infinite",)
    if method in KRASKOV:
        limit = ksg_limit(len(x), k)
        if value > SATURATED * limit:
            notes += (
                f"saturated: KSG cannot report more than {limit:.2f} nats at n = {len(x)}; the "
                "truth may lie anywhere above the value",
            )
        if width > KSG_DIMENSIONS:
            notes += (
                f"saturated: in {width} dimensions KSG reports far too little of a strong "
                "dependence; reduce the dimension, the same way on both sides of a comparison",
            )
    if method in ("ross", "mixed") and width > KSG_DIMENSIONS:
        notes += (f"nearest neighbours in {width} dimensions report too little",)
    if x.discrete or y.discrete:
        bound = min(entropy(side.codes) for side in (x, y) if side.discrete)
        if value > bound:
            notes += (f"above the entropy of the label, {bound:.3f} nats, which bounds it",)
    if method in NEIGHBOURS and spread.drift > max(0.1, 0.25 * abs(value)):
        notes += (
            f"the value still grows with the number of samples (by about {spread.drift:.2f} "
            "nats from here): too low",
        )
    return notes


def notes_on_shrinking(x: Variable, y: Variable) -> tuple[str, ...]:
    """Of correlations that were shrunk where the samples asked for it."""
    columns = x.columns + y.columns
    if len(x) - 1 >= SHRINK_BELOW * columns:
        return ()
    return (
        f"only {len(x)} samples for {columns} dimensions: correlations were shrunk, and the value "
        "is cautious",
    )
