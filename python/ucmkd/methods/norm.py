"""NORM: N student representations of a sample, each matched with the teacher's one."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ucmkd.losses._common import wide
from ucmkd.methods import checks
from ucmkd.methods.base import Batch
from ucmkd.methods.deployed import fold
from ucmkd.methods.pairs import PairMethod
from ucmkd.models import Student


def many_to_one_loss(expanded: Tensor, teacher_features: Tensor) -> Tensor:
    r"""The sum :math:`\sum_{k=1}^N \mathrm{MSE}(e^{(k)}, t)` over N representations.

    Args:
        expanded: Student representations ``(p, N d_T)``; the k-th is columns
            ``(k-1) d_T … k d_T``.
        teacher_features: ``(p, d_T)`` of the same samples; detached.
    """
    teacher = wide(teacher_features.detach(), expanded)
    parts = wide(expanded).unflatten(-1, (-1, teacher.shape[-1]))
    return F.mse_loss(parts, teacher[:, None].expand_as(parts)) * parts.shape[1]


class FeatureTransform(nn.Module):
    """``z + C E z``: widen features to N representations, narrow them again, add to the input.

    Both maps are linear (with biases), so that the whole is one affine map of the features and
    costs nothing once folded into the layer behind it.

    Args:
        width: Student features.
        expanded: ``N d_T``.
    """

    def __init__(self, width: int, expanded: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, expanded)
        self.contract = nn.Linear(expanded, width)

    def forward(self, features: Tensor) -> Tensor:
        """Transformed features ``(n, width)``."""
        return features + self.contract(self.expand(features))


class Norm(PairMethod):
    """``norm``: ``CE + λ`` :func:`many_to_one_loss`, the second term on pairs.

    Liu et al. 2023 (arXiv 2305.13803): a linear feature transform between the student's encoder
    and head widens the features to N · d_T, where N groups are matched each with the teacher's
    features, and narrows them again, with a residual connection; the head sees the result
    (:class:`FeatureTransform`). It belongs to the trained student: :meth:`predict` goes through
    it, and :meth:`deployed` gives the student with it folded into the head.

    Departures: the paper's transform are 1 x 1 convolutions with BatchNorm on the last feature
    map, here linear layers on the feature vector; its code normalises the logits (LayerNorm) and
    adds Hinton's loss on them, here neither; its schedule of λ over the epochs is left out.

    Terms: ``ce``, ``norm``; with labelled pairs ``pair_ce`` (weight 1).

    Args:
        student: The model to train.
        weight: λ ≥ 0.
        representations: N ≥ 1 (4 in arXiv 2606.10504; 8 in the authors' CIFAR script). With 1
            it is FitNet plus the transform.
        **options: The options of :class:`ucmkd.methods.Method`.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: A negative weight, or fewer than one representation.
    """

    name: ClassVar[str] = "norm"
    requires = ("paired", "paired_teacher_feature")

    def __init__(
        self, student: Student, *, weight: float = 1.0, representations: int = 4, **options: Any
    ) -> None:
        super().__init__(student, **options)
        checks.number("weight", weight)
        checks.integer("representations", representations, minimum=1)
        self.weight = weight
        self.transform = FeatureTransform(student.width, representations * self.teacher_width)

    def weights(self, step: int) -> dict[str, float]:
        """``{"ce": 1, "norm": weight, "pair_ce": 1}``."""
        return {"ce": 1.0, "norm": self.weight, "pair_ce": 1.0}

    def outputs(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The student's features, and the head's logits of the transformed ones."""
        features = self.student.encoder(inputs)
        return features, self.student.head(self.transform(features))

    def pair_terms(self, features: Tensor, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """``{"norm"}``."""
        assert batch.paired_teacher_feature is not None
        expanded = self.transform.expand(features)
        return {"norm": many_to_one_loss(expanded, batch.paired_teacher_feature)}

    def predict(self, inputs: Tensor) -> Tensor:
        """Logits ``(n, C)``, through the transform."""
        return self.outputs(inputs)[1]

    def deployed(self) -> Student:
        """The student with the transform folded in; predicts alone what :meth:`predict` does."""
        expand, contract = self.transform.expand, self.transform.contract
        identity = torch.eye(self.student.width).to(expand.weight)
        return fold(
            self.student,
            self.num_classes,
            weight=identity + contract.weight @ expand.weight,
            bias=contract(expand.bias),
        )
