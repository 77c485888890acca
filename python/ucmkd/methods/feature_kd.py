"""Feature alignment between a labelled student batch and an unpaired teacher batch."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ucmkd.losses import feature_align
from ucmkd.methods import checks
from ucmkd.methods.base import Batch, Method
from ucmkd.methods.observed import report_alignment
from ucmkd.methods.parts import class_weights, make_projector
from ucmkd.models import Student


def check_class_counts(student_label: Tensor, teacher_label: Tensor, num_classes: int) -> None:
    """Both batches must hold the classes in the same proportions.

    Raises:
        ValueError: They do not; names the first class that differs.
    """
    s = torch.bincount(student_label, minlength=num_classes)
    t = torch.bincount(teacher_label, minlength=num_classes)
    wrong = (s * len(teacher_label) != t * len(student_label)).nonzero()
    if len(wrong):
        c = int(wrong[0])
        raise ValueError(
            "label_aware needs class-matched batches: class "
            f"{c} has {int(s[c])} of {len(student_label)} student samples but {int(t[c])} of "
            f"{len(teacher_label)} teacher samples"
        )


def aligned(student: Tensor, teacher: Tensor, options: dict[str, Any]) -> Tensor:
    """``feature_align`` with these options; in a diagnosis its plan is reported too."""
    report_alignment(student, teacher, options)
    return feature_align(student, teacher, **options)


class FeatureKD(Method):
    """``feature_kd``: cross-entropy plus feature alignment, ``CE + λ FA``.

    FA is the entropic transport cost between the (projected) student features and the teacher
    features of an independent batch, :func:`ucmkd.losses.feature_align` (the "Feature KD"
    baseline of arXiv 2606.10504, Table 1). It uses no label of the teacher, so a large
    weight can pull classes together that differ; hence the small default.

    Terms: ``ce``, ``fa``.

    Args:
        student: The model to train.
        weight: λ ≥ 0.
        cost: Cost between features, as in :func:`ucmkd.losses.feature_align`.
        epsilon: Regularisation; with ``epsilon_scale="mean"`` in units of the mean cost.
        epsilon_scale: ``"mean"``, or None for the paper's absolute epsilon.
        projector: ``"auto"``, ``"linear"`` or ``"identity"``
            (:func:`ucmkd.methods.parts.make_projector`).
        tol: Stop at this marginal residual.
        max_iter: Most iterations.
        **options: The options of :class:`ucmkd.methods.Method`.

    Raises:
        ValueError: ``weight`` is negative, or an option of the base class is wrong.
    """

    name: ClassVar[str] = "feature_kd"
    needs_teacher = True
    requires: tuple[str, ...] = ("teacher_feature",)

    def __init__(
        self,
        student: Student,
        *,
        weight: float = 0.1,
        cost: str = "euclidean",
        epsilon: float = 0.1,
        epsilon_scale: str | None = "mean",
        projector: str = "auto",
        tol: float = 1e-3,
        max_iter: int = 100,
        **options: Any,
    ) -> None:
        super().__init__(student, **options)
        checks.number("weight", weight)
        self.weight = weight
        self.align = checks.alignment(
            cost=cost, epsilon=epsilon, epsilon_scale=epsilon_scale, tol=tol, max_iter=max_iter
        )
        self.projector = make_projector(student.width, self.teacher_width, projector)

    def weights(self, step: int) -> dict[str, float]:
        """``{"ce": 1, "fa": weight}``."""
        return {"ce": 1.0, "fa": self.weight}

    def feature_term(self, features: Tensor, batch: Batch) -> Tensor:
        """FA between student features ``(n, width)`` and the batch's teacher features."""
        assert batch.teacher_feature is not None
        return aligned(self.projector(features), batch.teacher_feature, self.align)

    def terms(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """``{"ce", "fa"}``."""
        features, logits = self.student.outputs(batch.student)
        return {
            "ce": self.cross_entropy(logits, batch.student_label),
            "fa": self.feature_term(features, batch),
        }


class LabelAware(FeatureKD):
    """``label_aware``: as ``feature_kd``, with a plan that knows the labels on both sides.

    The plan is computed with ``cost + label_cost · mean(cost) · [y_s ≠ y_t]``, so that mass
    moves within classes; batches are class-matched, so that it can. By the envelope theorem the
    gradient is that of ``<P, cost>`` for this plan. Choose ``weight`` among {0, .03, .1, .3} on
    validation data, and compare with the placebo. The idea of labels in the cost is that of
    Courty et al. (arXiv 1507.00504) and JDOT (arXiv 1705.08848).

    With ``placebo=True`` the teacher samples are weighted so that the permuted classes have the
    masses of the student's classes again; otherwise the transport would have to cross classes.
    Student samples of a class that the teacher's batch has no sample of have nothing to be aligned
    with: they are left out, and the teacher's classes weighted in the same way.

    Terms: ``ce``, ``fa``.

    Args:
        student: The model to train.
        label_cost: Penalty between different classes, in units of the mean cost (absolute with
            ``epsilon_scale=None``), ≥ 0.
        **options: The options of :class:`FeatureKD`.

    Raises:
        ValueError: ``label_cost`` is negative, or an option of the base class is wrong. At a
            step: the counts of classes that both batches have do not fit (on a GPU only the first
            batch is looked at, to save the synchronisation).
    """

    name: ClassVar[str] = "label_aware"
    class_matched = True
    requires = ("teacher_feature", "teacher_label")

    def __init__(self, student: Student, *, label_cost: float = 10.0, **options: Any) -> None:
        super().__init__(student, **options)
        checks.number("label_cost", label_cost)
        self.align["label_cost"] = label_cost
        self._looked = self._partial = False

    def feature_term(self, features: Tensor, batch: Batch) -> Tensor:
        """Label-aware FA between student features and the batch's teacher features."""
        label, teacher_label = batch.student_label, batch.teacher_label
        assert teacher_label is not None and batch.teacher_feature is not None
        if self.permutation is None and (label.device.type == "cpu" or not self._looked):
            self._looked = True
            self._partial = bool((~torch.isin(label, teacher_label)).any())
            if not self._partial:
                check_class_counts(label, teacher_label, self.num_classes)
        options = {"student_label": label, "teacher_label": teacher_label, **self.align}
        if self.permutation is not None:
            mass = torch.bincount(label, minlength=self.num_classes) / len(label)
            options["teacher_weight"] = class_weights(teacher_label, mass.to(features.dtype))
        if not self._partial:
            return aligned(self.projector(features), batch.teacher_feature, options)
        known = torch.isin(label, teacher_label).to(features.dtype)
        share = known.mean()
        known = torch.where(share > 0, known, torch.ones_like(known))  # else the value counts 0
        mass = features.new_zeros(self.num_classes).index_add_(0, label, known) / known.sum()
        options["student_weight"] = known / known.sum()
        options["teacher_weight"] = class_weights(teacher_label, mass)
        return share * aligned(self.projector(features), batch.teacher_feature, options)
