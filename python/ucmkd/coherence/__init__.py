"""Weak cross-modal guidance for coherence (WeGO): putting shuffled elements into order.

Two modalities tell the same story, each shuffled by itself. A network per modality decides for
pairs which comes first; :func:`guided_logits` adds what one is sure of to the other's logits, at
the places that a similarity of elements finds.

>>> import torch
>>> from ucmkd.coherence import guided_logits, most_probable_order
>>> logits = torch.zeros(1, 2, 2, 2)                        # knows nothing
>>> sure = torch.tensor([[[[0.0, 0], [4, 0]], [[0, 4], [0, 0]]]])  # its 0 comes after its 1
>>> crossed = torch.tensor([[1, 0]])                        # its 0 is our 1
>>> most_probable_order(guided_logits(logits, sure, crossed)).tolist()
[[0, 1]]
"""

from ucmkd.coherence.config import CoherenceTraining
from ucmkd.coherence.evaluation import GUIDANCE, Scores, evaluate, order_logits
from ucmkd.coherence.guidance import best_match, guided_logits
from ucmkd.coherence.models import OrderNet, Towers, alignment_loss
from ucmkd.coherence.orders import exact_match, kendall_tau, most_probable_order, order_loss
from ucmkd.coherence.stretches import Sets, Stretches, smartwatch_stretches
from ucmkd.coherence.trainer import train_alone, train_rounds, train_towers

__all__ = [
    "GUIDANCE",
    "CoherenceTraining",
    "OrderNet",
    "Scores",
    "Sets",
    "Stretches",
    "Towers",
    "alignment_loss",
    "best_match",
    "evaluate",
    "exact_match",
    "guided_logits",
    "kendall_tau",
    "most_probable_order",
    "order_logits",
    "order_loss",
    "smartwatch_stretches",
    "train_alone",
    "train_rounds",
    "train_towers",
]
