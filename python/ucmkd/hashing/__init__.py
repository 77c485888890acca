"""Hash codes for retrieval across modalities: codes of both sides are compared bit by bit.

:class:`CMIMH` learns them from unlabelled pairs (:func:`fit` trains it), :func:`pack` and
:func:`hamming` store and compare them, :func:`hamming_map` grades them.
"""

from ucmkd.hashing.cmimh import CMIMH
from ucmkd.hashing.codes import hamming, pack, rank
from ucmkd.hashing.retrieval import hamming_map, score_map
from ucmkd.hashing.training import HashTraining, fit

__all__ = ["CMIMH", "HashTraining", "fit", "hamming", "hamming_map", "pack", "rank", "score_map"]
