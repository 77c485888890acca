"""The images, the three conditions, and the teacher of each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from benches.nine_kd.training import descend
from ucmkd.data import Dataset, few_labels, load, long_tail, stratified_parts
from ucmkd.models_cnn import SmallCNN, Stages
from ucmkd.preparation.labels import noisy_labels

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

    net: SmallCNN
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
    rows = (torch.from_numpy(part) for part in (train, validation, test))
    return Problem(images, torch.from_numpy(labels), torch.from_numpy(data.labels), *rows, outside)


def make_student() -> SmallCNN:
    """8 and 16 channels, one convolution each: 1 898 parameters."""
    return SmallCNN(num_classes=10, channels=CHANNELS)


def make_teacher() -> SmallCNN:
    """Maps of the student's shapes from stages of two convolutions, 32 channels inside."""
    return SmallCNN(num_classes=10, channels=CHANNELS, depth=2, inner=32)


def train_teacher(problem: Problem, seed: int, steps: int) -> Taught:
    """Cross-entropy on the same spoiled labels; then frozen, and asked once about every image."""
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


def accuracy(net: torch.nn.Module, problem: Problem, rows: Tensor) -> float:
    """Percent of the rows whose true class has the largest logit."""
    net.eval()
    with torch.no_grad():
        found = net(problem.images[rows]).argmax(1) == problem.truth[rows]
    return 100 * float(found.float().mean())
