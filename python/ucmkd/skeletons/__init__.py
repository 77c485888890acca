"""Cross-modal mutual distillation of skeleton streams (CMD), on pen trajectories.

Mao, Zhou, Lu, Deng and Zhang, "CMD: Self-supervised 3D Action Representation Learning with
Cross-Modal Mutual Distillation", ECCV 2022 (arXiv 2208.12448; code ``maoyunyao/CMD``). Joint,
motion and bone are three modalities made of one skeleton; a MoCo of each learns without labels, and
each also learns which earlier samples the others find near.

:mod:`.streams` makes the modalities, :mod:`.augment` two views of a sample, :mod:`.losses` are the
pure losses, :mod:`.moco` the momentum encoder and the queues, :mod:`.model` puts them together,
:mod:`.pretrain` trains, :mod:`.linear` evaluates; ``ucmkd compare skeletons`` is its study.
"""

from .config import Pretraining
from .linear import linear_evaluation
from .losses import info_nce, mutual_loss, neighbour_kl
from .model import CMD
from .pretrain import pretrain
from .streams import STREAMS, streams

__all__ = [
    "CMD",
    "STREAMS",
    "Pretraining",
    "info_nce",
    "linear_evaluation",
    "mutual_loss",
    "neighbour_kl",
    "pretrain",
    "streams",
]
