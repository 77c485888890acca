"""The linear student on Gaussian data, exactly.

:mod:`.model` holds the risk and what follows from it, :mod:`.design` the expectations over the
inputs that it needs with unlabelled pairs, :mod:`.simulation` the same risk by drawing data,
:mod:`.estimation` the model's quantities from representations, :mod:`.prediction` the gain that
they predict, :mod:`.phase` the picture of where the complementarity criterion is right
(``python -m ucmkd.theory.gaussian`` draws it).
"""

from .estimation import Quantities, estimate_quantities
from .model import Complementarity, GaussianModel, weight_from_penalty
from .prediction import PredictedGain, Range, predicted_gain
from .simulation import simulate_risk

__all__ = [
    "Complementarity",
    "GaussianModel",
    "PredictedGain",
    "Quantities",
    "Range",
    "estimate_quantities",
    "predicted_gain",
    "simulate_risk",
    "weight_from_penalty",
]
