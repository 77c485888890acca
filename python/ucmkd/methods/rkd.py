"""RKD: the student's samples lie to each other as the teacher's do."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from ucmkd.losses import rkd_loss
from ucmkd.methods import checks
from ucmkd.methods.base import Batch
from ucmkd.methods.pairs import PairMethod
from ucmkd.models import Student


class RKD(PairMethod):
    """``rkd``: ``CE + λ_D`` distance ``+ λ_A`` angle loss of the features, on pairs.

    Park et al. 2019 (arXiv 1904.05068): :func:`ucmkd.losses.rkd_loss` on the feature layers. The
    two terms are named apart; their weights are those of the paper's classification experiments.

    Terms: ``ce``, ``distance``, ``angle``; with labelled pairs ``pair_ce`` (weight 1).

    Args:
        student: The model to train.
        distance_weight: λ_D ≥ 0.
        angle_weight: λ_A ≥ 0.
        **options: The options of :class:`ucmkd.methods.Method`.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: A negative weight.
    """

    name: ClassVar[str] = "rkd"
    requires = ("paired", "paired_teacher_feature")

    def __init__(
        self,
        student: Student,
        *,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        **options: Any,
    ) -> None:
        super().__init__(student, **options)
        checks.number("distance_weight", distance_weight)
        checks.number("angle_weight", angle_weight)
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def weights(self, step: int) -> dict[str, float]:
        """``{"ce": 1, "distance": λ_D, "angle": λ_A, "pair_ce": 1}``."""
        return {
            "ce": 1.0,
            "distance": self.distance_weight,
            "angle": self.angle_weight,
            "pair_ce": 1.0,
        }

    def pair_terms(self, features: Tensor, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """``{"distance", "angle"}``."""
        teacher = batch.paired_teacher_feature
        assert teacher is not None
        return {
            "distance": rkd_loss(features, teacher, distance_weight=1.0, angle_weight=0.0),
            "angle": rkd_loss(features, teacher, distance_weight=0.0, angle_weight=1.0),
        }
