"""Whether a copula fits, judged by what matters here: the mutual information it implies."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ucmkd.information.copula import Copula, fit_gaussian, fit_student
from ucmkd.information.ksg import ksg1
from ucmkd.information.variables import Array

#: Samples drawn from the fitted copula: few where each takes long.
REPEATS, REPEATS_MANY_DIMENSIONS = 16, 8
#: A Student copula must raise twice the log-likelihood by this to be preferred.
LIKELIHOOD_GAIN = 10.0
Fit = Callable[[Array, Array], Copula]


@dataclass(frozen=True)
class Misfit:
    """How a sample differs from samples of the copula that was fitted to it.

    Attributes:
        gap: KSG of the data less the copula's value, beyond the same on the copula's samples,
            in nats.
        score: ``gap`` over ``deviation``.
        deviation: Of ``gap`` on the copula's samples, in nats.
        moment: Largest difference of a correlation between products of coordinates.
        moment_score: The same over its standard deviation.
    """

    gap: float
    score: float
    deviation: float
    moment: float
    moment_score: float


def closest_copula(x: Array, y: Array) -> tuple[Copula, Fit]:
    """The Gaussian copula, or the Student one where it fits clearly better; and how to fit it."""
    plain = fit_gaussian(x, y)
    if not _heavy(x, y, plain):
        return plain, fit_gaussian
    try:
        student = fit_student(x, y)
    except ValueError:  # Columns of one side determine each other.
        return plain, fit_gaussian
    gain = 2.0 * len(x) * (student.log_likelihood - plain.log_likelihood)
    return (student, fit_student) if gain > LIKELIHOOD_GAIN else (plain, fit_gaussian)


def misfit(x: Array, y: Array, copula: Copula, fit: Fit, *, k: int, seed: int) -> Misfit:
    """Compare the data with samples of ``copula``, each fitted anew: a parametric bootstrap.

    Args:
        x: ``(n, d_x)`` normal scores.
        y: ``(n, d_y)`` normal scores.
        copula: Fitted to them.
        fit: The function that fitted it.
        k: Neighbours of KSG.
        seed: Of the samples.
    """
    draw = np.random.default_rng(seed)
    width = x.shape[1] + y.shape[1]
    repeats = REPEATS if width <= 4 else REPEATS_MANY_DIMENSIONS
    gaps, tables = [], []
    for _ in range(repeats):
        a, b = copula.sample(len(x), draw)
        gaps.append(ksg1(a, b, k=k) - fit(a, b).information)
        tables.append(_second_order(a, b))
    gap = ksg1(x, y, k=k) - copula.information - float(np.mean(gaps))
    spread = float(np.std(gaps, ddof=1)) * math.sqrt(1.0 + 1.0 / repeats)
    # Nearest neighbours see little in many dimensions; second moments do.
    moments = np.stack(tables)
    usual = [
        float(np.abs(moments[i] - np.delete(moments, i, axis=0).mean(axis=0)).max())
        for i in range(repeats)
    ]
    moment = float(np.abs(_second_order(x, y) - moments.mean(axis=0)).max())
    deviation = max(float(np.std(usual, ddof=1)), 1e-12)
    spread = max(spread, 1e-12)
    return Misfit(gap, gap / spread, spread, moment, (moment - float(np.mean(usual))) / deviation)


def _heavy(x: Array, y: Array, plain: Copula) -> bool:
    """Mardia's kurtosis beyond the Gaussian's by 3 standard errors: worth a Student fit.

    Source: Mardia 1970 (Biometrika 57), equation 3.12.
    """
    z = np.concatenate([x, y], axis=1)
    z = (z - z.mean(axis=0)) / z.std(axis=0)
    n, d = z.shape
    square = np.einsum("ij,ij->i", z @ np.linalg.pinv(plain.correlation), z)
    error = math.sqrt(8.0 * d * (d + 2.0) / n)
    return float(np.square(square).mean()) - d * (d + 2.0) * (n - 1.0) / (n + 1.0) > 3.0 * error


def _second_order(x: Array, y: Array) -> Array:
    """Correlations of coordinates of x and their products of two with those of y."""
    return np.asarray(_products(x).T @ _products(y) / len(x))


def _products(values: Array) -> Array:
    """Coordinates and their products of two, centred, each of variance 1; of the first 30."""
    values = values[:, :30]
    rows, columns = np.triu_indices(values.shape[1])
    both = np.concatenate([values, values[:, rows] * values[:, columns]], axis=1)
    both = both - both.mean(axis=0)
    return np.asarray(both / np.maximum(both.std(axis=0), 1e-12))
