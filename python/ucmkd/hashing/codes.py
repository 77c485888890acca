"""Packed binary codes: 64 bits a word, distances by exclusive or and a count of ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Packed = NDArray[np.uint64]
#: Distances that are counted at once: what stays in the cache of a core.
BLOCK = 1 << 17


def pack(bits: ArrayLike) -> Packed:
    """Codes ``(n, ⌈k/64⌉)`` of bits ``(n, k)``, padded with zeros.

    Args:
        bits: Booleans, or numbers that are 0 or 1.

    Raises:
        ValueError: Not two dimensions, no bits, or other values.
    """
    array = np.asarray(bits)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"bits must have shape (n, k) with k >= 1, got {array.shape}")
    if array.dtype != np.bool_:
        if not bool(np.isin(array, (0, 1)).all()):
            raise ValueError("bits must be booleans, or 0 and 1 only")
        array = array.astype(np.bool_)
    words = -(-array.shape[1] // 64)
    packed = np.zeros((len(array), 8 * words), dtype=np.uint8)
    found = np.packbits(array, axis=1)
    packed[:, : found.shape[1]] = found
    return packed.view(np.uint64)


def hamming(queries: Packed, database: Packed) -> NDArray[np.uint16]:
    """Numbers of differing bits ``(q, n)``.

    Args:
        queries: Packed codes ``(q, w)`` of :func:`pack`.
        database: ``(n, w)``.

    Raises:
        TypeError: Codes that are not packed.
        ValueError: Other numbers of words.
    """
    _check(queries, database)
    count = popcount()
    found = np.empty((len(queries), len(database)), dtype=np.uint16)
    rows = max(1, BLOCK // max(len(database), 1))
    columns = np.ascontiguousarray(database.T)
    for start in range(0, len(queries), rows):
        some = queries[start : start + rows]
        total = count(some[:, :1] ^ columns[0]).astype(np.uint16)
        for word in range(1, columns.shape[0]):
            total += count(some[:, word, None] ^ columns[word])
        found[start : start + rows] = total
    return found


def rank(queries: Packed, database: Packed, *, top: int | None = None) -> NDArray[np.int64]:
    """Rows of the database, nearest first, ``(q, top)``; equally near ones in their order.

    Args:
        queries: Packed codes ``(q, w)``.
        database: ``(n, w)``.
        top: How many; None: all.

    Raises:
        TypeError: Codes that are not packed.
        ValueError: Other numbers of words, or ``top`` outside 1 … n.
    """
    _check(queries, database)
    if top is not None and not 1 <= top <= len(database):
        raise ValueError(f"top must lie in 1..{len(database)}, got {top}")
    # A stable sort of 16-bit integers is a radix sort.
    return np.argsort(hamming(queries, database), axis=1, kind="stable")[:, :top]


def popcount() -> Callable[[Packed], NDArray[np.uint8]]:
    """Ones in each word: NumPy's own from 2.0 on, a table of 16-bit words before."""
    own: Any = getattr(np, "bitwise_count", None)
    return count_by_table if own is None else own


def count_by_table(words: Packed) -> NDArray[np.uint8]:
    """Ones in each word of 64 bits, by four looks into a table."""
    quarters = np.ascontiguousarray(words).view(np.uint16).reshape(*words.shape, 4)
    return _table()[quarters].sum(axis=-1, dtype=np.uint8)


@lru_cache(maxsize=1)
def _table() -> NDArray[np.uint8]:
    numbers = np.arange(1 << 16, dtype=np.uint16)
    return sum((numbers >> bit & 1).astype(np.uint8) for bit in range(16))  # type: ignore


def _check(queries: Packed, database: Packed) -> None:
    for name, value in (("queries", queries), ("database", database)):
        if not isinstance(value, np.ndarray) or value.dtype != np.uint64 or value.ndim != 2:
            kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
            raise TypeError(f"{name} must be packed codes (n, w) of uint64 (see pack), got {kind}")
    if queries.shape[1] != database.shape[1]:
        raise ValueError(
            "queries and database must have codes of one length, got "
            f"{queries.shape[1]} and {database.shape[1]} words"
        )
