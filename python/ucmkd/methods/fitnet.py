"""FitNet: the student's projected features imitate the teacher's on pairs."""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ucmkd.losses._common import wide
from ucmkd.methods import checks
from ucmkd.methods.base import Batch
from ucmkd.methods.pairs import PairMethod
from ucmkd.methods.parts import make_projector
from ucmkd.models import Student


def hint_loss(features: Tensor, teacher_features: Tensor) -> Tensor:
    r"""The mean square :math:`\frac1{pd}\sum_{ik} (r(s_i)_k - t_{ik})^2` of projected features.

    Args:
        features: Projected student features ``(p, d_T)``.
        teacher_features: ``(p, d_T)`` of the same samples; detached.
    """
    return F.mse_loss(wide(features), wide(teacher_features.detach(), features))


class FitNet(PairMethod):
    """``fitnet``: ``CE + λ`` :func:`hint_loss`, the second term on pairs.

    Romero et al. 2015 (arXiv 1412.6550), equation 3, with the feature layers as hint and guided
    layer and the mean in the place of half the sum. The paper trains the hint first and then
    distils; here both losses are trained together, as in later comparisons (which use λ = 100
    there on images). The scale of the loss is that of the teacher's features.

    Terms: ``ce``, ``hint``; with labelled pairs ``pair_ce`` (weight 1).

    Args:
        student: The model to train.
        weight: λ ≥ 0.
        projector: The regressor r: ``"linear"``, ``"auto"`` or ``"identity"``
            (:func:`ucmkd.methods.parts.make_projector`).
        **options: The options of :class:`ucmkd.methods.Method`.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: A negative weight, or an unknown projector.
    """

    name: ClassVar[str] = "fitnet"
    requires = ("paired", "paired_teacher_feature")

    def __init__(
        self, student: Student, *, weight: float = 1.0, projector: str = "linear", **options: Any
    ) -> None:
        super().__init__(student, **options)
        checks.number("weight", weight)
        self.weight = weight
        self.projector = make_projector(student.width, self.teacher_width, projector)

    def weights(self, step: int) -> dict[str, float]:
        """``{"ce": 1, "hint": weight, "pair_ce": 1}``."""
        return {"ce": 1.0, "hint": self.weight, "pair_ce": 1.0}

    def pair_terms(self, features: Tensor, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """``{"hint"}``."""
        assert batch.paired_teacher_feature is not None
        return {"hint": hint_loss(self.projector(features), batch.paired_teacher_feature)}
