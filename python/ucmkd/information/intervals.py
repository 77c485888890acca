"""Confidence intervals by subsampling without replacement."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Rows = NDArray[np.intp]


class Spread(NamedTuple):
    """What subsamples say about an estimate.

    Attributes:
        low: Lower end of the interval, not limited to 0.
        high: Upper end.
        error: Standard error of the estimate from all n samples.
        drift: Its bias, judged by the mean of the subsamples' estimates: what still has to be
            added to the value if the bias falls at the assumed rate.
    """

    low: float
    high: float
    error: float
    drift: float


def subsample_interval(
    estimate: Callable[[Rows], float],
    value: float,
    samples: int,
    *,
    subsamples: int,
    confidence: float,
    seed: int,
    rate: float = 0.5,
    progress: Callable[[int, int], None] | None = None,
) -> Spread:
    r"""Interval of ``value`` from estimates on subsets of half of the samples.

    Over subsets of m of n samples drawn without replacement the estimates have standard
    deviation s. The standard error of the full estimate is then
    :math:`s \sqrt{m/(n-m)}`, which for m ≪ n is the usual :math:`s \sqrt{m/n}`; the overlap of
    subsets with each other is what the difference allows for. A bootstrap would repeat rows,
    which nearest neighbours take for dependence.

    The subsets also show the bias: where their mean differs from the full value by b, an error
    proportional to :math:`n^{-\gamma}` would still be :math:`b / ((n/m)^\gamma - 1)`. The
    interval is lengthened by that on the side where the truth then lies, and only there.

    Where an estimate is infinite (y a function of x without noise) there is no standard deviation:
    the interval is the range of the estimates, and the error infinite; of a difference of two such
    estimates nothing is known.

    Args:
        estimate: From rows ``(m,)`` to an estimate.
        value: The estimate of all samples.
        samples: n, at least 4.
        subsamples: How many subsets, at least 2.
        confidence: In (0, 1).
        seed: Of the subsets.
        rate: γ above; see :func:`neighbour_rate`.
        progress: Called with (done, of) after every subset.

    Source: Politis, Romano and Wolf 1999, "Subsampling", section 2; the factor for m near n from
    Wu 1990 (Annals of Statistics 18), delete-d jackknife.
    """
    draw = np.random.default_rng(seed)
    size = samples // 2
    found = []
    for done in range(subsamples):
        found.append(estimate(np.sort(draw.permutation(samples)[:size])))
        if progress is not None:
            progress(done + 1, subsamples)
    if not np.isfinite([value, *found]).all():
        known = [value, *found]
        low, high = (-math.inf, math.inf) if np.isnan(known).any() else (min(known), max(known))
        return Spread(low, high, math.inf, 0.0)
    error = float(np.std(found, ddof=1)) * math.sqrt(size / (samples - size))
    fall = (samples / size) ** rate - 1.0
    # The mean over subsets is itself uncertain; only what stands out of its noise counts.
    noise = float(np.std(found, ddof=1)) / math.sqrt(subsamples)
    change = value - float(np.mean(found))
    drift = math.copysign(max(0.0, abs(change) - noise), change) / fall
    reach = float(stdtrit(subsamples - 1, 0.5 * (1.0 + confidence))) * error
    return Spread(value - reach + min(0.0, drift), value + reach + max(0.0, drift), error, drift)


def neighbour_rate(width: int) -> float:
    """γ of nearest-neighbour estimators in ``width`` dimensions: ``1/d``, at most ½, at least 0.1.

    Source: the error ``n^{-1/2} + n^{-1/d}`` up to logarithms of Kozachenko and Leonenko's and
    KSG's estimators, Gao, Oh and Viswanath 2018 (IEEE Transactions on Information Theory 64).
    """
    return min(0.5, max(0.1, 1.0 / width))


def widened(spread: Spread, value: float, doubt: float) -> Spread:
    """An interval that allows for a model that was chosen, not known.

    It grows by half of what nearest neighbours would add to the model's value, on that side, and
    at least contains what they put in its place.
    """
    low = min(spread.low + min(0.0, 0.5 * doubt), value + min(0.0, doubt))
    high = max(spread.high + max(0.0, 0.5 * doubt), value + max(0.0, doubt))
    return spread._replace(low=low, high=high) if math.isfinite(spread.low) else spread
