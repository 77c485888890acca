"""Mutual information with intervals: estimators, the choice among them, tasks of known truth."""

try:
    import scipy  # noqa: F401
except ImportError as error:
    raise ImportError(
        "ucmkd.information needs scipy and scikit-learn: install them with "
        "pip install 'ucmkd[train]'"
    ) from error

from ucmkd.information.api import mutual_information
from ucmkd.information.complementarity import Candidate, TeacherRanking, complementarity
from ucmkd.information.difference import MIDifference, information_difference
from ucmkd.information.estimate import MIEstimate
from ucmkd.information.estimator import Estimator
from ucmkd.information.methods import METHODS
from ucmkd.information.training import Training

__all__ = [
    "METHODS",
    "Candidate",
    "Estimator",
    "MIDifference",
    "MIEstimate",
    "TeacherRanking",
    "Training",
    "complementarity",
    "information_difference",
    "mutual_information",
]
