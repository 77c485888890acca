"""Equal values, which neighbour distances do not expect."""

from __future__ import annotations

import numpy as np

from ucmkd.information.variables import Array, Variable

#: Share of the samples that one value must hold to be taken for an atom.
ATOM = 0.05
#: Share of tied values from which on a reader is told.
MANY = 0.01
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


def jitter(side: Variable, seed: int | list[int]) -> Variable:
    """Break ties by noise far below any distance that matters.

    The noise of both sides must be independent. It then leaves mutual information as it is, of
    atoms too: within a mass of coincident points neighbours are drawn by chance, and their classes
    or partners come as often as there.

    Source: the advice of Kraskov, Stögbauer and Grassberger 2004, section II.
    """
    if side.discrete:
        return side
    noise = np.random.default_rng(seed).standard_normal(side.values.shape)
    return Variable(side.values + JITTER * side.values.std(axis=0) * noise, False)


def untied(values: Array, seed: int) -> Array:
    """The same columns, jittered where more than ``MANY`` of one column are tied."""
    if tied_share(values) <= MANY:
        return values
    return jitter(Variable(values, False), seed).values
