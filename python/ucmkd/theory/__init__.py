"""What theory says about a distillation, as numbers one can compute.

:func:`certificate` bounds the error of a trained student by its teacher's, term by term.
:mod:`.gaussian` is the exact model of a linear student on Gaussian data: its risk with and without
a teacher, and from real representations a predicted gain with an interval. :mod:`.contrastive` is
the two-token model of multi- against single-modal contrastive learning, with the signal-to-noise
ratio of real representations; :mod:`.focusing` the Gaussian study of the modality focusing
hypothesis.
"""

from ucmkd.theory.certificate import Certificate, certificate
from ucmkd.theory.gaussian import GaussianModel, PredictedGain, predicted_gain

__all__ = ["Certificate", "GaussianModel", "PredictedGain", "certificate", "predicted_gain"]
