"""Fewer samples of the same, or of another, class distribution."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ucmkd.data.base import IntArray
from ucmkd.data.split import Seed, _generator, _label_array, _pool


def stratified_subset(
    labels: ArrayLike, count: int, rng: Seed, *, pool: ArrayLike | None = None
) -> IntArray:
    """Choose `count` samples, every class in proportion (largest remainders).

    As long as `count` allows it, every class of the pool keeps at least one sample.

    Args:
        labels: `(n,)` integers.
        count: Number of samples, at least 1; the whole pool if it is not larger.
        rng: Seed or generator.
        pool: Indices to choose from; None for all.

    Returns:
        Sorted indices into `labels`.

    Raises:
        ValueError: Bad labels or pool, or `count` below 1.
    """
    array = _label_array(labels)
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    candidates = _pool(pool, len(array))
    if len(candidates) <= count:
        return candidates
    _, code, sizes = np.unique(array[candidates], return_inverse=True, return_counts=True)
    return _take(candidates, code, _shares_of(count, sizes), _generator(rng))


def reweighted_subset(
    labels: ArrayLike, weights: ArrayLike, rng: Seed, *, pool: ArrayLike | None = None
) -> IntArray:
    """Thin the classes: class k of `n_k` samples keeps `round(n_k · w_k / max w)`, at least one.

    The maximum is over the classes of the pool, so that one of them keeps all it has.

    Args:
        labels: `(n,)` integers in `0 … C - 1`.
        weights: `(C,)` positive.
        rng: Seed or generator.
        pool: Indices to choose from; None for all.

    Returns:
        Sorted indices into `labels`.

    Raises:
        ValueError: Bad labels or pool, or weights that are not positive or too few.
    """
    array, weight = _label_array(labels), np.asarray(weights, dtype=np.float64)
    if weight.ndim != 1 or not (np.isfinite(weight) & (weight > 0)).all():
        raise ValueError(f"weights must be positive, one per class, got {weights!r}")
    if len(weight) <= array.max():
        raise ValueError(f"weights must be {array.max() + 1}, one per class, got {len(weight)}")
    candidates = _pool(pool, len(array))
    present, code, sizes = np.unique(array[candidates], return_inverse=True, return_counts=True)
    kept = sizes * weight[present] / weight[present].max()
    counts = np.maximum(1, np.floor(kept + 0.5)).astype(np.int64)
    return _take(candidates, code, counts, _generator(rng))


def _shares_of(count: int, sizes: NDArray[np.int64]) -> IntArray:
    """`count` places among classes of these sizes, in proportion; one for each if there are."""
    exact = count * sizes / sizes.sum()
    places = np.floor(exact).astype(np.int64)
    remainder = np.argsort(-(exact - places), kind="stable")
    places[remainder[: count - places.sum()]] += 1
    while count >= len(sizes) and not places.all():
        places[places.argmax()] -= 1
        places[places.argmin()] += 1
    return places


def _take(
    candidates: IntArray, code: NDArray[np.int64], counts: IntArray, generator: np.random.Generator
) -> IntArray:
    chosen = [
        generator.permutation(candidates[code == label])[:count]
        for label, count in enumerate(counts.tolist())
    ]
    return np.sort(np.concatenate(chosen))
