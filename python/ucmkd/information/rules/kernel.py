"""Kernel ridge regression with exact leave-one-out predictions: the probe behind the rules."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ucmkd.information.rules.evidence import Array, Codes

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Candidates of ρ, in units of the mean of ``w_i k(x_i, x_i)``."""


def one_hot(labels: Codes, classes: int) -> Array:
    """``(n, C)`` indicators, centred so that zero is no opinion: ``[y = c] - 1/C``."""
    return np.asarray(labels[:, None] == np.arange(classes), dtype=np.float64) - 1.0 / classes


@dataclass(frozen=True)
class Scale:
    """Standardisation and bandwidth, fitted on one set of rows.

    Attributes:
        mean: ``(d,)``.
        deviation: ``(d,)``, 1 for constant columns.
        bandwidth: Median squared distance of the standardised rows.
    """

    mean: Array
    deviation: Array
    bandwidth: float

    @classmethod
    def fit(cls, rows: Array) -> Scale:
        """From rows ``(n, d)``."""
        mean, deviation = rows.mean(axis=0), rows.std(axis=0)
        constant = deviation <= 1e-7 * np.abs(rows).max(axis=0, initial=0.0)
        scale = cls(mean, np.where(constant, 1.0, deviation), 1.0)
        z = scale.standard(rows[:: max(1, len(rows) // 500)])
        distance = _squared(z, z)[np.triu_indices(len(z), 1)]
        median = float(np.median(distance)) if len(distance) else 1.0
        return cls(mean, scale.deviation, max(median, 1e-12))

    def standard(self, rows: Array) -> Array:
        return np.asarray((rows - self.mean) / self.deviation)

    def kernel(self, x: Array, y: Array) -> Array:
        """Gaussian kernel ``exp(-|x-y|² / median)`` plus one for the constant, ``(n, m)``."""
        distance = _squared(self.standard(x), self.standard(y))
        return np.asarray(np.exp(-distance / self.bandwidth) + 1.0)


def _squared(x: Array, y: Array) -> Array:
    square = (x * x).sum(axis=1)[:, None] + (y * y).sum(axis=1)[None, :] - 2.0 * x @ y.T
    return np.asarray(np.maximum(square, 0.0))


class Ridge:
    r"""Weighted kernel ridge regression for many targets at once.

    ``f = K (K + ρ W⁻¹)⁻¹ T =: H T`` minimises ``Σ w_i |t_i - f(x_i)|² + ρ |f|²``. Without row i
    it would predict, exactly, ``(f_i - H_ii t_i) / (1 - H_ii)`` there. H does not depend on the
    targets, so all teachers share it.

    Args:
        kernel: ``(n, n)``.
        weight: ``(n,)`` positive.
    """

    def __init__(self, kernel: Array, weight: Array) -> None:
        root = np.sqrt(weight)
        # K (K + ρ W⁻¹)⁻¹ = W^-½ S (S + ρ)⁻¹ W^½ with S = W^½ K W^½: one decomposition for all ρ.
        value, vector = np.linalg.eigh(root[:, None] * kernel * root[None, :])
        self._value = np.maximum(value, 0.0)
        self._left, self._right = vector / root[:, None], vector * root[:, None]
        self._unit = float((np.diagonal(kernel) * weight).mean())

    def left_out(self, targets: Array, penalty: float, rows: Codes) -> Array:
        """Predictions ``(len(rows), C)`` for ``rows``, each as if it had not been there."""
        shrink = self._value / (self._value + penalty * self._unit)
        left = self._left[rows] * shrink
        own = (left * self._right[rows]).sum(axis=1)[:, None]
        found = left @ (self._right.T @ targets) - own * targets[rows]
        return np.asarray(found / np.maximum(1.0 - own, 1e-9))

    def coefficients(self, targets: Array, penalty: float) -> Array:
        """α ``(n, C)`` with ``f(x) = k(x)ᵀ α``."""
        inner = (self._right.T @ targets) / (self._value + penalty * self._unit)[:, None]
        return np.asarray(self._right @ inner)


def best_left_out(
    ridge: Ridge, targets: Array, rows: Codes, truth: Array, weight: Array | None = None
) -> tuple[float, Array]:
    """The penalty with the smallest squared leave-one-out error on ``rows``, and its predictions.

    Args:
        ridge: Of all rows.
        targets: ``(n, C)``.
        rows: Those that count.
        truth: ``(len(rows), C)``.
        weight: ``(len(rows),)`` of their errors; None: equal.
    """
    column = 1.0 if weight is None else weight[:, None]
    found = [(p, ridge.left_out(targets, p, rows)) for p in PENALTIES]
    return min(found, key=lambda pair: float((column * np.square(pair[1] - truth)).sum()))


MOST = 2000
"""Samples that a probe is fitted on at most: its cost grows with the cube."""


def probe(train: Array, labels: Codes, classes: int, rows: Array) -> tuple[Array, Array, Codes]:
    """A classifier fitted on labelled samples, with what it would say of each without it.

    Args:
        train: ``(m, d)``; at most :data:`MOST` of them, evenly spaced, are used.
        labels: ``(m,)`` in ``0 … C-1``.
        classes: C.
        rows: ``(n, d)`` to predict.

    Returns:
        Probabilities ``(n, C)`` of ``rows``, leave-one-out probabilities ``(m', C)`` of the
        samples that were used, and which these are ``(m',)``. Probabilities are the ridge's
        scores brought onto the simplex.
    """
    fitted = _fit(train, labels, classes)
    scores = fitted.scale.kernel(rows, fitted.train) @ fitted.coefficients
    outputs = on_simplex(scores + 1.0 / classes)
    return outputs, on_simplex(fitted.left_out + 1.0 / classes), fitted.used


class _Fitted(NamedTuple):
    scale: Scale
    train: Array
    coefficients: Array
    left_out: Array
    used: Codes


_FITTED: OrderedDict[bytes, _Fitted] = OrderedDict()
_KEPT = 16


def _fit(train: Array, labels: Codes, classes: int) -> _Fitted:
    """The probe of some samples; the last few are kept, since every rule asks for the same."""
    digest = hashlib.sha256(np.ascontiguousarray(train).tobytes())
    digest.update(np.ascontiguousarray(labels).tobytes() + bytes(str(train.shape), "ascii"))
    digest.update(bytes(str(classes), "ascii"))
    key = digest.digest()
    if key not in _FITTED:
        used = np.arange(0, len(train), -(-len(train) // MOST))
        x = train[used]
        scale, targets = Scale.fit(x), one_hot(labels[used], classes)
        ridge = Ridge(scale.kernel(x, x), np.ones(len(x)))
        penalty, left_out = best_left_out(ridge, targets, np.arange(len(x)), targets)
        _FITTED[key] = _Fitted(scale, x, ridge.coefficients(targets, penalty), left_out, used)
        while len(_FITTED) > _KEPT:
            _FITTED.popitem(last=False)
    return _FITTED[key]


def on_simplex(scores: Array) -> Array:
    """The nearest probabilities ``(n, C)`` to scores ``(n, C)``.

    Source: Duchi et al., "Efficient projections onto the l1-ball", 2008, figure 1.
    """
    ordered = np.sort(scores, axis=1)[:, ::-1]
    excess = (np.cumsum(ordered, axis=1) - 1.0) / np.arange(1, scores.shape[1] + 1)
    count = (ordered > excess).sum(axis=1)
    shift = excess[np.arange(len(scores)), count - 1]
    return np.asarray(np.maximum(scores - shift[:, None], 0.0))
