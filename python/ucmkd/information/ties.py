"""Equal values, which neighbour distances do not expect."""

from __future__ import annotations

import numpy as np

from ucmkd.information.variables import Array, Variable

#: Share of the samples that one value must hold to be taken for an atom.
ATOM = 0.05
#: Size of the noise that breaks ties, in standard deviations.
JITTER = 1e-8


def tied_share(values: Array) -> float:
    """Largest share over the columns of entries whose value another sample has too."""
    share = 0.0
    for column in values.T:
        counts = np.unique(column, return_counts=True)[1]
        share = max(share, float(counts[counts > 1].sum()) / len(values))
    return share


def has_atom(values: Array) -> bool:
    """Whether some column holds one value in at least ``ATOM`` of the samples."""
    largest = [int(np.unique(column, return_counts=True)[1].max()) for column in values.T]
    return max(largest) >= max(3.0, ATOM * len(values))


def repeated_rows(x: Array, y: Array) -> float:
    """Share of the samples whose whole pair (x, y) occurs more than once."""
    rows = np.concatenate([x, y], axis=1)
    counts = np.unique(rows, axis=0, return_counts=True)[1]
    return float(counts[counts > 1].sum()) / len(rows)


def jitter(side: Variable, seed: int) -> Variable:
    """Break ties by noise far below any distance that matters.

    Source: the advice of Kraskov, Stögbauer and Grassberger 2004, section II.
    """
    if side.discrete:
        return side
    noise = np.random.default_rng(seed).standard_normal(side.values.shape)
    return Variable(side.values + JITTER * side.values.std(axis=0) * noise, False)
