"""What theory says about a distillation, as numbers one can compute.

:mod:`.gaussian` is the exact model of a linear student on Gaussian data: its risk with and without
a teacher, and from real representations a predicted gain with an interval.
"""

from .gaussian import GaussianModel, PredictedGain, predicted_gain

__all__ = ["GaussianModel", "PredictedGain", "predicted_gain"]
