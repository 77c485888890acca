"""The estimators of Kraskov, Stögbauer and Grassberger for two continuous variables."""

from __future__ import annotations

import numpy as np
from scipy.special import digamma

from ucmkd.information.neighbours import count_within, kth_distance
from ucmkd.information.variables import Array


def ksg1(x: Array, y: Array, *, k: int = 3) -> float:
    r"""``ψ(k) + ψ(n) - <ψ(n_x + 1) + ψ(n_y + 1)>`` in nats.

    ε(i) is the distance to the k-th neighbour in the joint space, ``max(‖x-x'‖, ‖y-y'‖)`` with
    maximum norms; n_x(i) and n_y(i) count the points strictly nearer than ε(i) in each margin.

    Args:
        x: ``(n, d_x)``, n > k, without ties.
        y: ``(n, d_y)``.
        k: Neighbours: more give less variance and more bias.

    Returns:
        The estimate, possibly negative.

    Source: Kraskov, Stögbauer and Grassberger 2004 (Physical Review E 69, 066138), equation 8.
    """
    reach, _ = kth_distance(np.concatenate([x, y], axis=1), k)
    inside_x = count_within(x, reach, strict=True)
    inside_y = count_within(y, reach, strict=True)
    return float(
        digamma(k) + digamma(len(x)) - (digamma(inside_x + 1) + digamma(inside_y + 1)).mean()
    )


def ksg2(x: Array, y: Array, *, k: int = 3) -> float:
    r"""``ψ(k) - 1/k + ψ(n) - <ψ(n_x) + ψ(n_y)>`` in nats.

    As :func:`ksg1`, with the smallest rectangle around the k neighbours in place of the square:
    n_x(i) counts the points within ε_x(i), the largest x-distance among them, border included.

    Source: Kraskov, Stögbauer and Grassberger 2004 (Physical Review E 69, 066138), equation 9.
    """
    _, near = kth_distance(np.concatenate([x, y], axis=1), k)
    counts = []
    for side in (x, y):
        reach = np.zeros(len(x))
        for j in range(k):
            reach = np.maximum(reach, np.abs(side - side[near[:, j]]).max(axis=1))
        # Rounding must not lose the neighbour that defines the border.
        counts.append(count_within(side, reach * (1.0 + 1e-12), strict=False))
    return float(
        digamma(k) - 1.0 / k + digamma(len(x)) - (digamma(counts[0]) + digamma(counts[1])).mean()
    )


def ksg_limit(samples: int, k: int) -> float:
    """The largest value KSG can report: ``ψ(n) - ψ(k)``, with k - 1 points inside every ε."""
    return float(digamma(samples) - digamma(k))
