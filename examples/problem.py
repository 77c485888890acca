"""What every example shares: digits in two modalities, and a teacher that has been trained.

The teacher saw the pixels of some digits, the student has fifty shape numbers of others. No digit
is on both sides. Nothing is downloaded: the digits are scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ucmkd import data

CLASSES, WIDTH = 10, 32


class Problem(NamedTuple):
    """Standardised inputs, and what the frozen teacher says of its own samples."""

    inputs: Tensor  # (n, 50) labelled samples of the student
    labels: Tensor  # (n,)
    teacher_features: Tensor  # (m, 32), of other digits
    teacher_labels: Tensor  # (m,)
    test_inputs: Tensor
    test_labels: Tensor


class Student(nn.Module):
    """A perceptron that also says what it thinks: features in the teacher's space."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(columns, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU()
        )
        self.head = nn.Linear(32, CLASSES)
        self.projector = nn.Linear(32, WIDTH)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(n, 10)``, and features ``(n, 32)`` to be aligned."""
        features = self.encoder(inputs)
        return self.head(features), self.projector(features)


def problem(labels_per_class: int = 5, seed: int = 0) -> Problem:
    """Split the digits and train the teacher: a second."""
    digits = data.load("digits")
    assert isinstance(digits, data.Views)
    split = data.unpaired_split(digits.labels, seed=seed)
    few = data.few_labels(digits.labels, labels_per_class, seed, pool=split.student_train)
    theirs, shape = (standardised(digits.views[view]) for view in ("pixels", "shape"))
    labels = torch.as_tensor(digits.labels)

    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Linear(theirs.shape[1], 64), nn.ReLU(), nn.Linear(64, WIDTH))
    teacher = nn.Sequential(encoder, nn.ReLU(), nn.Linear(WIDTH, CLASSES))
    own, known = theirs[split.teacher_train], labels[split.teacher_train]
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(teacher(own), known).backward()
        optimizer.step()
    with torch.no_grad():
        features = encoder(own)
        features = (features - features.mean(0)) / features.std()  # of order one

    test = split.test
    return Problem(shape[few], labels[few], features, known, shape[test], labels[test])


def standardised(view: object) -> Tensor:
    """Columns with mean 0 and variance 1, over all digits (no label is looked at)."""
    x = torch.as_tensor(view)
    return (x - x.mean(0)) / x.std(0).clamp_min(1e-3)


@torch.no_grad()
def accuracy(student: nn.Module, given: Problem) -> float:
    """Share of the test digits that are right."""
    student.eval()
    return (student(given.test_inputs)[0].argmax(1) == given.test_labels).float().mean().item()


def compare(
    train: Callable[[Problem, float], tuple[nn.Module, list[float]]],
    weight: float = 0.1,
) -> dict[str, float]:
    """With the loss and without, on three splits: means of the accuracies and of the alignment.

    ``train`` returns a student and the alignment at every step.
    """
    runs = []
    for seed in range(3):
        given = problem(seed=seed)
        alone, _ = train(given, 0.0)
        taught, seen = train(given, weight)
        runs.append((seen[0], seen[-1], accuracy(alone, given), accuracy(taught, given)))
    names = "first", "last", "alone", "taught"
    return {name: sum(run[k] for run in runs) / len(runs) for k, name in enumerate(names)}
