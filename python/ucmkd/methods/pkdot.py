"""PKDOT: the structure of the privileged features by transport, and a guess of themselves."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor

from ucmkd.losses import sinkhorn_align
from ucmkd.losses._common import full_precision, unit_rows, wide
from ucmkd.methods import checks
from ucmkd.methods.base import Batch
from ucmkd.methods.deployed import Deployed
from ucmkd.methods.fitnet import hint_loss
from ucmkd.methods.hallucination import Hallucination
from ucmkd.methods.pairs import PairMethod
from ucmkd.models import Student


def row_transport(rows: Tensor, teacher_rows: Tensor, *, blur: float = 0.1) -> Tensor:
    """½ the Sinkhorn divergence of two clouds of rows for ``|x - y|²`` at ε = 2 blur².

    That is the divergence for the cost ``½|x - y|²`` at ε = blur², as the authors' code has it.
    """
    epsilon = 2 * blur**2
    return sinkhorn_align(rows, teacher_rows, epsilon=epsilon, epsilon_scale=None) / 2


def structure_loss(
    features: Tensor, teacher_features: Tensor, *, columns: int = 30, blur: float = 0.1
) -> Tensor:
    """Transport between the rows of the two similarity matrices, at the teacher's anchors.

    Both matrices hold the cosines between all samples, less their smallest entry. Of each row the
    columns are kept where the teacher's cosine is smallest, in its order and the same for both;
    then :func:`row_transport`.

    Args:
        features: Student features ``(p, d_S)``.
        teacher_features: ``(p, d_T)`` of the same samples; detached.
        columns: How many to keep; all where there are fewer.
        blur: Root of half the transport's ε, > 0.

    Returns:
        A 0-d tensor.
    """
    s, t = unit_rows(features), unit_rows(wide(teacher_features.detach(), features))
    with full_precision(s):
        s, t = s @ s.T, t @ t.T
    anchor = t.topk(min(columns, len(t)), largest=False).indices
    s, t = (matrix - matrix.min() for matrix in (s, t))
    return row_transport(s.gather(1, anchor), t.gather(1, anchor), blur=blur)


class PKDOT(PairMethod):
    """``pkdot``: ``CE + λ`` :func:`structure_loss` ``+`` hallucination, on pairs.

    Aslam et al. 2024 (arXiv 2401.15489; code ``haseebaslam95/PKDOT``): the teacher's modality is
    privileged, that is absent after the training. A network guesses its features from the
    student's, trained by the mean square :func:`ucmkd.methods.fitnet.hint_loss`, and is part of
    the student that is deployed (:class:`ucmkd.methods.hallucination.Hallucination`); the
    structure is that of the fused features. λ = .6, 30 anchors and blur .1 as in their code.

    Departures: the teacher sees the privileged modality alone, not both, and the guess is added
    through a linear layer where they have a transformer. Their network is trained beforehand and
    frozen (the released script never loads it, so that it stays random); here it is trained along,
    by its own loss alone. The order of the anchors is the teacher's; theirs is left to a partition.

    Only features are compared, so that a placebo's permuted class names change nothing.

    Terms: ``ce``, ``structure``, ``hallucination``; with labelled pairs ``pair_ce`` (weight 1).

    Args:
        student: The model to train.
        weight: λ ≥ 0.
        columns: Anchors of a sample, ≥ 1.
        blur: Of the transport, > 0.
        **options: The options of :class:`ucmkd.methods.Method`.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: An option out of range.
    """

    name: ClassVar[str] = "pkdot"
    requires: tuple[str, ...] = ("paired", "paired_teacher_feature")

    def __init__(
        self,
        student: Student,
        *,
        weight: float = 0.6,
        columns: int = 30,
        blur: float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(student, **options)
        checks.number("weight", weight)
        checks.integer("columns", columns, minimum=1)
        checks.number("blur", blur, strict=True)
        self.weight, self.columns, self.blur = weight, int(columns), float(blur)
        self.hallucination = Hallucination(student.width, self.teacher_width)

    def weights(self, step: int) -> dict[str, float]:
        """``{"ce": 1, "structure": weight, "hallucination": 1, "pair_ce": 1}``."""
        return {"ce": 1.0, "structure": self.weight, "hallucination": 1.0, "pair_ce": 1.0}

    def fused(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fused features, their logits and the guess of the teacher's features."""
        features = self.student.encoder(inputs)
        guess = self.hallucination.guess(features)
        features = self.hallucination.add(features, guess)
        return features, self.student.head(features), guess

    def terms(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """``{"ce", "structure", "hallucination"}`` and, with labelled pairs, ``"pair_ce"``."""
        teacher = batch.paired_teacher_feature
        assert batch.paired is not None and teacher is not None
        n = len(batch.student)
        features, logits, guess = self.fused(torch.cat((batch.student, batch.paired)))
        terms = {
            "ce": self.cross_entropy(logits[:n], batch.student_label),
            "structure": structure_loss(
                features[n:], teacher, columns=self.columns, blur=self.blur
            ),
            "hallucination": hint_loss(guess[n:], teacher),
        }
        if batch.paired_label is not None:
            terms["pair_ce"] = self.cross_entropy(logits[n:], batch.paired_label)
        return terms

    def predict(self, inputs: Tensor) -> Tensor:
        """Logits ``(n, C)`` of the fused features."""
        return self.fused(inputs)[1]

    def deployed(self) -> Student:
        """The student with the network that guesses; predicts alone what :meth:`predict` does."""
        shift = next(self.hallucination.parameters()).new_zeros(self.num_classes)
        student, network = copy.deepcopy((self.student, self.hallucination))
        return Deployed(student, network, shift).train(self.training)
