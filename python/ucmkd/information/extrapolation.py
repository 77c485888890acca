"""KSG without its bias on a plane: its values for several k, carried on to no neighbours at all."""

from __future__ import annotations

import numpy as np
from scipy.special import digamma

from ucmkd.information.neighbours import count_within, kth_distances
from ucmkd.information.variables import Array

#: The largest number of neighbours, in units of the smallest.
SPAN = 8


def ksg_line(x: Array, y: Array, *, k: int = 3) -> float:
    r"""KSG-1 at k, 2k, … 8k neighbours, a straight line in :math:`k^{1/d}`, its value at 0.

    KSG takes the density for constant within ε of each point. Where the density ends at an edge,
    as it does for bounded noise, the error is proportional to ε, and
    :math:`\varepsilon \propto (k/n)^{1/d}` in :math:`d = d_x + d_y` dimensions; so the values
    fall on a line whose end at k = 0 has none of it. Where the density is smooth the line is
    flat, and only variance is added: little on the plane (d = 2), more with every dimension.

    Args:
        x: ``(n, d_x)``, n > k, without ties. Below ``2k + 1`` samples there is no line, and the
            value is that of KSG.
        y: ``(n, d_y)``.
        k: The smallest number of neighbours.

    Returns:
        The estimate, possibly negative.

    Source: the estimator is equation 8 of Kraskov, Stögbauer and Grassberger 2004 (Physical
    Review E 69, 066138), the extrapolation Richardson's.
    """
    n, width = len(x), x.shape[1] + y.shape[1]
    neighbours = k * np.arange(1, 1 + max(1, min(SPAN, (n - 1) // k)))
    reaches = kth_distances(np.concatenate([x, y], axis=1), neighbours)
    values = []
    for count, reach in zip(neighbours, reaches.T, strict=True):
        inside = [count_within(side, reach, strict=True) for side in (x, y)]
        mean = (digamma(inside[0] + 1) + digamma(inside[1] + 1)).mean()
        values.append(float(digamma(count) + digamma(n) - mean))
    if len(values) < 2:
        return values[0]
    return float(np.polyfit(neighbours ** (1.0 / width), values, 1)[1])
