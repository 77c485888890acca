r"""The two-token model of multi- against single-modal contrastive learning.

Huang, Han, Chen, Cao, Xu and Suzuki, "On the Comparison between Multi-modal and Single-modal
Contrastive Learning", NeurIPS 2024, arXiv 2411.02837 (equations 1, 2 and 5). A label y = ±1; the
first modality is ``x = [yμ, ξ]`` with noise ξ ~ N(0, σ²I_d), its augmentation ``[yμ, ξ + ε]``; the
second modality is ``[yμ̃, ξ̃]`` with the same label, noise of the same size and ``‖μ̃‖ = C‖μ‖``.
Unseen data are ``[yν, ζ]`` with a weaker signal ν along μ and fresh noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..gaussian import checks

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TwoTokens:
    """One setting; the defaults are the paper's synthetic experiment.

    The paper prints neither the temperature nor the initial size. With ``temperature = 1/neurons``
    (the similarity is then a sum over neurons) and ``initial = .001`` loss, signal and noise run
    as in its figure 1; with a temperature of 1 little is learnt in 200 steps.

    Attributes:
        dimension: d of a token, at least 2.
        samples: n, at least 2.
        neurons: m of each encoder.
        signal: ‖μ‖.
        advantage: C_μ = ‖μ̃‖/‖μ‖.
        noise: σ.
        augmentation: Standard deviation of ε.
        outside_signal: ‖ν‖.
        rate: Learning rate η.
        steps: Gradient steps over all samples.
        temperature: τ; None: ``1/neurons``.
        initial: Standard deviation σ₀ of the initial weights.

    Raises:
        TypeError: A value that is no number.
        ValueError: A value out of range.
    """

    dimension: int = 2000
    samples: int = 100
    neurons: int = 50
    signal: float = 5.0
    advantage: float = 3.0
    noise: float = 1.0
    augmentation: float = 0.1
    outside_signal: float = 2.0
    rate: float = 0.01
    steps: int = 200
    temperature: float | None = None
    initial: float = 0.001

    def __post_init__(self) -> None:
        for name, least in (("dimension", 2), ("samples", 2), ("neurons", 1), ("steps", 1)):
            checks.count(name, getattr(self, name), least)
        for name in ("signal", "advantage", "noise", "outside_signal", "rate", "initial"):
            checks.positive(name, getattr(self, name))
        checks.not_negative("augmentation", self.augmentation)
        if self.temperature is not None:
            checks.positive("temperature", self.temperature)

    @property
    def tau(self) -> float:
        """The temperature that is used."""
        return 1.0 / self.neurons if self.temperature is None else self.temperature

    @property
    def snr(self) -> float:
        """``‖μ‖/(σ√d)``."""
        return self.signal / (self.noise * math.sqrt(self.dimension))

    @property
    def balance(self) -> float:
        """``n·SNR²``: signal against noise over a training set; Θ(1) in the theorems."""
        return self.samples * self.snr**2


def signal_for(balance: float, *, samples: int, dimension: int, noise: float = 1.0) -> float:
    """‖μ‖ at which ``n·SNR²`` is ``balance``."""
    checks.positive("balance", balance)
    return noise * math.sqrt(balance * dimension / samples)


class Sample(NamedTuple):
    """One draw of the model; a seed gives both kinds of learning the same first modality.

    Attributes:
        labels: ±1, ``(n,)``; at least one of each.
        noise: ξ ``(n, d)``.
        augmented: ξ + ε ``(n, d)``.
        other_noise: ξ̃ ``(n, d)``.
        weights: Of the first encoder before training, ``(m, d)``.
        other_weights: Of the second.
    """

    labels: Array
    noise: Array
    augmented: Array
    other_noise: Array
    weights: Array
    other_weights: Array


def draw(model: TwoTokens, seed: int) -> Sample:
    """Training data and initial weights."""
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random(model.samples) < 0.5, 1.0, -1.0)
    labels[:2] = 1.0, -1.0  # so that everyone has a negative
    shape = (model.samples, model.dimension)
    noise = model.noise * rng.standard_normal(shape)
    return Sample(
        labels,
        noise,
        noise + model.augmentation * rng.standard_normal(shape),
        model.noise * rng.standard_normal(shape),
        model.initial * rng.standard_normal((model.neurons, model.dimension)),
        model.initial * rng.standard_normal((model.neurons, model.dimension)),
    )
