r"""Two modalities with a known share of decisive features in common.

Xue, Gao, Ren and Zhao, "The Modality Focusing Hypothesis: Towards Understanding Crossmodal
Knowledge Distillation", ICLR 2023 (its Gaussian example). Decisive features s ~ N(0, I) make the
label ``y = [⟨s, a⟩ > 0]``; each modality shows some of them among channels of noise. γ is the
share of decisive features that both show.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..gaussian import checks

Array = NDArray[np.float64]


class Pairs(NamedTuple):
    """Samples that are measured in both modalities.

    Attributes:
        teacher: ``(n, d_t)``.
        student: ``(n, d_s)``.
        labels: 0 or 1, ``(n,)``.
    """

    teacher: Array
    student: Array
    labels: Array


def overlapping(
    normal: Array,
    samples: int,
    rng: np.random.Generator,
    *,
    shared: int,
    teacher_width: int = 25,
    student_width: int = 50,
    decisive: int = 10,
) -> Pairs:
    """Both modalities show ``decisive`` features, ``shared`` of them the same.

    The student's channels ``0 … decisive - 1`` and the teacher's channels
    ``decisive - shared … 2 decisive - shared - 1`` are decisive; γ = shared/(2 decisive - shared).
    As in the released code, the label also depends on the features ``2 decisive - shared …`` that
    nobody sees.

    Args:
        normal: a, at least ``2 decisive`` long.
        samples: n.
        rng: Random numbers.
        shared: Between 0 and ``decisive``.
        teacher_width: d_t, at least ``2 decisive - shared``.
        student_width: d_s, at least ``decisive``.
        decisive: Features of each modality.
    """
    checks.count("shared", shared, 0)
    if shared > decisive:
        raise ValueError(f"shared must be at most decisive = {decisive}, got {shared}")
    if teacher_width < 2 * decisive - shared or student_width < decisive:
        raise ValueError(
            f"teacher_width and student_width must hold {2 * decisive - shared} and {decisive} "
            f"channels, got {teacher_width} and {student_width}"
        )
    features = rng.standard_normal((samples, 2 * decisive))
    student = rng.standard_normal((samples, student_width))
    student[:, :decisive] = features[:, :decisive]
    teacher = rng.standard_normal((samples, teacher_width))
    own = slice(decisive - shared, 2 * decisive - shared)
    teacher[:, own] = features[:, own]
    return Pairs(teacher, student, _labels(features, normal))


def nested(
    normal: Array,
    samples: int,
    rng: np.random.Generator,
    *,
    shared: int,
    own: int = 10,
    width: int = 50,
) -> Pairs:
    """The teacher shows all decisive features, the student only those in common.

    Channels ``0 … shared - 1`` are common, the teacher's ``shared … shared + own - 1`` its own;
    γ = shared/(shared + own).

    Args:
        normal: a, at least ``shared + own`` long.
        samples: n.
        rng: Random numbers.
        shared: At least 1.
        own: Decisive features that only the teacher sees.
        width: Channels of each modality, at least ``shared + own``.
    """
    checks.count("shared", shared, 1)
    checks.count("own", own, 0)
    if width < shared + own:
        raise ValueError(f"width must be at least shared + own = {shared + own}, got {width}")
    features = rng.standard_normal((samples, shared + own))
    teacher, student = rng.standard_normal((2, samples, width))
    teacher[:, : shared + own] = features
    student[:, :shared] = features[:, :shared]
    return Pairs(teacher, student, _labels(features, normal))


def _labels(features: Array, normal: Array) -> Array:
    return np.asarray(features @ normal[: features.shape[1]] > 0, dtype=np.float64)
