"""The risk of the Gaussian model by drawing data and solving least squares."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import checks

#: Entries of the design that are drawn at once.
BLOCK = 2**21


class Simulated(NamedTuple):
    """Means over the repetitions with their standard errors, one per α.

    Attributes:
        mean: ``(a,)``.
        standard_error: ``(a,)``.
    """

    mean: NDArray[np.float64]
    standard_error: NDArray[np.float64]


def simulate_risk(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    covariance: ArrayLike | None = None,
    noise: float,
    teacher_noise: float,
    noise_covariance: float,
    samples: int,
    alpha: ArrayLike,
    unlabelled_pairs: int = 0,
    labelled_paired: bool = True,
    repetitions: int = 10_000,
    seed: int = 0,
) -> Simulated:
    """Excess risk of the student of :mod:`.model` on fresh data, for one output.

    Every repetition draws inputs, labels and teacher's answers and solves the weighted normal
    equations; all α see the same draws. Nothing of the closed forms is used.

    Args:
        student: w* ``(d,)``.
        teacher: v* ``(d,)``.
        covariance: Σ ``(d, d)``; None: the identity.
        noise: σ².
        teacher_noise: σ_t².
        noise_covariance: c.
        samples: n.
        alpha: One weight in [0, 1] or several ``(a,)``.
        unlabelled_pairs: m.
        labelled_paired: Whether the teacher has also answered the labelled samples.
        repetitions: At least 2.
        seed: Of the draws.

    Raises:
        ValueError: Shapes that do not fit or a number out of range.
    """
    w, v, sigma = checks.weights(student, teacher, covariance)
    if w.shape[1] != 1:
        raise ValueError(f"student must have shape (d,), got {np.shape(student)}")
    checks.positive("noise", noise)
    checks.not_negative("teacher_noise", teacher_noise)
    checks.covariance(noise_covariance, noise, teacher_noise)
    checks.count("samples", samples, 1)
    checks.count("unlabelled_pairs", unlabelled_pairs, 0)
    checks.count("repetitions", repetitions, 2)
    weights = np.atleast_1d(np.asarray(alpha, dtype=np.float64))
    for value in weights:
        checks.share("alpha", float(value))
    n, rows, d = samples, samples + unlabelled_pairs, len(w)
    rng = np.random.default_rng(seed)
    values, vectors = np.linalg.eigh(sigma)
    root = vectors * np.sqrt(np.clip(values, 0.0, None))
    # η = (c/σ²) ε + rest
    slope = noise_covariance / noise
    rest = np.sqrt(max(0.0, teacher_noise - slope * noise_covariance))
    losses = np.empty((repetitions, len(weights)))
    step = max(1, BLOCK // (rows * d))
    for start in range(0, repetitions, step):
        count = min(step, repetitions - start)
        x = rng.standard_normal((count, rows, d)) @ root.T
        label_noise = np.sqrt(noise) * rng.standard_normal((count, rows, 1))
        label = x @ w + label_noise
        answer = x @ v + slope * label_noise + rest * rng.standard_normal((count, rows, 1))
        for column, value in enumerate(weights):
            of_label, of_answer = np.zeros((rows, 1)), np.zeros((rows, 1))
            of_label[:n] = 1.0 - value
            of_answer[n:] = value
            if labelled_paired:
                of_answer[:n] = value
            gram = x.transpose(0, 2, 1) @ ((of_label + of_answer) * x)
            right = x.transpose(0, 2, 1) @ (of_label * label + of_answer * answer)
            error = np.linalg.solve(gram, right) - w
            losses[start : start + count, column] = np.sum(error * (sigma @ error), axis=(1, 2))
    return Simulated(losses.mean(axis=0), losses.std(axis=0, ddof=1) / np.sqrt(repetitions))
