"""With and without the mutual term: pre-training on pen trajectories, then linear evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ucmkd.data import penbased

from .config import Pretraining
from .linear import linear_evaluation
from .model import initialised
from .pretrain import pretrain
from .streams import streams

#: What is evaluated, and how it is called in the table.
CONDITIONS = {
    "inputs": "the streams themselves",
    "untrained": "encoders as initialised",
    "alone": "MoCo, each stream alone",
    "mutual": "CMD",
}
#: Labels per class of the linear classifier.
LABELS = (10, 100)


@dataclass(frozen=True)
class Row:
    """One accuracy.

    Attributes:
        seed: Of split, weights, batches and views.
        condition: A key of :data:`CONDITIONS`.
        labels: Labels per class.
        stream: A stream, or ``ensemble``.
        accuracy: On the test samples, in percent.
        train_size: Samples outside the test set, on which the encoders learned without labels.
        test_size: Samples in the test set.
    """

    seed: int
    condition: str
    labels: int
    stream: str
    accuracy: float
    train_size: int
    test_size: int


def pen_trajectories() -> tuple[Tensor, Tensor]:
    """UCI pen-based digits: points ``(10992, 8, 2)`` in [-1, 1] and classes.

    The points are at equal distances along the pen's path; x and y are 0..100 in the source.
    """
    found = penbased()
    points = torch.from_numpy(found.flat()).reshape(len(found.labels), -1, 2) / 50 - 1
    return points, torch.from_numpy(found.labels)


def evaluate_seed(
    points: Tensor,
    labels: Tensor,
    seed: int,
    config: Pretraining | None = None,
    *,
    test: float = 0.3,
    counts: tuple[int, ...] = LABELS,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Iterator[Row]:
    """All conditions on one random split.

    The encoders learn from all samples outside the test set, without labels; the linear classifier
    from some of those with labels, the same for all conditions.

    Args:
        points: ``(n, T, 2)``.
        labels: Classes ``(n,)``, from 0.
        seed: Of everything.
        config: Of the training; its ``mutual`` is that of the condition ``mutual``.
        test: Share of the samples, in (0, 1).
        counts: Labels per class.
        folder: For checkpoints and logs, to go on from after a stop; None: none.
        say: Called with a word about each training.

    Raises:
        ValueError: A share or count that the samples do not allow, or a config without ``mutual``.
    """
    config = config or Pretraining()
    if not config.mutual:
        raise ValueError("config.mutual must be above 0, the weight in the condition 'mutual'")
    if not 0 < test < 1:
        raise ValueError(f"test must lie in (0, 1), got {test}")
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))
    held, rest = order.split([round(test * len(points)), len(points) - round(test * len(points))])
    few = torch.bincount(labels[rest], minlength=int(labels.max()) + 1).min()
    if not counts or min(counts) < 1 or max(counts) > few:
        raise ValueError(f"counts must be labels per class in 1..{few}, got {counts}")
    alone = replace(config, mutual=0.0)

    def trained(name: str, settings: Pretraining) -> dict[str, Tensor]:
        place = None if folder is None else folder / f"{name}-{seed}"
        say(f"seed {seed}, {name}")
        model = pretrain(points[rest], settings, seed=seed, folder=place, resume=place is not None)
        return model.features(points)

    features = {
        "inputs": {name: stream.flatten(1) for name, stream in streams(points).items()},
        "untrained": initialised(points[rest], config, seed=seed).features(points),
        "alone": trained("alone", alone),
        "mutual": trained("mutual", config),
    }
    for count in counts:
        chosen = torch.cat([rest[labels[rest] == c][:count] for c in range(int(labels.max()) + 1)])
        for condition, values in features.items():
            found = linear_evaluation(
                {name: v[chosen] for name, v in values.items()}, labels[chosen],
                {name: v[held] for name, v in values.items()}, labels[held],
            )  # fmt: skip
            for stream, accuracy in found.items():
                yield Row(seed, condition, count, stream, 100 * accuracy, len(rest), len(held))
