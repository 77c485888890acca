"""From estimated quantities to the numbers that a prediction reports."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .estimation import Quantities
from .model import GaussianModel
from .weights import GRID, refine

#: What an interval is made for.
OUTCOMES = ("gain", "relative", "over_constant", "margin")


class Outcome(NamedTuple):
    numbers: NDArray[np.float64]
    gain: float
    weight: float
    without: float
    model: GaussianModel


class Setting:
    """The student's side of the model, for which the coefficients of the risk are fixed."""

    def __init__(
        self, samples: int, dimension: int, pairs: int, paired: bool, weight: float | None
    ) -> None:
        self.samples, self.dimension = samples, dimension
        self.pairs, self.paired, self.weight = pairs, paired, weight
        unit = Quantities(1.0, 1.0, 0.0, 1.0, 1.0, 1.0)
        grid = GRID if weight is None else np.array([0.0, weight])
        self.grid = grid
        model = self.model(unit)
        self.table = np.stack([model.coefficients(float(alpha)) for alpha in grid])

    def model(self, found: Quantities) -> GaussianModel:
        noise = max(found.noise, 1e-12)
        teacher_noise = max(found.teacher_noise, 0.0)
        bound = math.sqrt(noise * teacher_noise)
        return GaussianModel(
            noise=noise, teacher_noise=teacher_noise,
            noise_covariance=min(bound, max(-bound, found.noise_covariance)),
            mismatch=max(found.mismatch, 0.0), samples=self.samples, dimension=self.dimension,
            signal=max(found.signal, 0.0), teacher_signal=max(found.teacher_signal, 0.0),
            unlabelled_pairs=self.pairs, labelled_paired=self.paired,
        )  # fmt: skip

    def outcome(self, found: Quantities) -> Outcome:
        """The numbers of :data:`OUTCOMES`, the first two as roots where the weight is the best."""
        model = self.model(found)
        weight, gain = self._gain(model)
        _, constant = self._gain(model.constant_teacher())
        without = model.excess_risk(0.0)
        margin = 1.0 - model.noise_covariance / model.threshold
        first, second = gain, gain / without
        if self.weight is None:
            first = self._root(model, gain)
            second = first / math.sqrt(without)
        numbers = np.array([first, second, gain - constant, margin])
        return Outcome(numbers, gain, weight, without, model)

    def _root(self, model: GaussianModel, gain: float) -> float:
        """The root of the best gain, nearly linear in σ² - c and below 0 where that is."""
        distance = model.noise_covariance - model.noise
        if self.pairs > 0 or distance <= 0.0:
            return math.sqrt(max(0.0, gain))
        spread = model.noise - 2.0 * model.noise_covariance + model.teacher_noise
        below = model.mismatch + model.noise_factor * spread
        return -model.noise_factor * distance / math.sqrt(max(below, 1e-300))

    def _gain(self, model: GaussianModel) -> tuple[float, float]:
        if self.weight is not None:
            alpha = self.weight
        elif self.pairs == 0:
            alpha = model.best_weight()
        else:
            parts = [model.mismatch, model.noise, model.noise_covariance, model.teacher_noise]
            alpha = refine(self.grid, self.table @ np.array(parts))
        return alpha, model.gain(alpha)
