"""DML: a student in each modality; the two learn together and from each other."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from ucmkd.losses import kd_loss
from ucmkd.methods import checks
from ucmkd.methods.base import Batch
from ucmkd.methods.pairs import PairMethod
from ucmkd.models import Student


def mutual_losses(logits: Tensor, peer_logits: Tensor) -> tuple[Tensor, Tensor]:
    """``KL(p_2 || p_1)`` for the first and ``KL(p_1 || p_2)`` for the second network.

    Each takes the other's probabilities as fixed. Equations 7 to 9 of the paper have no
    temperature.

    Args:
        logits: Of the first network, ``(p, C)``.
        peer_logits: Of the second on the same samples, ``(p, C)``.

    Returns:
        Two 0-d tensors, means over the samples.
    """
    first = kd_loss(logits, peer_logits, temperature=1.0)
    return first, kd_loss(peer_logits, logits, temperature=1.0)


class DML(PairMethod):
    """``dml``: the student and a peer in the other modality, each ``CE + λ`` KL, on pairs.

    Zhang et al., CVPR 2018 (arXiv 1706.00384), with two networks and λ = 1. A *reconstruction* for
    two modalities: both of their networks see one input, here the second student, a perceptron
    with one hidden layer, sees the features of the frozen encoder in the teacher's modality. It
    starts untrained, learns from the teacher's labelled samples and, by the pairs, from the
    student; the teacher's own head is not used. Both are updated at once, not in turns. After the
    training the peer is left behind.

    A placebo's peer learns the permuted classes.

    Terms: ``ce``, ``mutual`` (the student's KL), ``peer_ce``, ``peer_mutual``; with labelled pairs
    ``pair_ce`` (weight 1).

    Args:
        student: The model to train.
        weight: λ ≥ 0 of both KL.
        hidden: Units of the peer, ≥ 1.
        **options: The options of :class:`ucmkd.methods.Method`.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: An option out of range.
    """

    name: ClassVar[str] = "dml"
    requires = ("paired", "paired_teacher_feature", "teacher_feature", "teacher_label")

    def __init__(
        self, student: Student, *, weight: float = 1.0, hidden: int = 64, **options: Any
    ) -> None:
        super().__init__(student, **options)
        checks.number("weight", weight)
        checks.integer("hidden", hidden, minimum=1)
        self.weight = weight
        self.peer = nn.Sequential(
            nn.Linear(self.teacher_width, hidden), nn.ReLU(), nn.Linear(hidden, self.num_classes)
        )

    def weights(self, step: int) -> dict[str, float]:
        """1 for each cross-entropy, ``weight`` for ``mutual`` and ``peer_mutual``."""
        mutual = {"mutual": self.weight, "peer_mutual": self.weight}
        return {"ce": 1.0, **mutual, "peer_ce": 1.0, "pair_ce": 1.0}

    def pair_terms(self, features: Tensor, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """``{"mutual", "peer_mutual", "peer_ce"}``."""
        assert batch.paired_teacher_feature is not None
        assert batch.teacher_feature is not None and batch.teacher_label is not None
        mutual, peer_mutual = mutual_losses(logits, self.peer(batch.paired_teacher_feature))
        own = self.cross_entropy(self.peer(batch.teacher_feature), batch.teacher_label)
        return {"mutual": mutual, "peer_mutual": peer_mutual, "peer_ce": own}
