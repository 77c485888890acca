"""Tasks with a discrete or a partly discrete side, their truths by sums and quadrature."""

from __future__ import annotations

import math

import numpy as np

from ucmkd.information.tasks_families import Pair
from ucmkd.information.variables import Array, Codes


def mixture_information(means: Array, share: Array) -> float:
    """X | Y = c ~ N(m_c, 1) on a line, P(Y = c) = π_c: ``h(X) - ½ log 2πe`` by quadrature."""
    grid = np.linspace(means.min() - 12.0, means.max() + 12.0, 200_001)
    density = np.zeros_like(grid)
    for mean, weight in zip(means, share, strict=True):
        density += weight * np.exp(-0.5 * np.square(grid - mean)) / math.sqrt(2.0 * math.pi)
    term = np.where(density > 0.0, -density * np.log(np.maximum(density, 1e-300)), 0.0)
    entropy = float(term.sum() * (grid[1] - grid[0]))
    return entropy - 0.5 * math.log(2.0 * math.pi * math.e)


def draw_mixture(
    means: Array, share: Array, width: int, samples: int, rng: np.random.Generator
) -> tuple[Array, Codes]:
    """Samples of :func:`mixture_information`, turned into ``width`` - 1 more dimensions of noise.

    Returns:
        ``(n, width)`` floats and ``(n,)`` integer classes.
    """
    label = rng.choice(len(share), size=samples, p=share)
    x = rng.standard_normal((samples, width))
    x[:, 0] += means[label]
    turn, _ = np.linalg.qr(np.random.default_rng(width).standard_normal((width, width)))
    return x @ turn, label


def channel_information(classes: int, error: float) -> float:
    """Uniform classes, kept with probability 1 - e, else redrawn among the others."""
    stay, move = 1.0 - error, error / (classes - 1)
    return math.log(classes) + stay * math.log(stay) + (classes - 1) * move * math.log(move)


def draw_channel(
    classes: int, error: float, samples: int, rng: np.random.Generator
) -> tuple[Codes, Codes]:
    """Two integer sides of :func:`channel_information`, ``(n,)`` each."""
    x = rng.integers(classes, size=samples)
    moved = (x + rng.integers(1, classes, size=samples)) % classes
    return x, np.where(rng.uniform(size=samples) < error, moved, x)


def erased_information(keep: float, correlation: float) -> float:
    r"""Y is N(0, 1) correlated with X with probability p, and exactly 0 otherwise.

    What Y says about X then comes from the kept samples alone: ``-p/2 log(1 - ρ²)``.
    """
    return -0.5 * keep * math.log(1.0 - correlation**2)


def draw_erased(keep: float, correlation: float, samples: int, rng: np.random.Generator) -> Pair:
    """Samples of :func:`erased_information`, ``(n, 1)`` each, y with an atom at 0."""
    x = rng.standard_normal((samples, 1))
    noise = rng.standard_normal((samples, 1))
    y = correlation * x + math.sqrt(1.0 - correlation**2) * noise
    return x, np.where(rng.uniform(size=(samples, 1)) < keep, y, 0.0)
