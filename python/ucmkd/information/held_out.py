"""Estimates from samples that a trained model has not seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ucmkd.information.intervals import Rows
from ucmkd.information.variables import Array


@dataclass(frozen=True)
class HeldOut:
    """An estimate by models that stay as they are while the samples are chosen anew.

    Attributes:
        evaluate: From row numbers in ``0 … samples - 1`` to the estimate.
        samples: Number of rows to choose among.
        warnings: What training showed, such as saturation.
    """

    evaluate: Callable[[Rows], float]
    samples: int
    warnings: tuple[str, ...] = field(default=())


def from_terms(terms: Array) -> HeldOut:
    """An estimate that is the mean of one term per sample, ``(n,)``."""
    return HeldOut(lambda rows: float(terms[rows].mean()), len(terms))


def halves(samples: int, seed: int) -> tuple[Rows, Rows]:
    """All rows in two random halves: each is held out once."""
    # A stream of its own: the subsets of an interval start from the plain seed.
    order = np.random.default_rng([seed, 1]).permutation(samples)
    return np.sort(order[: samples // 2]), np.sort(order[samples // 2 :])


def over_halves(
    parts: tuple[Rows, Rows], estimates: list[Callable[[Rows], float]], samples: int
) -> Callable[[Rows], float]:
    """The mean over both halves of an estimate on those rows of a half that were chosen.

    Args:
        parts: The rows of each half.
        estimates: For each half, from positions within it to an estimate.
        samples: n.
    """

    def evaluate(rows: Rows) -> float:
        chosen = np.zeros(samples, dtype=bool)
        chosen[rows] = True
        found = [
            estimate(np.flatnonzero(chosen[part]))
            for part, estimate in zip(parts, estimates, strict=True)
        ]
        return float(np.mean(found))

    return evaluate
