"""CKD: the student learns how the teacher compares samples; here also classes, without pairs."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ucmkd.losses._common import wide
from ucmkd.methods import checks
from ucmkd.methods.base import Batch
from ucmkd.methods.class_means import RunningClassMeans
from ucmkd.methods.pairs import PairMethod
from ucmkd.methods.prototype_geometry import prototypes
from ucmkd.models import Student


def comparative_loss(
    values: Tensor, reference: Tensor, *, positives: int = 1, negatives: int = 1
) -> Tensor:
    r"""The mean over all groups of rows of the squared gap between two comparisons.

    .. math:: \mathbb{E}_{P,N}\,\tfrac1C\|\Delta s - \Delta t\|^2, \qquad
        \Delta s = \tfrac1{|P|}\sum_{i\in P} s_i - \tfrac1{|N|}\sum_{i\in N} s_i

    with P and N drawn from the rows without replacement, and Δt likewise. With e = s - t the mean
    over all groups is :math:`(1/|P| + 1/|N|)\,\mathrm{tr}\,S/C`, S the (unbiased) sample covariance
    of e. That is what is computed: no group is drawn, the result has no noise of a draw, and the
    size of the groups is a factor.

    Args:
        values: s ``(p, C)``.
        reference: t ``(p, C)``; detached.
        positives: ``|P| ≥ 1``.
        negatives: ``|N| ≥ 1``.

    Returns:
        A 0-d tensor; 0 with fewer than two rows.
    """
    gap = wide(values) - wide(reference.detach(), values)
    spread = (gap - gap.mean(0)).square().sum() / max(len(gap) - 1, 1) / gap.shape[1]
    return (1 / positives + 1 / negatives) * spread


class CKD(PairMethod):
    """``ckd``: ``CE + λ_y`` comparison with labels ``+ λ`` comparison with the teacher, on pairs.

    Wilf et al. 2023 (arXiv 2311.02253; code ``alextxu/ckd``): :func:`comparative_loss` of the
    logits with one-hot labels, on the labelled samples, and with the teacher's logits, on the
    pairs; both with weight 1.

    Departures: the paper draws up to 100 000 groups of 2 or 3 from all samples; here all groups of
    two of the batch are taken in closed form, which has the same expectation, and larger groups
    are a smaller λ. Comparisons leave a common shift of all logits open, so that the
    cross-entropy stays beside them, with weight 1.

    Terms: ``ce``, ``labels``, ``comparison``; with labelled pairs ``pair_ce`` (weight 1).

    Args:
        student: The model to train.
        weight: λ ≥ 0.
        label_weight: λ_y ≥ 0.
        **options: The options of :class:`ucmkd.methods.Method`.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: A negative weight.
    """

    name: ClassVar[str] = "ckd"
    requires = ("paired", "paired_teacher_logits")
    supervised = ("ce", "labels", "pair_ce")

    def __init__(
        self, student: Student, *, weight: float = 1.0, label_weight: float = 1.0, **options: Any
    ) -> None:
        super().__init__(student, **options)
        checks.number("weight", weight)
        checks.number("label_weight", label_weight)
        self.weight, self.label_weight = weight, label_weight

    def weights(self, step: int) -> dict[str, float]:
        """``{"ce": 1, "labels": label_weight, "comparison": weight, "pair_ce": 1}``."""
        return {"ce": 1.0, "labels": self.label_weight, "comparison": self.weight, "pair_ce": 1.0}

    def label_terms(self, logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        """``{"ce", "labels"}`` of the labelled samples."""
        target = F.one_hot(label, self.num_classes)
        return {
            "ce": self.cross_entropy(logits, label),
            "labels": comparative_loss(logits, target),
        }

    def terms(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """``{"ce", "labels", "comparison"}`` and, with labelled pairs, ``"pair_ce"``."""
        assert batch.paired is not None and batch.paired_teacher_logits is not None
        n = len(batch.student)
        logits = self.student(torch.cat((batch.student, batch.paired)))
        terms = self.label_terms(logits[:n], batch.student_label)
        terms["comparison"] = comparative_loss(logits[n:], batch.paired_teacher_logits)
        if batch.paired_label is not None:
            terms["pair_ce"] = self.cross_entropy(logits[n:], batch.paired_label)
        return terms


class ClassCKD(CKD):
    """``ckd_classes``: CKD that compares classes in the place of samples; without pairs, and ours.

    P and N are all samples of one class and of another, each side's its own: Δs is between the
    mean logits of two classes in the labelled batch, Δt between those of all the teacher's samples
    seen so far. Options as of :class:`CKD`.

    Terms: ``ce``, ``labels``, ``comparison``.
    """

    name: ClassVar[str] = "ckd_classes"
    paired = False
    uses_pairs = False
    requires = ("teacher_logits", "teacher_label")

    def __init__(self, student: Student, **options: Any) -> None:
        super().__init__(student, **options)
        self.teacher_means = RunningClassMeans(self.num_classes, self.num_classes)

    def terms(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """``{"ce", "labels", "comparison"}``."""
        assert batch.teacher_logits is not None and batch.teacher_label is not None
        if self.training:
            self.teacher_means.update(batch.teacher_logits, batch.teacher_label)
        logits = self.student(batch.student)
        means, present = prototypes(logits, batch.student_label, self.num_classes)
        both = present & self.teacher_means.seen()
        compared = comparative_loss(means[both], self.teacher_means.means()[both])
        return {**self.label_terms(logits, batch.student_label), "comparison": compared}
