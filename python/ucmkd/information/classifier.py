"""What a linear classifier can read of a label: a lower bound of I(X; Y)."""

from __future__ import annotations

import numpy as np

from ucmkd.information.reduction import fit_pca
from ucmkd.information.variables import Array, Codes, entropy

#: Inverse strengths of the L2 penalty that are tried, strongest first.
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


def classifier_gains(x: Array, codes: Codes, *, folds: int = 5, seed: int = 0) -> Array:
    r"""``log q(y_i | x_i) + H(Y)`` for every sample from a model that has not seen it, ``(n,)``.

    Their mean is ``H(Y) - CE``, the cross-entropy CE held out: a lower bound of I(X; Y) in
    expectation, since ``CE ≥ H(Y|X)``. q is multinomial logistic regression on standardised
    features with an L2 penalty chosen on a quarter of the training rows of each fold.

    Args:
        x: ``(n, d)``.
        codes: ``(n,)`` classes, each at least ``folds`` times.
        folds: Of the stratified cross-validation, at least 2.
        seed: Of the folds.

    Raises:
        ValueError: A class with fewer samples than ``folds``.

    Source: the variational bound of Barber and Agakov 2003, "The IM algorithm", equation 3.
    """
    from sklearn.model_selection import StratifiedKFold

    classes, place, size = np.unique(codes, return_inverse=True, return_counts=True)
    if int(size.min()) < folds:
        raise ValueError(
            f"y must hold every class at least folds={folds} times, got {int(size.min())} of "
            f"class {classes[size.argmin()]}"
        )
    gain = np.empty(len(x))
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for train, test in splitter.split(x, place):
        gain[test] = _held_out(x[train], place[train], x[test], place[test], seed)
    return gain + entropy(place)


def _held_out(x: Array, y: Codes, x_test: Array, y_test: Codes, seed: int) -> Array:
    """log q of the test labels."""
    from sklearn.model_selection import train_test_split

    if x.shape[1] > len(x):
        # More features than rows: the row space holds all that a penalised linear model can use.
        rotate = fit_pca(x, len(x))
        x, x_test = ((part - rotate.mean) @ rotate.directions for part in (x, x_test))
    mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-12)
    x, x_test = (x - mean) / scale, (x_test - mean) / scale
    # Both parts must have room for every class.
    held = -(-len(x) // 4)
    enough = np.bincount(y).min() >= 2 and min(held, len(x) - held) >= len(np.unique(y))
    parts = train_test_split(
        x, y, test_size=0.25, random_state=seed, stratify=y if enough else None
    )
    inner = [float(_log_q(parts[0], parts[2], parts[1], parts[3], c).mean()) for c in STRENGTHS]
    return _log_q(x, y, x_test, y_test, STRENGTHS[int(np.argmax(inner))])


def _log_q(x: Array, y: Codes, x_test: Array, y_test: Codes, strength: float) -> Array:
    from sklearn.linear_model import LogisticRegression

    if (y == y[0]).all():  # a rare class may be missing from the rows of an inner fit
        return np.where(y_test == y[0], 0.0, -np.log(len(x)))
    model = LogisticRegression(C=strength, max_iter=300, tol=1e-3).fit(x, y)
    seen = np.searchsorted(model.classes_, y_test)
    known = np.isin(y_test, model.classes_)
    log_q = np.full(len(y_test), -np.log(len(x)))  # a class that the training rows lack
    table = np.asarray(model.predict_log_proba(x_test))
    log_q[known] = table[known, seen[known]]
    return log_q
