"""Gaussian and Student copulas: what is left of a joint distribution without its margins."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import digamma, gammaln, stdtrit
from scipy.stats import rankdata

from ucmkd.information.gaussian import (
    gaussian,
    gaussian_bias,
    gaussian_information,
)
from ucmkd.information.reduction import normal_scores
from ucmkd.information.variables import Array

#: Degrees of freedom that are searched; at the upper end the copula counts as Gaussian.
DOF_RANGE = (0.5, 60.0)
#: Smallest eigenvalue of a correlation matrix of full rank.
SINGULAR = 1e-12
#: Steps of the fixed point for the scatter matrix.
SCATTER_STEPS = 15


@dataclass(frozen=True)
class Copula:
    """A fitted copula with the mutual information that it implies.

    Attributes:
        correlation: ``(d_x + d_y, d_x + d_y)``.
        x_width: d_x.
        dof: Degrees of freedom ν of the Student copula; infinite for the Gaussian one.
        log_likelihood: Pseudo-log-likelihood per sample at the ranks.
        information: I(X; Y) in nats, its bias removed.
    """

    correlation: Array
    x_width: int
    dof: float
    log_likelihood: float
    information: float

    def sample(self, samples: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Pairs with this copula, ``(n, d_x)`` and ``(n, d_y)``, as normal scores."""
        values, vectors = np.linalg.eigh(self._unbiased_correlation())
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        z = rng.standard_normal((samples, len(values))) @ root.T
        if math.isfinite(self.dof):
            z /= np.sqrt(rng.chisquare(self.dof, samples) / self.dof)[:, None]
        z = normal_scores(z)
        return z[:, : self.x_width], z[:, self.x_width :]

    def _unbiased_correlation(self) -> Array:
        """The correlations across x and y scaled down until they imply the unbiased value.

        Sample correlations in many dimensions overstate the dependence by the plug-in's bias.
        """
        split = self.x_width
        wanted = self.information
        if math.isfinite(self.dof):
            wanted -= student_term(self.dof, split, len(self.correlation) - split)
        low, high = 0.0, 1.0
        if _normal_information(self.correlation, split) <= wanted:
            return self.correlation
        for _ in range(30):
            middle = 0.5 * (low + high)
            if _normal_information(_weaken(self.correlation, split, middle), split) > wanted:
                high = middle
            else:
                low = middle
        return _weaken(self.correlation, split, low)


def student_term(dof: float, x_width: int, y_width: int) -> float:
    r"""What a multivariate Student t adds to the normal value of its scatter matrix, in nats.

    ``f(ν) + f(ν + d_x + d_y) - f(ν + d_x) - f(ν + d_y)`` with
    :math:`f(t) = \log\Gamma(t/2) - \tfrac t2 \psi(t/2)`; it vanishes as ν grows.

    Source: from the entropy in Arellano-Valle, Contreras-Reyes and Genton 2013 (Scandinavian
    Journal of Statistics 40), section 3.
    """

    def f(t: float) -> float:
        return float(gammaln(0.5 * t) - 0.5 * t * digamma(0.5 * t))

    return f(dof) + f(dof + x_width + y_width) - f(dof + x_width) - f(dof + y_width)


def fit_gaussian(x: Array, y: Array) -> Copula:
    """The Gaussian copula: correlations of the normal scores.

    Args:
        x: ``(n, d_x)``.
        y: ``(n, d_y)``.
    """
    a, b = normal_scores(x), normal_scores(y)
    z = np.concatenate([a, b], axis=1)
    scale = z.std(axis=0)
    correlation = (z / scale).T @ (z / scale) / len(z)
    sign, log_det = np.linalg.slogdet(correlation)
    likelihood = -0.5 * float(log_det) if sign > 0 else math.inf
    return Copula(correlation, x.shape[1], math.inf, likelihood, gaussian(a, b))


