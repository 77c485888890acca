"""Mutual information of two discrete variables from their table of counts."""

from __future__ import annotations

import numpy as np

from ucmkd.information.variables import Codes


def discrete(x: Codes, y: Codes, *, correction: bool = True) -> float:
    r"""Plug-in with the correction of Miller and Madow, in nats.

    .. math::
        \hat I = \sum_{ab} \hat p_{ab} \log\frac{\hat p_{ab}}{\hat p_a \hat p_b}
                 + \frac{K_x + K_y - K_{xy} - 1}{2n},

    K the numbers of values seen in x, in y and in pairs.

    Args:
        x: ``(n,)`` classes.
        y: ``(n,)`` classes.
        correction: False gives the plug-in.

    Returns:
        The estimate; with the correction possibly negative.

    Source: Miller 1955, "Note on the bias of information estimates", applied to each of the
    three entropies of I = H(X) + H(Y) - H(X, Y).
    """
    a, b = (np.unique(side, return_inverse=True)[1].reshape(-1) for side in (x, y))
    rows, columns = int(a.max()) + 1, int(b.max()) + 1
    _, pairs = np.unique(a * columns + b, return_counts=True)
    value = _entropy(np.bincount(a)) + _entropy(np.bincount(b)) - _entropy(pairs)
    if correction:
        value += (rows + columns - len(pairs) - 1) / (2.0 * len(x))
    return value


def _entropy(counts: Codes) -> float:
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum())
