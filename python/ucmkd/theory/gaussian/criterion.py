"""The complementarity criterion in the Gaussian model: two informations in closed form."""

from __future__ import annotations

import math
from typing import NamedTuple


class Complementarity(NamedTuple):
    """The complementarity criterion in the model; informations in nats.

    Attributes:
        teacher_information: I(t; ŝ), with ŝ = w*ᵀx the best student's answer.
        label_information: I(ŝ; y).
        says_helps: Whether the first is larger.
        premise: Whether Var t ≤ Var y, without which the criterion promises nothing.
    """

    teacher_information: float
    label_information: float
    says_helps: bool
    premise: bool


def criterion(
    *, signal: float, teacher_signal: float, mismatch: float, noise: float, teacher_noise: float
) -> Complementarity:
    """The criterion for one output from ‖w*‖², ‖v*‖², B, σ² and σ_t²; see ``GaussianModel.cch``."""
    w, v = signal, teacher_signal
    inner = 0.5 * (w + v - mismatch)
    variance = v + teacher_noise
    with_label = w / (w + noise)
    # Rounding may lift a perfect correlation above one.
    with_teacher = min(1.0, inner**2 / (w * variance)) if w > 0.0 and variance > 0.0 else 0.0
    teacher, label = information(with_teacher), information(with_label)
    return Complementarity(teacher, label, teacher > label, variance <= w + noise)


def information(squared_correlation: float) -> float:
    """Mutual information of a Gaussian pair in nats, ``-½ log(1 - ρ²)``; inf at ρ² = 1."""
    rest = 1.0 - squared_correlation
    return math.inf if rest <= 0.0 else -0.5 * math.log(rest)
