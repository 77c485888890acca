"""Joint alignment: unlabelled student samples meet teacher samples, in features and in labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ucmkd.methods import checks
from ucmkd.methods.base import Batch, Method
from ucmkd.methods.observed import report_plan
from ucmkd.methods.parts import (
    class_weights,
    make_projector,
    ramp,
    target_prior,
)
from ucmkd.methods.vanilla_kd import pair_kd
from ucmkd.models import Student
from ucmkd.ops import transport_plan_cost

_TINY = 1e-12


def normalised_distance(x: Tensor, y: Tensor) -> Tensor:
    """``‖x_i/|x_i| - y_j/|y_j|‖`` for ``(n, d)`` and ``(m, d)``, as ``(n, m)``.

    Computed as ``√(2 - 2cos)`` with a floor of 1e-6, so that the gradient stays finite where
    points coincide.
    """
    cosine = F.normalize(x, dim=-1) @ F.normalize(y, dim=-1).T
    return (2 - 2 * cosine).clamp_min(_TINY).sqrt()


def joint_cost(
    features: Tensor,
    logits: Tensor,
    teacher_features: Tensor | None,
    teacher_probability: Tensor,
    *,
    feature_weight: float = 1.0,
) -> Tensor:
    r"""The cost of matching student sample i with teacher sample j.

    .. math::
        M_{ij} = w\,\frac{\|\hat x_i - \hat z_j\|}{\mathrm{mean}}
                 - \sum_c q_{jc} \log p_S(c|x_i)

    with hats for L2 normalisation and the mean, detached, over all pairs.

    Args:
        features: Projected student features ``(u, d_T)``.
        logits: Student logits ``(u, C)``.
        teacher_features: ``(v, d_T)``; may be None for ``feature_weight=0``.
        teacher_probability: The teacher's softmax ``(v, C)``.
        feature_weight: w; 0 leaves the labels alone.

    Returns:
        Costs ``(u, v)``, differentiable in the student's side.
    """
    q = teacher_probability.detach()
    cost = -(F.log_softmax(logits, dim=-1) @ q.to(logits.dtype).T)
    if feature_weight and teacher_features is not None:
        distance = normalised_distance(features, teacher_features.detach().to(features.dtype))
        cost = cost + feature_weight * distance / distance.detach().mean().clamp_min(_TINY)
    return cost


def planned_cost(
    cost: Tensor,
    *,
    epsilon: float = 0.1,
    row_weight: Tensor | None = None,
    column_weight: Tensor | None = None,
    tol: float = 1e-3,
    max_iter: int = 100,
) -> Tensor:
    r"""``<P, M>`` with P the entropic plan of M, held fixed: gradients flow through M alone.

    The regularisation is ``epsilon`` times the mean of ``M - min M``: the shift does not change
    the plan, but would change the scale.

    Args:
        cost: M ``(n, m)``.
        epsilon: Regularisation in units of the mean shifted cost.
        row_weight: Row masses ``(n,)``, summing to one; None: uniform.
        column_weight: Column masses ``(m,)``, likewise.
        tol: Stop at this marginal residual.
        max_iter: Most iterations.

    Raises:
        ValueError: NaN or infinite costs.
    """
    if not torch.compiler.is_compiling() and not bool(cost.isfinite().all()):
        raise ValueError(
            "cost has NaN or infinite entries: student or teacher outputs are not finite "
            "(has training diverged?)"
        )
    with torch.no_grad():
        shifted = (cost - cost.min()).detach()
        plan = transport_plan_cost(
            shifted,
            epsilon=(epsilon * shifted.mean()).clamp_min(1e-6),
            x_weight=row_weight,
            y_weight=column_weight,
            tol=tol,
            max_iter=max_iter,
        )
        report_plan(plan, row_weight, column_weight)
    return (plan.to(cost.dtype) * cost).sum()


class JointAlignment(Method):
    r"""``joint_alignment``: ``CE + λ(t) <P, M>`` on unlabelled student and teacher samples.

    After JDOT (Courty et al., arXiv 1705.08848): unlabelled student samples ``x_i`` are matched
    with unpaired teacher samples ``(z_j, q_j)``, q the teacher's softmax, at once by feature
    distance and by agreement of predictions (:func:`joint_cost`), with an entropic plan P. The
    teacher-side masses of P are a class prior: no class can empty. Departures from JDOT: soft
    teacher labels, normalised features of another modality through a projector, entropic plan.

    With pairs in the batch, their distillation (KD at T = 2) and the distance between their
    normalised features are added with ``pair_weight``, and cross-entropy if they have labels.

    ``prior="teacher"``: teacher samples, drawn at the teacher's natural class frequencies, have
    equal masses. Otherwise they are weighted so that the class masses equal the prior. With
    ``placebo=True`` the permuted classes are weighted back to ``class_prior``, so the placebo
    knows the same class frequencies. A teacher sample's class is its label, or its largest
    logit where the batch has no ``unlabelled_teacher_label``.

    Terms: ``ce``, ``joint``; with pairs ``pair_kd``, ``pair_feature``, ``pair_ce``.

    Args:
        student: The model to train.
        weight: λ ≥ 0 after the ramp. Alignment can hurt a weak student; let validation choose 0.
        ramp_steps: λ(t) grows linearly from 0 over this many steps.
        epsilon: Regularisation in units of the mean shifted cost.
        feature_weight: Weight of the feature part of the cost; 0 aligns labels only.
        pair_weight: Weight of the pair terms; 0 ignores pairs.
        temperature: T of the pairs' distillation.
        prior: ``"teacher"``, ``"uniform"`` or C class frequencies of the unlabelled samples.
        projector: ``"linear"`` (default, also between equal widths), ``"auto"`` or
            ``"identity"``.
        label_smoothing: Smoothing of the cross-entropy on labelled samples.
        tol: Stop the plan at this marginal residual.
        max_iter: Most iterations of the plan.
        **options: The options of :class:`ucmkd.methods.Method`.

    Raises:
        ValueError: A negative weight, an unknown prior, or a wrong option of the base class.
    """

    name: ClassVar[str] = "joint_alignment"
    needs_teacher = True
    needs_unlabelled = True

    mass: Tensor | None

    def __init__(
        self,
        student: Student,
        *,
        weight: float = 1.0,
        ramp_steps: int = 150,
        epsilon: float = 0.1,
        feature_weight: float = 1.0,
        pair_weight: float = 1.0,
        temperature: float = 2.0,
        prior: str | Sequence[float] | Tensor = "teacher",
        projector: str = "linear",
        label_smoothing: float = 0.1,
        tol: float = 1e-3,
        max_iter: int = 100,
        **options: Any,
    ) -> None:
        super().__init__(student, label_smoothing=label_smoothing, **options)
        checks.number("weight", weight)
        checks.integer("ramp_steps", ramp_steps)
        checks.number("feature_weight", feature_weight)
        checks.number("pair_weight", pair_weight)
        checks.number("temperature", temperature, strict=True)
        self.weight = weight
        self.ramp_steps = ramp_steps
        self.feature_weight = feature_weight
        self.pair_weight = pair_weight
        self.temperature = temperature
        self.solver = checks.solver(epsilon=epsilon, tol=tol, max_iter=max_iter)
        self.uses_pairs = pair_weight > 0
        self.requires = ("unlabelled", "unlabelled_teacher_logits")
        if feature_weight:
            self.requires += ("unlabelled_teacher_feature",)
        natural = isinstance(prior, str) and prior == "teacher" and self.permutation is None
        mass = None if natural else target_prior(prior, self.class_prior, self.num_classes)
        self.register_buffer("mass", mass)
        self.projector = make_projector(student.width, self.teacher_width, projector)

    def weights(self, step: int) -> dict[str, float]:
        """``joint`` is ramped; the pair terms are not."""
        return {
            "ce": 1.0,
            "joint": self.weight * ramp(step, self.ramp_steps),
            "pair_kd": self.pair_weight,
            "pair_feature": self.pair_weight,
            "pair_ce": self.pair_weight,
        }

    def terms(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """``{"ce", "joint"}`` and, with pairs, ``{"pair_kd", "pair_feature", "pair_ce"}``."""
        assert batch.unlabelled is not None and batch.unlabelled_teacher_logits is not None
        inputs = [batch.student, batch.unlabelled]
        if self.uses_pairs and batch.paired is not None and len(batch.paired):
            inputs.append(batch.paired)
        # One pass for all: cheaper, and batch statistics see the labelled and the unlabelled.
        features, logits = self.student.outputs(torch.cat(inputs))
        sizes = [len(x) for x in inputs]
        feature, logit = features.split(sizes), logits.split(sizes)

        q = batch.unlabelled_teacher_logits.softmax(dim=-1)
        column = None
        if self.mass is not None:
            label = batch.unlabelled_teacher_label
            label = q.argmax(dim=-1) if label is None else label
            column = class_weights(label, self.mass).to(logits.dtype)
        cost = joint_cost(
            self.projector(feature[1]),
            logit[1],
            batch.unlabelled_teacher_feature,
            q,
            feature_weight=self.feature_weight,
        )
        terms = {
            "ce": self.cross_entropy(logit[0], batch.student_label),
            "joint": planned_cost(cost, column_weight=column, **self.solver),
        }
        if len(inputs) == 3:
            terms.update(self.pair_terms(feature[2], logit[2], batch))
        return terms

    def pair_terms(self, features: Tensor, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Distillation and feature matching on the pairs, row by row."""
        terms: dict[str, Tensor] = {}
        if batch.paired_teacher_logits is not None:
            terms["pair_kd"] = pair_kd(
                logits, batch.paired_teacher_logits, temperature=self.temperature
            )
        if self.feature_weight and batch.paired_teacher_feature is not None:
            teacher = F.normalize(batch.paired_teacher_feature.detach(), dim=-1)
            gap = F.normalize(self.projector(features), dim=-1) - teacher.to(features.dtype)
            terms["pair_feature"] = gap.square().sum(-1).clamp_min(_TINY).sqrt().mean()
        if batch.paired_label is not None:
            terms["pair_ce"] = self.cross_entropy(logits, batch.paired_label)
        return terms
