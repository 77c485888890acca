r"""The Gaussian study of the modality focusing hypothesis, one seed at a time.

First part (the paper's figure 2): what distillation changes as γ goes from 0 to 1. Second part (its
table 2): at a given γ, a teacher that keeps only the channels of highest modality-general saliency,
against the whole teacher, no teacher, and a teacher of as many channels chosen by chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ...saliency import general_channels, linear_saliency
from .data import Array, Pairs, nested, overlapping
from .linear import fit, fit_together, sigmoid

TRAINING, TEST = 200, 1000


@dataclass(frozen=True)
class Shared:
    """Test accuracies of the first part, in percent."""

    seed: int
    gamma: float
    teacher: float
    student: float
    distilled: float


@dataclass(frozen=True)
class General:
    """Test accuracies of the second part, in percent.

    Attributes:
        seed: Of the draw.
        gamma: γ.
        found: Share of the common channels among the kept ones.
        teacher: The whole teacher.
        student: Without a teacher.
        distilled: From the whole teacher.
        general_teacher: The teacher on the kept channels.
        general_distilled: From that one.
        chance_distilled: From one on channels chosen by chance.
        refitted_distilled: From a whole teacher fitted, as the last two are, on the students' data.
    """

    seed: int
    gamma: float
    found: float
    teacher: float
    student: float
    distilled: float
    general_teacher: float
    general_distilled: float
    chance_distilled: float
    refitted_distilled: float


def increase_shared(seed: int, shared: int, *, decisive: int = 10, steps: int = 1000) -> Shared:
    """One row of the first part: 25 and 50 channels, a random normal, 200 + 1000 samples.

    Args:
        seed: Of data and initial weights.
        shared: Decisive features in common.
        decisive: Decisive features of each modality.
        steps: Of gradient descent.
    """
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal(2 * decisive)
    data, test = (
        overlapping(
            normal, n, rng, shared=shared, decisive=decisive, teacher_width=25, student_width=50
        )
        for n in (TRAINING, TEST)
    )
    teacher = fit(data.teacher, data.labels, rng, steps=steps)
    answer = sigmoid(teacher.logit(data.teacher))
    return Shared(
        seed,
        shared / (2 * decisive - shared),
        100 * teacher.accuracy(test.teacher, test.labels),
        _student(data, test, rng, None, steps),
        _student(data, test, rng, answer, steps),
    )


def focus(seed: int, shared: int, *, own: int = 10, steps: int = 1000) -> General:
    """One row of the second part: 50 and 50 channels, all features of equal weight.

    As in the released code the whole teacher and the saliency come from one draw of 200 samples;
    students, and the teachers of fewer channels, from another. (There the whole teacher's student
    gets the modalities exchanged; not here.)

    Args:
        seed: Of data and initial weights.
        shared: Decisive features in common; as many channels are kept.
        own: Decisive features that only the teacher sees.
        steps: Of gradient descent.
    """
    rng = np.random.default_rng(seed)
    normal = np.ones(shared + own)
    first, data, test = (
        nested(normal, n, rng, shared=shared, own=own) for n in (TRAINING, TRAINING, TEST)
    )
    teacher = fit(first.teacher, first.labels, rng, steps=steps)
    together = fit_together(first.teacher, first.student, first.labels, rng, steps=steps)
    saliency = linear_saliency(
        torch.from_numpy(together[1].logit(first.student) - together[0].bias)[:, None],
        torch.from_numpy(first.teacher),
        torch.from_numpy(together[0].weight)[None],
    )
    width = first.teacher.shape[1]
    kept = np.flatnonzero(general_channels(saliency, 1 - shared / width).numpy())
    chance = rng.choice(width, size=shared, replace=False)

    def narrowed(channels: NDArray[np.integer] | slice) -> tuple[float, float]:
        few = fit(data.teacher[:, channels], data.labels, rng, steps=steps)
        answer = sigmoid(few.logit(data.teacher[:, channels]))
        score = few.accuracy(test.teacher[:, channels], test.labels)
        return 100 * score, _student(data, test, rng, answer, steps)

    return General(
        seed,
        shared / (shared + own),
        float((kept < shared).mean()),
        100 * teacher.accuracy(test.teacher, test.labels),
        _student(data, test, rng, None, steps),
        _student(data, test, rng, sigmoid(teacher.logit(data.teacher)), steps),
        *narrowed(kept),
        narrowed(chance)[1],
        narrowed(slice(None))[1],
    )


def _student(
    data: Pairs, test: Pairs, rng: np.random.Generator, answer: Array | None, steps: int
) -> float:
    model = fit(data.student, data.labels, rng, answer=answer, steps=steps)
    return 100 * model.accuracy(test.student, test.labels)
