"""The linear student on Gaussian data, exactly.

:mod:`.model` holds the risk and what follows from it, :mod:`.criterion` the complementarity
criterion, :mod:`.design` the expectations over the inputs that the risk needs with unlabelled
pairs, :mod:`.simulation` the same risk by drawing data, :mod:`.estimation` the model's quantities
from representations, :mod:`.prediction` the gain that they predict, :mod:`.phase` the picture of
where the complementarity criterion is right (``python -m ucmkd.theory.gaussian`` draws it).
"""

from .criterion import Complementarity
from .estimation import Quantities, estimate_quantities
from .model import GaussianModel
from .prediction import PredictedGain, predicted_gain
from .ranges import Range
from .simulation import simulate_risk
from .weights import weight_from_penalty

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
