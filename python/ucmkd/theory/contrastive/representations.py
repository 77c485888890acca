r"""The signal-to-noise ratio of real representations, in the units of the two-token model.

There the class means are ±μ and the noise has covariance σ²I_d, so that SNR² = ‖μ‖²/(σ²d) is the
variance of the class means over the variance within classes, each summed over the coordinates. The
same ratio is estimated of any representation with labels; both sums without bias, the first because
the plain variance of n_c-sample means contains ``(1 - π_c) T_c/n_c`` of noise per class.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..gaussian import checks
from .model import Array

#: Parts that are left out one at a time for the interval.
PARTS = 20


class SignalToNoise(NamedTuple):
    """What one representation holds.

    Attributes:
        value: SNR; 0 where the means differ by no more than their noise.
        low: Lower end of an approximate interval.
        high: Upper end.
        noise_dimension: Effective dimension ``(tr Σ)²/tr Σ²`` of the noise; the theorems want it
            far above the number of samples.
    """

    value: float
    low: float
    high: float
    noise_dimension: float


class Prospects(NamedTuple):
    """What the rates of the two-token model say about learning with and without a modality.

    A rate is the growth of the signal over that of the noise early in training: above 1 the signal
    is learnt first and unseen data are told apart.

    Attributes:
        student: SNR of the student's modality.
        teacher: SNR of the other one.
        advantage: C_μ, the ratio of the two; inf where the student's is 0.
        single_rate: ``n·SNR²/2``.
        multi_rate: ``C_μ·n·SNR²/2``.
    """

    student: SignalToNoise
    teacher: SignalToNoise
    advantage: float
    single_rate: float
    multi_rate: float


def signal_to_noise(
    features: ArrayLike, labels: ArrayLike, *, confidence: float = 0.95, seed: int = 0
) -> SignalToNoise:
    """SNR of a representation about its classes.

    With class shares π_c, sizes n_c, means m_c and T_c the trace of the unbiased covariance,
    ``SNR² = [Σ π_c ‖m_c - m‖² - Σ π_c (1 - π_c) T_c/n_c] / Σ π_c T_c``. The interval is a jackknife
    of SNR² over 20 random parts of each class.

    Args:
        features: ``(n, d)``; scales of the columns matter as they do to a contrastive loss.
        labels: ``(n,)`` integers; two classes or more, each with two samples or more.
        confidence: Of the interval, in (0, 1).
        seed: Of the parts.

    Raises:
        TypeError: Labels that are no integers.
        ValueError: Shapes that do not fit, values that are not finite, classes that are too small,
            no variation within classes, ``confidence`` out of range.
    """
    x, y = _checked("features", features, labels)
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence!r}")
    between, within = _variances(x, y)
    if not within > 0:
        raise ValueError("features must vary within the classes, got equal samples in each class")
    squared = between / within
    reach = NormalDist().inv_cdf(0.5 * (1.0 + confidence))
    reach *= _jackknife(x, y, np.random.default_rng(seed))
    value, low, high = (math.sqrt(max(0.0, v)) for v in (squared, squared - reach, squared + reach))
    residual = x - _means(x, y)[np.unique(y, return_inverse=True)[1]]
    return SignalToNoise(value, low, high, _effective_dimension(residual))


def prospects(
    student: ArrayLike, teacher: ArrayLike, labels: ArrayLike, *, samples: int, seed: int = 0
) -> Prospects:
    """Whether a second modality would let the first learn its signal before its noise.

    Args:
        student: Representation that is to be learnt, ``(n, d)``.
        teacher: Of the same samples in the other modality, ``(n, d')``.
        labels: ``(n,)`` integers.
        samples: Number n of the contrastive training that is asked about.
        seed: Of the intervals.

    Raises:
        TypeError: As :func:`signal_to_noise`.
        ValueError: As there, or a training of fewer than two samples.
    """
    checks.count("samples", samples, 2)
    _checked("student", student, labels)
    _checked("teacher", teacher, labels)
    own = signal_to_noise(student, labels, seed=seed)
    other = signal_to_noise(teacher, labels, seed=seed)
    return Prospects(
        own,
        other,
        other.value / own.value if own.value > 0 else math.inf,
        0.5 * samples * own.value**2,
        0.5 * samples * own.value * other.value,
    )


def _checked(
    name: str, features: ArrayLike, labels: ArrayLike
) -> tuple[Array, NDArray[np.integer]]:
    x, y = np.asarray(features, dtype=np.float64), np.asarray(labels)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{name} must have shape (n, d), not empty, got {x.shape}")
    if not np.issubdtype(y.dtype, np.integer):
        raise TypeError(f"labels must be integers, got {y.dtype}")
    if y.shape != (len(x),):
        raise ValueError(f"labels must have shape ({len(x)},) like {name}, got {y.shape}")
    if not bool(np.isfinite(x).all()):
        raise ValueError(f"{name} must be finite, got NaN or infinite entries")
    classes, counts = np.unique(y, return_counts=True)
    if len(classes) < 2 or counts.min() < 2:
        sizes = dict(zip(classes.tolist(), counts.tolist(), strict=True))
        raise ValueError(f"labels must hold two classes or more of two samples each, got {sizes}")
    return x, y


def _means(x: Array, y: NDArray[np.integer]) -> Array:
    return np.stack([x[y == c].mean(axis=0) for c in np.unique(y)])


def _variances(x: Array, y: NDArray[np.integer]) -> tuple[float, float]:
    """Between and within classes, unbiased."""
    _, place, counts = np.unique(y, return_inverse=True, return_counts=True)
    share, means = counts / len(y), _means(x, y)
    squares = np.bincount(place, weights=((x - means[place]) ** 2).sum(axis=1))
    traces = squares / (counts - 1)
    plain = float(share @ ((means - share @ means) ** 2).sum(axis=1))
    return plain - float((share * (1 - share) / counts) @ traces), float(share @ traces)


def _jackknife(x: Array, y: NDArray[np.integer], rng: np.random.Generator) -> float:
    """Standard error of the ratio; parts hold equal shares of every class."""
    part = np.empty(len(y), dtype=np.int64)
    counts = np.unique(y, return_counts=True)[1]
    parts = min(PARTS, int(counts.min()) if counts.min() > 2 else 2)
    for c in np.unique(y):
        where = rng.permutation(np.flatnonzero(y == c))
        part[where] = np.arange(len(where)) % parts
    values = []
    for left_out in range(parts):
        kept = part != left_out
        if np.unique(y[kept], return_counts=True)[1].min() < 2:
            return math.inf
        between, within = _variances(x[kept], y[kept])
        if not within > 0:
            return math.inf
        values.append(between / within)
    return math.sqrt((parts - 1) * float(np.var(values)))


def _effective_dimension(residual: Array) -> float:
    """``(tr Σ)²/tr Σ²`` from the inner products of different samples."""
    n = len(residual)
    gram = residual @ residual.T
    squares = float((gram**2).sum() - (np.diag(gram) ** 2).sum()) / (n * (n - 1))
    return math.inf if squares <= 0 else (float(np.trace(gram)) / n) ** 2 / squares
