"""Which estimator suits the data: what ``method="auto"`` decides, and on what grounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ucmkd.information.canonical_estimate import LEAST, CanonicalEstimate, canonical
from ucmkd.information.copula import Copula
from ucmkd.information.gaussian import SHRINK_BELOW
from ucmkd.information.goodness import Misfit, closest_copula, misfit
from ucmkd.information.ties import has_atom, untied
from ucmkd.information.variables import Array, Variable

#: Most dimensions of both sides together for nearest neighbours.
KNN_DIMENSIONS = 10
#: Most dimensions of the continuous side for nearest neighbours beside a label.
ROSS_DIMENSIONS = 5
#: Rows that the copula is fitted to and tested on when choosing.
TEST_ROWS = 2000
#: Standard deviations at which a copula is rejected: in few dimensions, where nearest neighbours
#: do nearly as well; and in many, where what comes instead is far worse.
REJECT_FEW, REJECT_MANY = 3.0, 4.5
#: Standard deviations of KSG by which functions must show more than it.
CLEARLY = 2.0


@dataclass(frozen=True)
class Choice:
    """A method and why.

    Attributes:
        method: ``"gaussian"``, ``"student"``, ``"ksg"``, ``"ksg0"``, ``"canonical"``,
            ``"ross"``, ``"mixed"``, ``"discrete"``, ``"classifier"`` or ``"infonce"``.
        reason: One sentence.
        reference: The closest copula, for ``"ksg"``: its samples show the bias of KSG.
        doubt: What nearest neighbours would add to a copula's value.
        canonical: For ``"canonical"``: the estimate from the rows that decided.
    """

    method: str
    reason: str
    reference: Copula | None = None
    doubt: float = 0.0
    canonical: CanonicalEstimate | None = None


def choose(x: Variable, y: Variable, *, k: int, folds: int, seed: int) -> Choice:
    """Choose an estimator for two sides whose margins are normal scores, unless they have atoms.

    Two continuous sides are compared with a Gaussian copula, or a Student one where the tails
    ask for it. KSG is run on the data and on samples from the fitted copula: where both differ
    from the copula's own value alike, and second-order statistics agree too, the copula's value
    is taken, which is far more precise. Otherwise

    - two single coordinates: KSG carried on to no neighbours
      (:func:`ucmkd.information.extrapolation.ksg_line`);
    - up to ``KNN_DIMENSIONS``: KSG less its bias on the copula; or nonlinear canonical functions
      (:func:`ucmkd.information.canonical_estimate.canonical`) where, on samples that they were
      not learned from, they show more than it by ``CLEARLY`` standard deviations. Both err on
      the low side, so that the larger is nearer;
    - more: a critic's lower bound.

    Args:
        x: One side.
        y: The other.
        k: Neighbours.
        folds: A class with fewer samples cannot be cross-validated.
        seed: Of the copula's samples.
    """
    if x.discrete and y.discrete:
        return Choice("discrete", "both sides are discrete: the table of counts says all")
    if x.discrete or y.discrete:
        return _choose_label(x, y, folds)
    width = x.width + y.width
    if has_atom(x.values) or has_atom(y.values):
        if width <= KNN_DIMENSIONS:
            return Choice("mixed", "single values hold many samples: partly discrete, partly not")
        return Choice("infonce", f"partly discrete values in {width} dimensions: a lower bound")
    if len(x) - 1 < SHRINK_BELOW * width:
        return Choice(
            "gaussian",
            f"{len(x)} samples in {width} dimensions allow no more than shrunk correlations",
        )
    return _choose_continuous(x, y, k, seed)


def _choose_label(x: Variable, y: Variable, folds: int) -> Choice:
    features, label = (y, x) if x.discrete else (x, y)
    if features.width <= ROSS_DIMENSIONS:
        if has_atom(features.values):
            return Choice("mixed", "a label, and features in which single values hold many samples")
        return Choice("ross", f"a label and {features.width} continuous dimensions")
    smallest = int(np.bincount(label.codes).min())
    if smallest < folds:
        return Choice(
            "ross", f"a label whose smallest class has {smallest} samples, too few to hold any out"
        )
    return Choice(
        "classifier",
        f"a label and {features.width} dimensions, too many for nearest neighbours: what a "
        "linear classifier reads of it, a lower bound",
    )


def _choose_continuous(x: Variable, y: Variable, k: int, seed: int) -> Choice:
    a, b = x.values, y.values
    if len(a) > TEST_ROWS:
        rows = np.random.default_rng(seed).permutation(len(a))[:TEST_ROWS]
        a, b = a[rows], b[rows]
    copula, fit = closest_copula(a, b)
    if math.isinf(copula.information):
        return Choice("gaussian", "columns of the two sides determine each other", copula)
    # Neighbours at no distance would be taken for dependence, whatever the copula.
    a, b = untied(a, seed), untied(b, seed + 1)
    found = misfit(a, b, copula, fit, k=k, seed=seed)
    width = x.width + y.width
    limit = REJECT_FEW if width <= KNN_DIMENSIONS else REJECT_MANY
    if abs(found.score) <= limit and found.moment_score <= REJECT_MANY:
        if math.isinf(copula.dof):
            reason = "normal scores look like a Gaussian copula"
            return Choice("gaussian", reason, copula, found.gap)
        reason = f"normal scores look like a Student copula (ν = {copula.dof:.1f})"
        return Choice("student", reason, copula, found.gap)
    against = (
        f"nearest neighbours find {found.gap:+.2f} nats beside the closest copula "
        f"({found.score:+.0f} standard deviations)"
        if abs(found.score) > limit
        else f"products of coordinates correlate by {found.moment:.2f} beside the closest copula"
    )
    if width == 2:
        reason = f"{against}; nearest neighbours, carried on to none"
        return Choice("ksg0", reason)
    if width <= KNN_DIMENSIONS:
        return _neighbours_or_functions(a, b, copula, found, against, k, seed)
    return Choice(
        "infonce",
        f"{against}; {width} dimensions are too many for nearest neighbours: a lower bound",
    )


def _neighbours_or_functions(
    a: Array, b: Array, copula: Copula, found: Misfit, against: str, k: int, seed: int
) -> Choice:
    """KSG less its bias on the closest copula, or functions that show clearly more."""
    neighbours = copula.information + found.gap
    if len(a) >= LEAST:
        functions = canonical(a, b, k=k, seed=seed)
        if functions.held_out > neighbours + CLEARLY * found.deviation:
            reason = (
                f"{against}; {functions.reason} show {functions.held_out:.2f} nats on samples "
                f"they do not know, nearest neighbours {neighbours:.2f}"
            )
            return Choice("canonical", reason, canonical=functions)
    width = a.shape[1] + b.shape[1]
    reason = (
        f"{against}; {width} dimensions suit nearest neighbours, less their bias on that copula"
    )
    return Choice("ksg", reason, copula)
