"""The images, the three conditions, and the teacher of each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ucmkd.data import Dataset, few_labels, load, long_tail, stratified_parts
from ucmkd.models_cnn import SmallCNN, Stages
from ucmkd.preparation.labels import noisy_labels
from ucmkd.tasks.nine_kd.descent import descend

#: Title of each condition of the *training* labels; validation and test are clean, with the classes
#: as they come (about 10 % each).
CONDITIONS = {
    "clean": "clean, 100 a class",
    "noise": "20 % label noise",
    "imbalance": "imbalance, 200 to 10 a class",
}
PER_CLASS, NOISE, HEAD, TAIL = 100, 0.2, 200, 10
PARTS = (0.6, 0.15, 0.25)
#: Channels of the stages of teacher and student.
CHANNELS = (8, 16)
TEACHER_RATE = 5e-3


@dataclass(frozen=True)
class Problem:
    """One condition and seed.

    Attributes:
        images: ``(n, 1, 8, 8)`` in 0 … 1, all of them.
        labels: ``(n,)`` as the training sees them.
        truth: ``(n,)``.
        train, validation, test: Rows.
        outside: Number of rows outside the test set.
    """

    images: Tensor
    labels: Tensor
    truth: Tensor
    train: Tensor
    validation: Tensor
    test: Tensor
    outside: int


@dataclass(frozen=True)
class Taught:
    """A trained teacher, and what it says of every image (so that no step has to ask it)."""

    net: torch.nn.Module
    said: Stages


@lru_cache(maxsize=1)
def digits() -> Dataset:
    """UCI optical digits."""
    return load("optdigits")  # type: ignore[return-value]


def make_problem(condition: str, seed: int) -> Problem:
    """Split 60/15/25 within classes, choose training samples, and spoil their labels."""
    data = digits()
    train, validation, test = stratified_parts(data.labels, PARTS, seed)
    labels, generator = data.labels.copy(), np.random.default_rng((seed, 1))
    outside = len(train) + len(validation)
    if condition == "imbalance":
        train = long_tail(labels, generator, head=HEAD, tail=TAIL, pool=train)
    elif condition in CONDITIONS:
        train = few_labels(labels, PER_CLASS, generator, pool=train)
    else:
        raise ValueError(f"condition must be one of {', '.join(CONDITIONS)}, got {condition!r}")
    if condition == "noise":
        labels[train] = noisy_labels(labels[train], NOISE, generator)
    images = torch.from_numpy(np.asarray(data.inputs) / 16).float().reshape(-1, 1, 8, 8)
    parts = [torch.from_numpy(part) for part in (train, validation, test)]
    truth = torch.from_numpy(data.labels)
    return Problem(images, torch.from_numpy(labels), truth, parts[0], parts[1], parts[2], outside)


def make_student() -> SmallCNN:
    """8 and 16 channels, one convolution each: 1 898 parameters."""
    return SmallCNN(num_classes=10, channels=CHANNELS)


def make_teacher() -> SmallCNN:
    """Maps of the student's shapes from stages of two convolutions, 32 channels inside."""
    return SmallCNN(num_classes=10, channels=CHANNELS, depth=2, inner=32)


def train_teacher(problem: Problem, seed: int, steps: int) -> Taught:
    """Cross-entropy on the same spoiled labels; then frozen, and asked once about every image.

    Without steps it has its random initial weights.
    """
    torch.manual_seed(10_000 + seed)
    net = make_teacher()
    loss = torch.nn.CrossEntropyLoss()
    descend(
        list(net.parameters()),
        lambda rows, _: loss(net(problem.images[rows]), problem.labels[rows]),
        problem.train, seed=10_000 + seed, steps=steps, rate=TEACHER_RATE,
    )  # fmt: skip
    net.eval().requires_grad_(False)
    return Taught(net, net.through(problem.images))


class Renamed(torch.nn.Module):
    """A network with the names of its classes permuted.

    Args:
        net: Images to logits ``(n, C)``.
        names: A permutation of the C classes.
    """

    def __init__(self, net: torch.nn.Module, names: Tensor) -> None:
        super().__init__()
        self.net, self.names = net, names

    def forward(self, images: Tensor) -> Tensor:
        """``(n, C)``, column k the network's column ``names[k]``."""
        logits: Tensor = self.net(images)[:, self.names]
        return logits


def renamed(taught: Taught, seed: int) -> Taught:
    """The placebo: maps and features are the teacher's, its classes are permuted."""
    names = torch.randperm(10, generator=torch.Generator().manual_seed(seed))
    net = Renamed(taught.net, names).eval()
    return Taught(net, taught.said._replace(logits=taught.said.logits[:, names]))


def accuracy(net: torch.nn.Module, problem: Problem, rows: Tensor) -> float:
    """Share of the rows whose true class has the largest logit."""
    net.eval()
    with torch.no_grad():
        found = net(problem.images[rows]).argmax(1) == problem.truth[rows]
    return float(found.double().mean())
