"""Which training samples of the student are labelled, and which labels are wrong."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..config import nearest
from ..config_data import DataConfig
from ..config_errors import ConfigError
from ..data import Dataset, few_labels, long_tail
from .parts import Rows
from .streams import option_generator


def choose_labels(
    config: DataConfig,
    student: Dataset,
    train: Rows,
    seed: int,
    generator: np.random.Generator,
) -> tuple[Rows, Rows, list[str]]:
    """The labelled and the unlabelled rows among ``train``, and what was decided.

    Labels are chosen as if no class were missing; those of ``missing_classes`` are then forgotten,
    so that the others are the same with and without.

    Raises:
        ConfigError: classes with too few samples, an unknown class, or fewer than two classes that
            keep a label.
    """
    gone, notes = _missing(config, student, seed)
    labelled = _as_if_complete(config, student, train, gone, generator)
    labelled = labelled[~np.isin(student.labels[labelled], gone)]
    found = np.unique(student.labels[labelled])
    if len(found) < 2:
        names = ", ".join(student.class_names[k] for k in found) or "none"
        raise ConfigError(
            "data.student: labelled samples of at least two classes are needed, found "
            f"{names}; missing_classes = {config.student.missing_classes!r}, "
            f"{len(train)} training samples"
        )
    return labelled, np.setdiff1d(train, labelled), notes


def _missing(config: DataConfig, student: Dataset, seed: int) -> tuple[Rows, list[str]]:
    """The numbers of the classes without labels."""
    wanted, names = config.student.missing_classes, student.class_names
    if wanted is None:
        return np.empty(0, dtype=np.int64), []
    if isinstance(wanted, int):
        if wanted > len(names) - 2:
            raise ConfigError(
                f"data.student.missing_classes must be at most {len(names) - 2}, two of the "
                f"{len(names)} classes keep their labels, got {wanted}"
            )
        generator = option_generator(seed, "missing_classes")
        drawn = np.sort(generator.choice(len(names), size=wanted, replace=False))
        listed = ", ".join(names[k] for k in drawn)
        return drawn, [f"classes without student labels, drawn by chance: {listed}"]
    for name in wanted:
        if name not in names:
            raise ConfigError(
                f"data.student.missing_classes: there is no class {name!r}{nearest(name, names)} "
                f"(classes: {', '.join(names)})"
            )
    return np.array(sorted(names.index(name) for name in wanted), dtype=np.int64), []


def _as_if_complete(
    config: DataConfig,
    student: Dataset,
    train: Rows,
    gone: Rows,
    generator: np.random.Generator,
) -> Rows:
    count, ratio = config.student.labels_per_class, config.student.long_tail
    if count is None:
        return train
    if ratio is None:
        present, found = np.unique(student.labels[train], return_counts=True)
        needed = ~np.isin(present, gone)
        if needed.any() and found[needed].min() < count:
            rarest = student.class_names[present[needed][found[needed].argmin()]]
            raise ConfigError(
                f"data.student.labels_per_class must be at most {found[needed].min()}, the "
                f"training samples of the student's class {rarest!r}, got {count}"
            )
        return few_labels(student.labels, count, generator, pool=train, allow_fewer=True)
    tail = max(1, round(count / ratio))
    try:
        return long_tail(student.labels, generator, head=count, tail=tail, pool=train)
    except ValueError as error:
        raise ConfigError(
            f"data.student.labels_per_class = {count} with data.student.long_tail = {ratio:g}: "
            f"{error}"
        ) from error


def known_labels(
    config: DataConfig, student: Dataset, labelled: Rows, seed: int, notes: list[str]
) -> NDArray[np.int64]:
    """The labels of the labelled rows as the student is told them; adds to ``notes``."""
    known = student.labels[labelled]
    if config.student.label_noise:
        generator = option_generator(seed, "label_noise")
        known = noisy_labels(known, config.student.label_noise, generator)
        wrong = int((known != student.labels[labelled]).sum())
        notes.append(f"label noise: {wrong} of the student's {len(known)} labels are wrong")
    return known


def noisy_labels(
    labels: NDArray[np.int64], share: float, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Symmetric label noise: a copy with ``round(share · n)`` labels replaced.

    A replaced label is uniformly one of the *other* classes that occur in ``labels``; a class
    without labels does not get any by mistake.

    Args:
        labels: ``(n,)`` int64, of at least two classes if anything is replaced.
        share: in [0, 1).
        generator: decides which labels, and by what.
    """
    noisy, classes = labels.copy(), np.unique(labels)
    count = int(np.floor(share * len(labels) + 0.5))
    chosen = generator.permutation(len(labels))[:count]
    old = np.searchsorted(classes, labels[chosen])
    step = generator.integers(1, len(classes), size=count) if count else 0
    noisy[chosen] = classes[(old + step) % len(classes)]
    return noisy
