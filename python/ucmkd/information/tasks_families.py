"""Families of joint distributions whose mutual information is known exactly."""

from __future__ import annotations

import math

import numpy as np

from ucmkd.information.variables import Array

Pair = tuple[Array, Array]


def dense_covariance(x_width: int, y_width: int, correlation: float) -> Array:
    """Unit variances and one correlation between any two coordinates."""
    total = x_width + y_width
    return np.asarray((1.0 - correlation) * np.eye(total) + correlation)


def sparse_covariance(x_width: int, y_width: int, pairs: int, strength: float) -> Array:
    """Independent but for ``pairs`` pairs (x_i, y_i) that share ``strength``·z, z ~ N(0, 1).

    Added to unit noise on both sides that makes the correlation ``s²/(1 + s²)``.
    """
    covariance = np.eye(x_width + y_width)
    shared = strength**2 / (1.0 + strength**2)
    for i in range(pairs):
        covariance[i, x_width + i] = covariance[x_width + i, i] = shared
    return covariance


def normal_information(covariance: Array, x_width: int) -> float:
    """``½ log(|Σ_x| |Σ_y| / |Σ|)``, the mutual information of N(0, Σ) in nats."""
    x, y = covariance[:x_width, :x_width], covariance[x_width:, x_width:]
    first, second, joint = (float(np.linalg.slogdet(part)[1]) for part in (x, y, covariance))
    return 0.5 * (first + second - joint)


def additive_information(noise: float) -> float:
    """X uniform on [0, 1], Y = X + N with N uniform on [-ε, ε]: ``h(Y) - log 2ε`` in nats.

    ε - log 2ε for ε ≤ ½, and 1/(4ε) above.
    """
    return noise - math.log(2.0 * noise) if noise <= 0.5 else 0.25 / noise


def draw_normal(covariance: Array, x_width: int, samples: int, rng: np.random.Generator) -> Pair:
    """Pairs from N(0, Σ): ``(n, d_x)`` and ``(n, d_y)``."""
    z = rng.standard_normal((samples, len(covariance))) @ np.linalg.cholesky(covariance).T
    return z[:, :x_width], z[:, x_width:]


def draw_student(
    covariance: Array, x_width: int, dof: float, samples: int, rng: np.random.Generator
) -> Pair:
    """Pairs from the Student t with ν degrees of freedom: normal ones over √(χ²_ν/ν)."""
    x, y = draw_normal(covariance, x_width, samples, rng)
    scale = np.sqrt(rng.chisquare(dof, samples) / dof)[:, None]
    return x / scale, y / scale


def draw_additive(noise: float, samples: int, rng: np.random.Generator) -> Pair:
    """Pairs of :func:`additive_information`, ``(n, 1)`` each."""
    x = rng.uniform(0.0, 1.0, (samples, 1))
    return x, x + rng.uniform(-noise, noise, (samples, 1))
