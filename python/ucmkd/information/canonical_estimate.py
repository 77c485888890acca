"""The information between nonlinear canonical functions: a lower bound that is nearly reached."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ucmkd.information.canonical import FOLDS, Functions, canonical_functions
from ucmkd.information.extrapolation import ksg_line
from ucmkd.information.goodness import closest_copula, misfit
from ucmkd.information.intervals import Rows, Spread
from ucmkd.information.ksg import ksg1
from ucmkd.information.variables import Array

#: Standard deviations at which a copula of the functions is rejected.
REJECT = 3.0
#: Standard errors of a correlation that a pair of functions must show on held-out samples.
CLEAR = 3.0
#: Fewer samples teach no functions.
LEAST = 200
Way = Callable[[Array, Array], float]


@dataclass(frozen=True)
class CanonicalEstimate:
    """An estimate from functions of both sides.

    Attributes:
        value: Between ``held_out`` and ``own``, in nats; see :func:`canonical`.
        held_out: Of functions learned from other samples: too low.
        own: Of functions learned from the samples that they are valued on: too high.
        count: Functions of either side that were used.
        way: How the information of their values is estimated.
        functions: The functions.
        reason: Kernel and way in words.
    """

    value: float
    held_out: float
    own: float
    count: int
    way: Way
    functions: Functions
    reason: str

    def evaluate(self, rows: Rows) -> float:
        """The information of the functions on some of their own samples, for the interval."""
        f, g = self.functions.own
        return self.way(f[rows, : self.count], g[rows, : self.count])

    def around(self, spread: Spread) -> Spread:
        """The interval of ``value``: that of ``own``, down to that of ``held_out``."""
        return spread._replace(low=spread.low - abs(self.own - self.held_out))


def canonical(x: Array, y: Array, *, k: int, seed: int) -> CanonicalEstimate:
    r"""I(X; Y) by the few functions of either side that depend on each other most.

    Functions can only lose information, :math:`I(f(X); g(Y)) \le I(X; Y)`, provided that they do
    not know the samples. So functions are learned (:func:`canonical_functions`) and valued on

    - all samples they come from, ``I_own``, which is too high by their optimism;
    - samples held out of learning. Each part is valued by itself, and
      ``I_out = I_own - <I(own functions) - I(held-out functions)>`` over the parts, so that what
      an estimator loses on a part, being small, is not taken for a loss of the functions.

    To first order in 1/n the optimism equals what learning from n samples loses, as training and
    prediction error of a regression lie equally far from its noise; functions that were learned
    from the share s = 1 - 1/folds of the samples lose 1/s as much. Hence

    .. math:: I = I_{out} + \tfrac{1}{1+s}\,(I_{own} - I_{out})\,\frac{I_{out}}{I_{own}},

    where the last factor, 1 to first order, keeps independent sides at zero. The number of
    functions is the one with the largest I_out. Their information is that of a copula where it
    fits (:func:`ucmkd.information.goodness.misfit`), and KSG otherwise.

    Args:
        x: ``(n, d_x)``.
        y: ``(n, d_y)``.
        k: Neighbours of KSG.
        seed: Of everything random.
    """
    functions = canonical_functions(x, y, seed=seed)
    best: CanonicalEstimate | None = None
    for count in range(1, functions.own[0].shape[1] + 1):
        if count > 1 and _correlation(functions, count) < CLEAR / math.sqrt(len(x)):
            break
        f, g = (side[:, :count] for side in functions.own)
        way, words = _way(f, g, k, seed)
        own = way(f, g)
        lost = [
            way(f[part], g[part]) - way(a[:, :count], b[:, :count])
            for part, (a, b) in zip(functions.parts, functions.held_out, strict=True)
        ]
        held_out = own - float(np.mean(lost))
        if best is None or held_out > best.held_out:
            plural = "s" if count > 1 else ""
            best = CanonicalEstimate(
                _between(held_out, own), held_out, own, count, way, functions,
                f"{count} {functions.kernel.kind} function{plural} of either side, {words}",
            )  # fmt: skip
    assert best is not None
    return best


def _correlation(functions: Functions, count: int) -> float:
    """Mean held-out correlation of the pair of functions number ``count``."""
    found = [np.corrcoef(f[:, count - 1], g[:, count - 1])[0, 1] for f, g in functions.held_out]
    return float(np.mean(found))


def _between(held_out: float, own: float) -> float:
    if held_out <= 0.0 or own <= held_out:
        return held_out
    share = 1.0 - 1.0 / FOLDS
    return held_out + (own - held_out) / (1.0 + share) * held_out / own


def _way(f: Array, g: Array, k: int, seed: int) -> tuple[Way, str]:
    """The closest copula where it fits, else nearest neighbours."""
    copula, fit = closest_copula(f, g)
    found = misfit(f, g, copula, fit, k=k, seed=seed)
    if abs(found.score) <= REJECT and found.moment_score <= REJECT:
        name = "Gaussian" if math.isinf(copula.dof) else "Student"
        return lambda a, b: fit(a, b).information, f"which have a {name} copula"
    if f.shape[1] == 1:
        return lambda a, b: ksg_line(a, b, k=k), "and nearest neighbours"
    # A copula that does not fit says nothing of their bias: functions of functions count twice.
    return lambda a, b: ksg1(a, b, k=k), "and nearest neighbours"