def fit_student(x: Array, y: Array) -> Copula:
    r"""The Student copula by pseudo-maximum likelihood.

    For each ν the ranks go through the Student quantile, the scatter matrix solves
    :math:`R \propto \sum_i \frac{\nu + d}{\nu + w_i^\top R^{-1} w_i} w_i w_i^\top`, and ν
    maximises the copula's likelihood. The information is the normal one of R, less the bias of
    an unbiased Gaussian fit times :math:`(d + \nu + 2)/(d + \nu)`, plus :func:`student_term`.

    Args:
        x: ``(n, d_x)``.
        y: ``(n, d_y)``.

    Returns:
        The copula; of infinite information where normal scores of x determine some of y.

    Raises:
        ValueError: The normal scores of one side are constant or linearly dependent.

    Source: Demarta and McNeil 2005, "The t Copula and Related Copulas", sections 4.2 and 4.3.
    """
    z = np.concatenate([x, y], axis=1)
    ranks = np.apply_along_axis(rankdata, 0, z)
    share = (ranks - 0.5) / len(z)
    for side, name in ((x, "x"), (y, "y")):
        if _singular(side):
            raise ValueError(
                f"{name} must have normal scores that are linearly independent for a Student "
                f"copula, got {side.shape[1]} columns that determine each other: use 'gaussian' "
                "or 'mixed', or reduce the dimension"
            )
    if _singular(z):
        return replace(fit_gaussian(x, y), information=math.inf)

    def loss(log_dof: float) -> float:
        return -_likelihood(share, math.exp(log_dof))[0]

    low, high = (math.log(end) for end in DOF_RANGE)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 0.05})
    dof = math.exp(float(found.x))
    likelihood, scatter = _likelihood(share, dof)
    a, b = x.shape[1], y.shape[1]
    bias = gaussian_bias(a, b, len(x)) * (a + b + dof + 2.0) / (a + b + dof)
    value = _normal_information(scatter, a) - bias + student_term(dof, a, b)
    return Copula(scatter, a, dof, likelihood, value)


def _singular(values: Array) -> bool:
    """Whether normal scores determine each other."""
    scores = normal_scores(values)
    deviation = scores.std(axis=0)
    if not (deviation > 0.0).all():
        return True
    scores = (scores - scores.mean(axis=0)) / deviation
    return float(np.linalg.eigvalsh(scores.T @ scores / len(scores))[0]) < SINGULAR


def _likelihood(share: Array, dof: float) -> tuple[float, Array]:
    """Mean copula log-likelihood at ν with the best scatter matrix, and that matrix."""
    w = stdtrit(dof, share)
    d = w.shape[1]
    scatter = np.corrcoef(np.arcsinh(w).T)
    for _ in range(SCATTER_STEPS):
        square = _square(w, scatter)
        weighted = w * np.sqrt((dof + d) / (dof + square))[:, None]
        scatter = weighted.T @ weighted
        scale = np.sqrt(np.diag(scatter))
        scatter /= np.outer(scale, scale)
    square = _square(w, scatter)
    joint = -0.5 * (dof + d) * np.log1p(square / dof) - 0.5 * float(np.linalg.slogdet(scatter)[1])
    single = -0.5 * (dof + 1.0) * np.log1p(np.square(w) / dof).sum(axis=1)
    constant = gammaln(0.5 * (dof + d)) + (d - 1) * gammaln(0.5 * dof)
    constant -= d * gammaln(0.5 * (dof + 1.0))
    return float((joint - single).mean() + constant), scatter


def _square(w: Array, scatter: Array) -> Array:
    """``w_iᵀ R⁻¹ w_i``, not negative where R is nearly singular."""
    return np.maximum(np.einsum("ij,ij->i", w @ np.linalg.inv(scatter), w), 0.0)


def _normal_information(correlation: Array, x_width: int) -> float:
    sides = correlation[:x_width, :x_width], correlation[x_width:, x_width:]
    cross = correlation[:x_width, x_width:]
    try:
        whiten_x, whiten_y = (np.linalg.cholesky(side) for side in sides)
        cross = np.linalg.solve(whiten_x, cross)
        cross = np.linalg.solve(whiten_y, cross.T)
    except np.linalg.LinAlgError:
        # Columns of one side determine each other: only what varies counts.
        cross = _whitening(sides[0]) @ cross @ _whitening(sides[1]).T
    return gaussian_information(np.clip(np.linalg.svd(cross, compute_uv=False), 0.0, 1.0))


def _whitening(correlation: Array) -> Array:
    values, vectors = np.linalg.eigh(correlation)
    keep = values > SINGULAR * values[-1]
    return np.asarray((vectors[:, keep] / np.sqrt(values[keep])).T)


def _weaken(correlation: Array, x_width: int, factor: float) -> Array:
    """Multiply the correlations between x and y by ``factor`` in [0, 1]."""
    weaker = correlation.copy()
    weaker[:x_width, x_width:] *= factor
    weaker[x_width:, :x_width] *= factor
    return weaker
