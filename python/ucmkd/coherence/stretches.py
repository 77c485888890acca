"""Recordings of two sensors as sets of windows, each sensor shuffled by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ucmkd.data import smartwatch
from ucmkd.identity import digest_of


class Sets(NamedTuple):
    """A batch.

    Attributes:
        student: Windows of the modality to order, ``(B, n, 3, t)``.
        guide: Windows of the other one, of the same stretches, ``(B, n, 3, t)``.
        student_position: True ranks ``(B, n)``.
        guide_position: True ranks ``(B, n)``; another shuffle.
    """

    student: Tensor
    guide: Tensor
    student_position: Tensor
    guide_position: Tensor

    def partner(self) -> Tensor:
        """For every window of the guide, the student's of the same time, ``(B, n)``."""
        return self.student_position.argsort(dim=1).gather(1, self.guide_position)


@dataclass(frozen=True)
class Stretches:
    """Neighbouring windows of recordings.

    Attributes:
        student: All windows of one modality, ``(N, 3, t)``, in order of time within a recording.
        guide: Of the other.
        starts: First windows of the stretches, ``(S,)``.
        count: Windows in a stretch, n.
    """

    student: Tensor
    guide: Tensor
    starts: Tensor
    count: int

    def identity(self) -> str:
        """Sizes and a digest: what a checkpoint was trained on."""
        sizes = f"{len(self.starts)} stretches of {self.count} of {len(self.student)} windows"
        return f"{sizes}, digest {digest_of(self.student, self.guide, self.starts)}"

    def draw(self, size: int, generator: torch.Generator) -> Sets:
        """A batch of stretches drawn with replacement.

        Args:
            size: Number of stretches.
            generator: Of the draw and of the shuffles.
        """
        chosen = self.starts[torch.randint(len(self.starts), (size,), generator=generator)]
        return self.shuffled(chosen, generator)

    def all(self, seed: int = 0) -> Sets:
        """All stretches.

        Args:
            seed: Of the shuffles.
        """
        return self.shuffled(self.starts, torch.Generator().manual_seed(seed))

    def shuffled(self, starts: Tensor, generator: torch.Generator) -> Sets:
        """The stretches that begin there, each modality in an order of its own.

        Args:
            starts: First windows ``(B,)``.
            generator: Of the orders.
        """
        shape = (len(starts), self.count)
        ranks = [torch.rand(shape, generator=generator).argsort(dim=1) for _ in range(2)]
        windows = [starts[:, None] + rank for rank in ranks]
        return Sets(self.student[windows[0]], self.guide[windows[1]], *ranks)


def smartwatch_stretches(
    *,
    seed: int,
    student: str = "accel",
    guide: str = "gyro",
    seconds: float = 0.2,
    count: int = 5,
    test_subjects: int = 3,
) -> tuple[Stretches, Stretches]:
    """Training and test stretches of other people: shoulder exercises felt by a watch.

    A training stretch may begin at every window, test stretches do not overlap. Channels are
    standardised by the training people's.

    Args:
        seed: Decides who tests.
        student: ``"accel"`` or ``"gyro"``.
        guide: The other, or the same.
        seconds: Length of a window.
        count: Windows in a stretch, at least 2.
        test_subjects: In 1 … 9, of ten.

    Raises:
        ValueError: A number or a name out of range; see :func:`ucmkd.data.smartwatch`.
        FetchError: See :func:`ucmkd.data.fetch`.
    """
    for name, view in (("student", student), ("guide", guide)):
        if view not in ("accel", "gyro"):
            raise ValueError(f"{name} must be 'accel' or 'gyro'; got {view!r}")
    if count < 2:
        raise ValueError(f"count must be >= 2; got {count}")
    if not 1 <= test_subjects <= 9:
        raise ValueError(f"test_subjects must lie in 1…9; got {test_subjects}")
    views = smartwatch(views=["accel_raw", "gyro_raw"], seconds=seconds)
    assert views.groups is not None
    people = sorted(set(views.groups.tolist()))
    testing = np.random.default_rng(seed).permutation(people)[:test_subjects]
    held = np.isin(views.groups, testing)
    recording = np.array([name.rsplit(" ", 1)[0] for name in views.ids])
    first, second = (
        _standardised(np.asarray(views.views[f"{view}_raw"]), ~held) for view in (student, guide)
    )
    every, apart = starts_of(recording, count, 1), starts_of(recording, count, count)
    train, test = torch.from_numpy(every[~held[every]]), torch.from_numpy(apart[held[apart]])
    return Stretches(first, second, train, count), Stretches(first, second, test, count)


def starts_of(recording: np.ndarray, count: int, step: int) -> np.ndarray:
    """First indices of runs of ``count`` equal neighbours, one every ``step`` of a recording."""
    begins = np.flatnonzero(np.r_[True, recording[1:] != recording[:-1]])
    ends = np.r_[begins[1:], len(recording)]
    found = [np.arange(a, b - count + 1, step) for a, b in zip(begins, ends, strict=True)]
    return np.concatenate(found)


def _standardised(windows: np.ndarray, training: np.ndarray) -> Tensor:
    mean = windows[training].mean(axis=(0, 2), keepdims=True)
    deviation = windows[training].std(axis=(0, 2), keepdims=True)
    return torch.from_numpy(((windows - mean) / deviation).astype(np.float32))
