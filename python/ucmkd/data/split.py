"""Deterministic splits: who teaches, who learns, who is only used to choose and to test.

Every function takes labels and returns sorted index arrays into them; randomness comes from one
seed or `numpy.random.Generator`, so the same seed gives the same split on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ucmkd.data.base import IntArray

Seed = int | np.random.Generator
"""An integer seed, or a generator that is advanced."""


def _generator(rng: Seed) -> np.random.Generator:
    return rng if isinstance(rng, np.random.Generator) else np.random.default_rng(rng)


def _label_array(labels: ArrayLike) -> IntArray:
    array = np.asarray(labels)
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"labels must be a non-empty one-dimensional integer array, got shape {array.shape} "
            f"of {array.dtype}"
        )
    return array.astype(np.int64)


def stratified_parts(
    labels: ArrayLike,
    fractions: Sequence[float],
    rng: Seed,
    *,
    groups: ArrayLike | None = None,
) -> tuple[IntArray, ...]:
    """Cut all samples into disjoint parts, each class in the same proportions.

    Within a class of `n` samples the part borders lie at `round(n · Σ fractions)`, so a part holds
    every class as nearly in proportion as whole samples allow; together the parts are everything.

    Args:
        labels: `(n,)` integers.
        fractions: Shares of the parts, positive, adding up to 1.
        rng: Seed or generator.
        groups: `(n,)` names of speakers, subjects or the like, each of which goes to one part as a
            whole; the shares are then met as nearly as whole groups allow.

    Returns:
        One sorted index array per fraction.

    Raises:
        ValueError: Bad labels, fractions or groups, fewer groups than parts, or a part that would
            be empty.
    """
    array = _label_array(labels)
    shares = np.asarray(fractions, dtype=np.float64)
    if shares.ndim != 1 or shares.size == 0 or not (shares > 0).all():
        raise ValueError(f"fractions must be positive numbers, got {list(fractions)}")
    if abs(shares.sum() - 1) > 1e-9:
        raise ValueError(f"fractions must add up to 1, got {list(fractions)}")
    generator = _generator(rng)
    if groups is not None:
        return _grouped_parts(array, shares, np.asarray(groups), generator)
    parts: list[list[IntArray]] = [[] for _ in shares]
    for label in np.unique(array):
        members = generator.permutation(np.flatnonzero(array == label))
        borders = np.floor(np.cumsum(shares)[:-1] * len(members) + 0.5).astype(int)
        for part, piece in zip(parts, np.split(members, borders), strict=True):
            part.append(piece)
    result = tuple(np.sort(np.concatenate(part)) for part in parts)
    for share, indices in zip(shares, result, strict=True):
        if len(indices) == 0:
            raise ValueError(f"fractions: a part of {share:g} of {len(array)} samples is empty")
    return result


def _grouped_parts(
    labels: IntArray,
    shares: NDArray[np.float64],
    groups: NDArray,
    generator: np.random.Generator,
) -> tuple[IntArray, ...]:
    """Whole groups, the largest first, each to the part that it brings nearest to its share.

    The distance is Σ (n_pc - t_pc)² / t_pc over parts p and classes c, t the wanted counts.
    """
    if groups.shape != labels.shape:
        raise ValueError(f"groups must have one name per label, got shape {groups.shape}")
    names, member = np.unique(groups, return_inverse=True)
    if len(names) < len(shares):
        raise ValueError(
            f"groups: {len(names)} groups cannot be cut into {len(shares)} parts without one of "
            "them on two sides"
        )
    classes, label = np.unique(labels, return_inverse=True)
    count = np.zeros((len(names), len(classes)))
    np.add.at(count, (member, label), 1)
    wanted = shares[:, None] * count.sum(axis=0)
    placed = np.zeros_like(wanted)
    shuffled = generator.permutation(len(names))
    order = shuffled[np.argsort(-count.sum(axis=1)[shuffled], kind="stable")]
    part_of = np.empty(len(names), dtype=np.int64)
    for left, group in zip(range(len(order), 0, -1), order, strict=True):
        gain = ((placed + count[group] - wanted) ** 2 - (placed - wanted) ** 2) / wanted
        cost = gain.sum(axis=1)
        empty = placed.sum(axis=1) == 0
        if left <= empty.sum():  # the last groups go where nothing is yet
            cost[~empty] = np.inf
        part_of[group] = part = int(cost.argmin())
        placed[part] += count[group]
    return tuple(np.flatnonzero(part_of[member] == part) for part in range(len(shares)))


def few_labels(
    labels: ArrayLike,
    per_class: int,
    rng: Seed,
    *,
    pool: ArrayLike | None = None,
    allow_fewer: bool = False,
) -> IntArray:
    """Choose the few samples whose labels are known: the same number of every class.

    Args:
        labels: `(n,)` integers.
        per_class: Samples per class, at least 1.
        rng: Seed or generator.
        pool: Indices to choose from, e.g. the student's training samples; None for all.
        allow_fewer: Take what there is of a class with fewer samples instead of refusing.

    Returns:
        Sorted indices into `labels`.

    Raises:
        ValueError: `per_class` below 1, an empty pool, or a class with too few samples.
    """
    array = _label_array(labels)
    if per_class < 1:
        raise ValueError(f"per_class must be at least 1, got {per_class}")
    generator, candidates = _generator(rng), _pool(pool, len(array))
    chosen = []
    for label in np.unique(array[candidates]):
        members = candidates[array[candidates] == label]
        if len(members) < per_class and not allow_fewer:
            raise ValueError(
                f"per_class is {per_class}, but class {label} has only {len(members)} samples "
                "in the pool (allow_fewer=True takes them all)"
            )
        chosen.append(generator.permutation(members)[:per_class])
    return np.sort(np.concatenate(chosen))


def _pool(pool: ArrayLike | None, count: int) -> IntArray:
    if pool is None:
        return np.arange(count, dtype=np.int64)
    indices = np.asarray(pool)
    if indices.ndim != 1 or indices.size == 0 or not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(
            f"pool must be a non-empty one-dimensional array of indices, got shape "
            f"{indices.shape} of {indices.dtype}"
        )
    unique = np.unique(indices).astype(np.int64)
    if len(unique) != len(indices) or unique[0] < 0 or unique[-1] >= count:
        raise ValueError(f"pool must hold distinct indices in 0…{count - 1}")
    return unique


def long_tail_counts(num_classes: int, head: int, tail: int) -> IntArray:
    """Class sizes that fall exponentially: `round(head · (tail/head)^(k/(C-1)))`, k = 0 … C-1.

    Ten classes from 50 to 1: 50, 32, 21, 14, 9, 6, 4, 2, 2, 1, together 141.

    Raises:
        ValueError: Not `head ≥ tail ≥ 1`, or no class.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if not head >= tail >= 1:
        raise ValueError(f"head and tail must satisfy head >= tail >= 1, got {head} and {tail}")
    rank = np.arange(num_classes) / max(num_classes - 1, 1)
    return np.floor(head * (tail / head) ** rank + 0.5).astype(np.int64)


