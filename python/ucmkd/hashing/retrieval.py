"""Mean average precision of a ranking; what is equally near is taken in random order."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ucmkd.hashing.codes import Packed, hamming

Array = NDArray[np.float64]


def expected_average_precision(count: NDArray[np.integer], hits: NDArray[np.integer]) -> Array:
    r"""Average precision ``(q,)`` over rankings by groups, each group in random order.

    Binary codes leave thousands of items at few distances, where the average precision of any one
    order is a matter of luck. A group of m items with r hits behind T items with R hits adds

    .. math:: \sum_{i=1}^{m} \frac{r}{m}\,\frac{R + 1 + (i-1)\frac{r-1}{m-1}}{T+i}
        = \frac{r}{m}\Big[(R+1)\,D + \frac{r-1}{m-1}\,(m - (T+1)\,D)\Big],
        \qquad D = \sum_{i=1}^{m}\frac1{T+i}.

    Args:
        count: m ``(q, groups)``, nearest first.
        hits: r ``(q, groups)``.

    Returns:
        The sums over the number of hits of a query; NaN for one without any.

    Source: McSherry and Najork, "Computing Information Retrieval Performance Measures Efficiently
    in the Presence of Tied Scores", ECIR 2008.
    """
    m, r = count.astype(np.float64), hits.astype(np.float64)
    before, right = np.cumsum(m, axis=1) - m, np.cumsum(r, axis=1) - r
    harmonic = np.concatenate(
        ([0.0], np.cumsum(1 / np.arange(1, int(m.sum(1).max(initial=0)) + 1)))
    )
    span = harmonic[(before + m).astype(np.int64)] - harmonic[before.astype(np.int64)]
    slope = np.divide(r - 1, m - 1, out=np.zeros_like(r), where=m > 1)
    share = np.divide(r, m, out=np.zeros_like(r), where=m > 0)
    gained = share * ((right + 1) * span + slope * (m - (before + 1) * span))
    total = r.sum(axis=1)
    return np.divide(gained.sum(axis=1), total, out=np.full(len(r), np.nan), where=total > 0)


def hamming_map(
    queries: Packed, database: Packed, query_labels: ArrayLike, database_labels: ArrayLike
) -> float:
    """Mean average precision in [0, 1] of packed codes; an item is a hit if its class is right.

    Only the numbers of items and of hits at each distance are needed: nothing is sorted.

    Args:
        queries: Packed codes ``(q, w)``.
        database: ``(n, w)``.
        query_labels: ``(q,)``, integers.
        database_labels: ``(n,)``.

    Raises:
        TypeError: Codes that are not packed.
        ValueError: Shapes that do not fit, or no query whose class the database has.
    """
    relevant = _relevant(query_labels, database_labels, (len(queries), len(database)))
    distance = hamming(queries, database).astype(np.int64)
    levels = 64 * queries.shape[1] + 1
    place = distance + levels * np.arange(len(queries))[:, None]
    shape = (len(queries), levels)
    count = np.bincount(place.ravel(), minlength=levels * len(queries)).reshape(shape)
    hits = np.bincount(place[relevant], minlength=levels * len(queries)).reshape(shape)
    return _mean(expected_average_precision(count, hits))


def score_map(scores: ArrayLike, query_labels: ArrayLike, database_labels: ArrayLike) -> float:
    """The same of similarities ``(q, n)``, larger is nearer; ties in the order of the database.

    Args:
        scores: ``(q, n)``, finite.
        query_labels: ``(q,)``, integers.
        database_labels: ``(n,)``.

    Raises:
        ValueError: Shapes that do not fit, scores that are not finite, or no query whose class the
            database has.
    """
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 2 or not bool(np.isfinite(array).all()):
        raise ValueError(f"scores must be finite and have shape (q, n), got {array.shape}")
    relevant = _relevant(query_labels, database_labels, array.shape)
    order = np.argsort(-array, axis=1, kind="stable")
    hits = np.take_along_axis(relevant, order, axis=1).astype(np.int64)
    return _mean(expected_average_precision(np.ones_like(hits), hits))


def _relevant(
    query_labels: ArrayLike, database_labels: ArrayLike, shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    found = [np.asarray(query_labels), np.asarray(database_labels)]
    for name, labels, size in zip(("query_labels", "database_labels"), found, shape, strict=True):
        if labels.shape != (size,):
            raise ValueError(f"{name} must have shape ({size},), got {labels.shape}")
    return np.asarray(found[0][:, None] == found[1][None])


def _mean(precision: Array) -> float:
    if bool(np.isnan(precision).all()):
        raise ValueError("query_labels: the database has no item of any query's class")
    return float(np.nanmean(precision))
