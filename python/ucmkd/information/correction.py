"""The bias of KSG, taken from samples of the closest copula."""

from __future__ import annotations

import math

import numpy as np

from ucmkd.information.copula import Copula
from ucmkd.information.intervals import Spread
from ucmkd.information.ksg import ksg1

#: Samples from the copula.
REPEATS = 4


def ksg_shift(reference: Copula, samples: int, *, k: int, seed: int) -> tuple[float, float]:
    r"""What KSG lacks on samples of the same size from a copula, and the noise of that.

    ``I(copula) - <KSG(copula samples)>``: a parametric bootstrap of the bias, to be added to KSG
    of the data. Exact where the copula is right, a first step towards the truth where it is only
    close.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 10.
    """
    draw = np.random.default_rng(seed)
    found = [ksg1(*reference.sample(samples, draw), k=k) for _ in range(REPEATS)]
    noise = float(np.std(found, ddof=1)) / math.sqrt(REPEATS)
    return reference.information - float(np.mean(found)), noise


def shifted(spread: Spread, shift: float, noise: float) -> Spread:
    """The interval of a corrected value.

    Half of the shift lengthens it on both sides, since the copula is only close; and what the
    drift between subsamples and all samples has beyond the shift, on its side.
    """
    low, high = spread.low - min(0.0, spread.drift), spread.high - max(0.0, spread.drift)
    slack = 0.5 * abs(shift) + 2.0 * noise
    rest = spread.drift - shift
    return Spread(
        low + shift - slack + min(0.0, rest),
        high + shift + slack + max(0.0, rest),
        spread.error,
        rest,
    )
