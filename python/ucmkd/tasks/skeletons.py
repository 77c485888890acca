"""Mutual distillation of skeleton streams on pen trajectories, ``task: skeletons``.

Encoders of joint, motion and bone (:mod:`ucmkd.skeletons`) learn without labels from 70 % of UCI
pen-based digits; a linear classifier on their features learns from a few of these with labels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ucmkd.config_errors import require
from ucmkd.data import penbased
from ucmkd.skeletons import STREAMS, Pretraining, linear_evaluation, pretrain, streams
from ucmkd.skeletons.model import initialised
from ucmkd.tasks.base import SECONDS, Case, Measure, Outcome, Shown, Task

TEST = 0.3
"""Share of the trajectories."""


@dataclass(frozen=True)
class SkeletonSettings:
    """What a study may set."""

    labels: int = 10
    """Per class, of the linear classifier."""
    steps: int = 1000
    """Of a training without labels."""
    mutual: float = 1.0
    """Weight of the mutual term in the row ``mutual``."""

    def __post_init__(self) -> None:
        for name in ("labels", "steps"):
            require(getattr(self, name) > 0, name, getattr(self, name), "a positive integer")
        require(0 < self.mutual < float("inf"), "mutual", self.mutual, "a positive number")


@lru_cache(maxsize=1)
def pen_trajectories() -> tuple[Tensor, Tensor]:
    """UCI pen-based digits: points ``(10992, 8, 2)`` in [-1, 1] and classes.

    The points are at equal distances along the pen's path; x and y are 0..100 in the source.
    """
    found = penbased()
    points = torch.from_numpy(found.flat()).reshape(len(found.labels), -1, 2) / 50 - 1
    return points, torch.from_numpy(found.labels)


def split(seed: int) -> tuple[Tensor, Tensor]:
    """Rows to learn from and rows of the test."""
    count = len(pen_trajectories()[0])
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held = round(TEST * count)
    return order[held:], order[:held]


@lru_cache(maxsize=8)
def features(
    method: str, control: str | None, seed: int, steps: int, mutual: float
) -> dict[str, Tensor]:
    """Of all trajectories, stream by stream."""
    points, _ = pen_trajectories()
    if method == "inputs":
        return {name: stream.flatten(1) for name, stream in streams(points).items()}
    rest, _ = split(seed)
    config = replace(Pretraining(), steps=steps, mutual=mutual if method == "mutual" else 0.0)
    if method == "untrained":
        return initialised(points[rest], config, seed=seed).features(points)
    model = pretrain(points[rest], config, seed=seed, placebo=control == "placebo")
    return model.features(points)


def run(case: Case) -> Outcome:
    """Learn without labels, or take what an earlier case of the seed has learned."""
    settings = case.settings
    found = features(case.method, case.control, case.seed, settings.steps, settings.mutual)
    (rest, held), (_, labels) = split(case.seed), pen_trajectories()
    own = [rest[labels[rest] == c][: settings.labels] for c in range(int(labels.max()) + 1)]
    few = min(map(len, own))
    require(few == settings.labels, "labels", settings.labels, f"at most {few}, the rarest class")
    chosen = torch.cat(own)

    def test() -> dict[str, Any]:
        return linear_evaluation(
            {name: v[chosen] for name, v in found.items()}, labels[chosen],
            {name: v[held] for name, v in found.items()}, labels[held],
        )  # fmt: skip

    return Outcome(test, len(rest), len(held))


TASK = Task(
    settings=SkeletonSettings,
    rows={"inputs": (), "untrained": (), "alone": (), "mutual": ("placebo",)},
    run=run,
    fetch=pen_trajectories,
    shown=Shown(
        measures=(
            *(Measure(name, name, f"{name}, test accuracy, %") for name in (*STREAMS, "ensemble")),
            SECONDS,
        ),
        caption="Test accuracy in percent of a logistic regression on frozen features",
        columns="Ensemble: the streams' log-probabilities added up. Seconds: of the training "
        "without labels, where this number of labels is the first to need it.",
        unit="Percentage points",
        meaning={"placebo": "in the training, each stream is of other samples"},
        samples="trajectories",
    ),
    validates=False,
    whole_seeds=True,
)
