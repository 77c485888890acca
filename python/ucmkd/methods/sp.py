"""SP: samples that excite the teacher alike shall excite the student alike."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from ucmkd.losses._common import full_precision, unit_rows, wide
from ucmkd.methods import checks
from ucmkd.methods.base import Batch
from ucmkd.methods.pairs import PairMethod
from ucmkd.models import Student


def similarity_rows(features: Tensor) -> Tensor:
    r"""The rows of :math:`G = A A^\top` at length one, ``(p, p)``.

    Args:
        features: A ``(p, ...)``; flattened to ``(p, d)``.
    """
    flat = wide(features).flatten(1)
    with full_precision(flat):
        return unit_rows(flat @ flat.T)


def similarity_preserving_loss(features: Tensor, teacher_features: Tensor) -> Tensor:
    r"""Mean squared difference of the similarity rows.

    .. math:: \frac1{p^2}\|\tilde G_T - \tilde G_S\|_F^2, \qquad
        \tilde G_{i\cdot} = (A A^\top)_{i\cdot} / \|(A A^\top)_{i\cdot}\|_2

    Nothing of it depends on the widths, so that no projector is needed.

    Args:
        features: Student features ``(p, ...)``.
        teacher_features: ``(p, ...)`` of the same samples; detached.

    Returns:
        A 0-d tensor, float32 or better.
    """
    teacher = wide(teacher_features.detach(), features)
    return (similarity_rows(teacher) - similarity_rows(features)).square().mean()


class SP(PairMethod):
    """``sp``: ``CE + λ`` :func:`similarity_preserving_loss`, the second term on pairs.

    Tung and Mori, ICCV 2019 (arXiv 1907.09682), equations 1 to 4, λ = 3000 as there. A
    *reconstruction*: the authors have published no code. The paper takes the last layer of every
    stage of a convolutional network, here it is the one feature layer. For the same idea between
    classes in the place of samples, without pairs, see ``prototype_geometry``.

    Only features are compared, so that a placebo's permuted class names change nothing.

    Terms: ``ce``, ``similarity``; with labelled pairs ``pair_ce`` (weight 1).

    Args:
        student: The model to train.
        weight: λ ≥ 0.
        **options: The options of :class:`ucmkd.methods.Method`.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: A negative weight.
    """

    name: ClassVar[str] = "sp"
    requires = ("paired", "paired_teacher_feature")

    def __init__(self, student: Student, *, weight: float = 3000.0, **options: Any) -> None:
        super().__init__(student, **options)
        checks.number("weight", weight)
        self.weight = weight

    def weights(self, step: int) -> dict[str, float]:
        """``{"ce": 1, "similarity": weight, "pair_ce": 1}``."""
        return {"ce": 1.0, "similarity": self.weight, "pair_ce": 1.0}

    def pair_terms(self, features: Tensor, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """``{"similarity"}``."""
        assert batch.paired_teacher_feature is not None
        return {"similarity": similarity_preserving_loss(features, batch.paired_teacher_feature)}