def long_tail(
    labels: ArrayLike,
    rng: Seed,
    *,
    head: int = 50,
    tail: int = 1,
    order: Sequence[int] | None = None,
    pool: ArrayLike | None = None,
) -> IntArray:
    """Choose labelled samples with a long tail of rare classes (see `long_tail_counts`).

    Args:
        labels: `(n,)` integers.
        rng: Seed or generator.
        head: Samples of the most frequent class.
        tail: Samples of the rarest class.
        order: The classes from frequent to rare; None draws an order, so that over many seeds
            every class is rare now and then.
        pool: Indices to choose from; None for all.

    Returns:
        Sorted indices into `labels`.

    Raises:
        ValueError: Bad sizes, an order that is not one of the classes, or a class that has fewer
            samples than it should get.
    """
    array, generator = _label_array(labels), _generator(rng)
    candidates = _pool(pool, len(array))
    classes = np.unique(array[candidates])
    ranked = generator.permutation(classes) if order is None else np.asarray(order, dtype=np.int64)
    if not np.array_equal(np.sort(ranked), classes):
        raise ValueError(f"order must name each of the classes {classes.tolist()} once")
    chosen = []
    for label, count in zip(ranked, long_tail_counts(len(classes), head, tail), strict=True):
        members = candidates[array[candidates] == label]
        if len(members) < count:
            raise ValueError(
                f"class {label} has {len(members)} samples, the long tail needs {count}"
            )
        chosen.append(generator.permutation(members)[:count])
    return np.sort(np.concatenate(chosen))


