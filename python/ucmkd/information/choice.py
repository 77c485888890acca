"""Which estimator suits the data: what ``method="auto"`` decides, and on what grounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ucmkd.information.copula import Copula, fit_gaussian, fit_student
from ucmkd.information.gaussian import SHRINK_BELOW
from ucmkd.information.ksg import ksg1
from ucmkd.information.ties import has_atom
from ucmkd.information.variables import Array, Variable

#: Most dimensions of both sides together for nearest neighbours.
KNN_DIMENSIONS = 10
#: Most dimensions of the continuous side for nearest neighbours beside a label.
ROSS_DIMENSIONS = 5
#: Samples from a fitted copula that it is tested with, and most rows of each.
REPEATS, TEST_ROWS = 8, 2000
#: A copula whose neighbour estimate lies so many standard deviations off is rejected.
REJECT = 4.0


@dataclass(frozen=True)
class Choice:
    """A method, why, and the copula that the data were compared with, if any.

    Attributes:
        method: ``"gaussian"``, ``"student"``, ``"ksg"``, ``"ross"``, ``"mixed"``,
            ``"discrete"``, ``"classifier"`` or ``"latent"``.
        reason: One sentence.
        reference: The closest copula, for ``"ksg"``: its samples show the bias of KSG.
    """

    method: str
    reason: str
    reference: Copula | None = None


def choose(x: Variable, y: Variable, *, k: int, folds: int, seed: int) -> Choice:
    """Choose an estimator for two sides whose margins are normal scores, unless they have atoms.

    Two continuous sides are compared with a Gaussian copula, or a Student one where the tails
    ask for it. KSG is run on the data and on samples from the fitted copula: where both differ
    from the copula's own value alike, and second-order statistics agree too, the copula's value
    is taken, which is far more precise. Otherwise nearest neighbours in few dimensions, latent
    representations in many.
    """
    if x.discrete and y.discrete:
        return Choice("discrete", "both sides are discrete: the table of counts says all")
    if x.discrete or y.discrete:
        return _choose_label(x, y, folds)
    width = x.width + y.width
    if has_atom(x.values) or has_atom(y.values):
        if width <= KNN_DIMENSIONS:
            return Choice("mixed", "single values hold many samples: partly discrete, partly not")
        return Choice("latent", f"partly discrete values in {width} dimensions")
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
            "ross",
            f"a label whose smallest class has {smallest} samples, too few to hold any out",
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
    kind = "gaussian" if math.isinf(copula.dof) else "student"
    name = "Gaussian copula" if kind == "gaussian" else f"Student copula (ν = {copula.dof:.1f})"
    misfit = _misfit(a, b, copula, fit, k, seed)
    if misfit is None:
        return Choice(kind, f"normal scores look like a {name}", copula)
    width = x.width + y.width
    if width <= KNN_DIMENSIONS:
        return Choice("ksg", f"{misfit}; {width} dimensions suit nearest neighbours", copula)
    return Choice("latent", f"{misfit}; {width} dimensions are too many for nearest neighbours")


def closest_copula(x: Array, y: Array) -> tuple[Copula, Callable[[Array, Array], Copula]]:
    """The Gaussian copula, or the Student one where it fits clearly better; and its fit."""
    plain = fit_gaussian(x, y)
    if not _heavy(x, y, plain):
        return plain, fit_gaussian
    student = fit_student(x, y)
    gain = 2.0 * len(x) * (student.log_likelihood - plain.log_likelihood)
    return (student, fit_student) if gain > 10.0 else (plain, fit_gaussian)


def _heavy(x: Array, y: Array, plain: Copula) -> bool:
    """Mardia's kurtosis beyond the Gaussian's by 3 standard errors: worth a Student fit."""
    z = np.concatenate([x, y], axis=1)
    z = (z - z.mean(axis=0)) / z.std(axis=0)
    n, d = z.shape
    square = np.einsum("ij,ij->i", z @ np.linalg.pinv(plain.correlation), z)
    error = math.sqrt(8.0 * d * (d + 2.0) / n)
    return float(np.square(square).mean()) - d * (d + 2.0) * (n - 1.0) / (n + 1.0) > 3.0 * error


def _misfit(
    x: Array, y: Array, copula: Copula,
    fit: Callable[[Array, Array], Copula], k: int, seed: int,
) -> str | None:  # fmt: skip
    """What speaks against the copula; None when nothing does."""
    draw = np.random.default_rng(seed)
    gaps, moments = [], []
    for _ in range(REPEATS):
        a, b = copula.sample(len(x), draw)
        gaps.append(ksg1(a, b, k=k) - fit(a, b).information)
        moments.append(_second_order(a, b))
    gap = ksg1(x, y, k=k) - copula.information
    spread = float(np.std(gaps, ddof=1)) * math.sqrt(1.0 + 1.0 / REPEATS)
    score = (gap - float(np.mean(gaps))) / max(spread, 1e-12)
    if abs(score) > REJECT:
        return (
            f"nearest neighbours find {gap - float(np.mean(gaps)):+.2f} nats beside the closest "
            f"copula ({score:+.0f} standard deviations)"
        )
    # Nearest neighbours see little in many dimensions; second moments do.
    table = np.stack(moments)
    apart = [
        float(np.abs(table[i] - np.delete(table, i, axis=0).mean(axis=0)).max())
        for i in range(REPEATS)
    ]
    found = float(np.abs(_second_order(x, y) - table.mean(axis=0)).max())
    if found > float(np.mean(apart)) + REJECT * float(np.std(apart, ddof=1)):
        return f"products of coordinates correlate by {found:.2f} more than in the closest copula"
    return None


def _second_order(x: Array, y: Array) -> Array:
    """Correlations of all products of x coordinates with y coordinates and their products."""
    first, second = _products(x), _products(y)
    table = first.T @ second / len(x)
    return table


def _products(values: Array) -> Array:
    """Coordinates and their products of two, centred, each of variance 1; of the first 30."""
    values = values[:, :30]
    rows, columns = np.triu_indices(values.shape[1])
    both = np.concatenate([values, values[:, rows] * values[:, columns]], axis=1)
    both = both - both.mean(axis=0)
    return np.asarray(both / np.maximum(both.std(axis=0), 1e-12))
