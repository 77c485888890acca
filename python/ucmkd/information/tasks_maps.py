"""Invertible maps of one side, which leave mutual information as it is."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtr

from ucmkd.information.variables import Array


def cube(values: Array) -> Array:
    """y → y³."""
    return np.asarray(values**3)


def half_cube(values: Array) -> Array:
    """y → y √|y|: longer tails."""
    return np.asarray(values * np.sqrt(np.abs(values)))


def wiggly(values: Array) -> Array:
    """y → y + 0.4 sin y + 0.2 sin(1.7 y): increasing, its slope between 0.26 and 1.74."""
    return np.asarray(values + 0.4 * np.sin(values) + 0.2 * np.sin(1.7 * values))


def bimodal(values: Array) -> Array:
    """Standard normal to an even mixture of N(-2, ½²) and N(2, ½²), by the inverse of its cdf."""
    grid = np.linspace(-8.0, 8.0, 40_001)
    share = 0.5 * (ndtr((grid + 2.0) / 0.5) + ndtr((grid - 2.0) / 0.5))
    return np.interp(ndtr(values), share, grid)


def spiral(values: Array, *, speed: float, plane: tuple[int, int] = (0, 1)) -> Array:
    """Rotate the coordinates of ``plane`` by ``speed · ‖v‖²``, which the rotation keeps."""
    angle = speed * np.square(values).sum(axis=1)
    first, second = plane
    turned = values.copy()
    cos, sin = np.cos(angle), np.sin(angle)
    turned[:, first] = cos * values[:, first] - sin * values[:, second]
    turned[:, second] = sin * values[:, first] + cos * values[:, second]
    return turned


def swiss_roll(values: Array) -> Array:
    """A normal coordinate ``(n, 1)`` rolled up in the plane, ``(n, 2)``.

    ``t = 3π/2 · (1 + 2u)`` with u the value's cdf, to ``(t cos t, t sin t) / 21``.
    """
    t = 1.5 * math.pi * (1.0 + 2.0 * ndtr(values[:, 0]))
    return np.stack([t * np.cos(t), t * np.sin(t)], axis=1) / 21.0
