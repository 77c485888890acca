"""Multi- against single-modal contrastive learning: signal, noise and unseen data.

:mod:`.model` is the data, :mod:`.descent` the gradient descent of the theorems, :mod:`.outside`
the accuracy on unseen data, :mod:`.transition` the picture of where the signal wins
(``python -m ucmkd.theory.contrastive`` draws it), :mod:`.representations` the signal-to-noise ratio
of real representations.
"""

from .descent import Learned, learn
from .model import TwoTokens, draw
from .outside import Accuracy, compare, outside_accuracy
from .representations import Prospects, SignalToNoise, prospects, signal_to_noise

__all__ = [
    "Accuracy",
    "Learned",
    "Prospects",
    "SignalToNoise",
    "TwoTokens",
    "compare",
    "draw",
    "learn",
    "outside_accuracy",
    "prospects",
    "signal_to_noise",
]
