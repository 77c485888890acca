"""What the methods on pairs share: one pass, cross-entropy, and a term of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from ucmkd.methods.base import Batch, Method


class PairMethod(Method):
    """``CE + pair_terms``: a method that compares student and teacher row by row.

    A subclass implements :meth:`pair_terms` and :meth:`weights`. Pairs need no labels; labelled
    ones add their cross-entropy ``pair_ce`` with weight 1.
    """

    paired = True
    uses_pairs = True
    needs_teacher = True

    def pair_terms(self, features: Tensor, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The terms of student features ``(p, width)`` and logits ``(p, C)`` on the pairs."""
        raise NotImplementedError

    def outputs(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits of the student; one pass for labelled samples and pairs."""
        return self.student.outputs(inputs)

    def terms(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """``{"ce"}``, the method's own and, with labelled pairs, ``"pair_ce"``."""
        assert batch.paired is not None
        n = len(batch.student)
        features, logits = self.outputs(torch.cat((batch.student, batch.paired)))
        terms = {
            "ce": self.cross_entropy(logits[:n], batch.student_label),
            **self.pair_terms(features[n:], logits[n:], batch),
        }
        if batch.paired_label is not None:
            terms["pair_ce"] = self.cross_entropy(logits[n:], batch.paired_label)
        return terms

    def pair_target(self, batch: Batch) -> Tensor:
        """Classes ``(p,)`` of the pairs: their labels, or else the teacher's largest logit."""
        if batch.paired_label is not None:
            return batch.paired_label
        assert batch.paired_teacher_logits is not None
        return batch.paired_teacher_logits.argmax(dim=-1)