def assert_disjoint(**parts: ArrayLike) -> None:
    """Refuse parts that share a sample: indices, or the ids of samples.

    Raises:
        ValueError: Two parts overlap; names them and one shared sample.
    """
    for (name, part), (other, with_part) in combinations(parts.items(), 2):
        shared = np.intersect1d(np.asarray(part), np.asarray(with_part))
        if len(shared):
            raise ValueError(
                f"{name} and {other} share {len(shared)} samples, for example {shared[0]}"
            )


@dataclass(frozen=True)
class UnpairedSplit:
    """Disjoint index sets: nothing the teacher saw is ever a sample of the student.

    Attributes:
        teacher_train: Samples that train the teacher (in its own view) and are aligned with.
        teacher_validation: Samples that choose the teacher.
        student_train: Samples of the student; `few_labels` or `long_tail` with `pool=` chooses
            the labelled ones, the rest is the unlabelled pool.
        student_validation: Samples that choose among students.
        test: Samples used once.
    """

    teacher_train: IntArray
    teacher_validation: IntArray
    student_train: IntArray
    student_validation: IntArray
    test: IntArray

    def __post_init__(self) -> None:
        assert_disjoint(**self.__dict__)

    def unlabelled(self, labelled: ArrayLike) -> IntArray:
        """The student's training samples that are not in `labelled`."""
        return np.setdiff1d(self.student_train, np.asarray(labelled))


def unpaired_split(
    labels: ArrayLike,
    seed: Seed,
    *,
    teacher_fraction: float = 0.5,
    teacher_validation: float = 0.1,
    validation: float = 0.1,
    test: float = 0.3,
    ids: ArrayLike | None = None,
    groups: ArrayLike | None = None,
) -> UnpairedSplit:
    """Split one multi-view data set into a teacher's and a student's samples, all stratified.

    Args:
        labels: `(n,)` integers.
        seed: Seed or generator.
        teacher_fraction: Share of all samples that belong to the teacher.
        teacher_validation: Share of the teacher's samples that choose it.
        validation: Share of the student's samples for model selection.
        test: Share of the student's samples for the final test.
        ids: `(n,)` identities, checked to be distinct (two rows of one person could otherwise end
            up on both sides); None if every row is its own identity.
        groups: `(n,)` names of speakers, subjects or the like; none of them is in two parts.

    Raises:
        ValueError: Shares outside (0, 1), an empty part, repeated ids, or too few groups.
    """
    array, generator = _label_array(labels), _generator(seed)
    shares = {
        "teacher_fraction": teacher_fraction,
        "teacher_validation": teacher_validation,
        "validation": validation,
        "test": test,
        "validation + test": validation + test,
    }
    for name, share in shares.items():
        if not 0 < share < 1:
            raise ValueError(f"{name} must lie between 0 and 1, got {share}")
    if ids is not None:
        names = np.asarray(ids)
        if names.shape != array.shape or len(np.unique(names)) != len(names):
            raise ValueError(
                "ids must be distinct, one per label: a shared identity would be a pair"
            )
    whole = None if groups is None else np.asarray(groups)
    everything = np.arange(len(array))

    def cut(rows: IntArray, *fractions: float) -> tuple[IntArray, ...]:
        return stratified_parts(
            array[rows], fractions, generator, groups=None if whole is None else whole[rows]
        )

    teacher, student = cut(everything, teacher_fraction, 1 - teacher_fraction)
    own = cut(teacher, 1 - teacher_validation, teacher_validation)
    rest = cut(student, 1 - validation - test, validation, test)
    return UnpairedSplit(*(teacher[part] for part in own), *(student[part] for part in rest))


def top_variance(train: NDArray[np.floating], k: int) -> IntArray:
    """The `k` columns of largest variance, sorted by position; no label is looked at.

    Args:
        train: `(n, d)` TRAINING rows only; choosing on all rows would leak the test set.
        k: Number of columns, 1 … d.

    Raises:
        ValueError: `train` is not a matrix with at least 2 rows, or `k` is out of range.
    """
    if train.ndim != 2 or len(train) < 2:
        raise ValueError(f"train must be (n, d) with n at least 2, got shape {train.shape}")
    if not 1 <= k <= train.shape[1]:
        raise ValueError(f"k must lie in 1…{train.shape[1]} (the columns), got {k}")
    variance = train.var(axis=0, dtype=np.float64)
    return np.sort(np.argsort(-variance, kind="stable")[:k]).astype(np.int64)
