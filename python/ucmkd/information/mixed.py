"""Nearest-neighbour estimators where one side is discrete, or either is partly so."""

from __future__ import annotations

import numpy as np
from scipy.special import digamma

from ucmkd.information.neighbours import count_within, kth_distance
from ucmkd.information.variables import Array, Codes


def every_class_once(codes: Codes) -> bool:
    """Whether no class has two samples: :func:`ross` then has no neighbours to look at."""
    return len(np.unique(codes)) == len(codes)


def ross(x: Array, codes: Codes, *, k: int = 3) -> float:
    r"""``ψ(n) + <ψ(k_i)> - <ψ(N_y)> - <ψ(m_i)>`` in nats, x continuous and y discrete.

    The distance of point i to its k-th neighbour of the same class reaches m_i points of any
    class, itself counted. In a class of N_y ≤ k points ``k_i = N_y - 1``; points alone in their
    class are left out.

    Args:
        x: ``(n, d)``.
        codes: ``(n,)`` classes.
        k: Neighbours.

    Returns:
        The estimate, possibly negative.

    Raises:
        ValueError: Every class has a single point.

    Source: Ross 2014 (PLoS ONE 9(2), e87357), equation 2.
    """
    _, place, size = np.unique(codes, return_inverse=True, return_counts=True)
    keep = size[place] > 1
    if not keep.any():
        raise ValueError("y must have a class with at least 2 samples, got every class once")
    x, place = x[keep], place[keep]
    reach, used = np.zeros(len(x)), np.zeros(len(x))
    for label in np.unique(place):
        rows = np.flatnonzero(place == label)
        used[rows] = min(k, len(rows) - 1)
        reach[rows] = kth_distance(x[rows], int(used[rows[0]]))[0]
    # Strictly inside and the point itself: as many as within the border without the point.
    reached = count_within(x, reach, strict=True) + 1
    terms = digamma(used) - digamma(size[place]) - digamma(reached)
    return float(digamma(len(x)) + terms.mean())


def gao(x: Array, y: Array, *, k: int = 3) -> float:
    r"""Mutual information where the distribution has both atoms and density, in nats.

    .. math:: \psi(n) + \frac1n \sum_i \psi(\tilde k_i) - \psi(m_{x,i}) - \psi(m_{y,i})

    with ε(i) the distance to the k-th neighbour in the joint maximum norm, m_x and m_y the points
    strictly within it, i itself counted, and k̃ = k. An atom on the border of a side is counted
    with it, and k̃ is then all that lies within the border; where ε(i) = 0, k̃ counts the points
    equal to i, itself among them. A discrete side enters as columns whose classes are equally far
    apart. The paper's algorithm has logarithms and always counts the border, which falls short by
    about a third of a nat at k = 3 where there are no atoms; this is the form that agrees with
    KSG and Ross.

    Args:
        x: ``(n, d_x)``.
        y: ``(n, d_y)``.
        k: Neighbours.

    Source: Gao, Kannan, Oh and Viswanath 2017 (arXiv 1709.06212), algorithm 1.
    """
    joint = np.concatenate([x, y], axis=1)
    reach, _ = kth_distance(joint, k)
    tied = reach == 0.0
    atom = tied.copy()
    terms = np.zeros(len(x))
    for side in (x, y):
        inside = count_within(side, reach, strict=True)
        border = count_within(side, reach, strict=False)
        # Without atoms at most one point lies on the border.
        shared = (border - inside > 1) | atom
        tied |= shared
        terms -= digamma(np.where(shared, border, inside) + 1)
    used = np.full(len(x), k, dtype=np.int64)
    if tied.any():
        used[tied] = (count_within(joint, reach, strict=False) + atom)[tied]
    return float(digamma(len(x)) + (digamma(used) + terms).mean())
