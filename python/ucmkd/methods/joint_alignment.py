"""Joint alignment: unlabelled student samples meet teacher samples, in features and in labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ucmkd.losses._common import wide
from ucmkd.methods import checks
from ucmkd.methods.base import Batch, Method
from ucmkd.methods.correspondence import correspondence
from ucmkd.methods.joint_cost import joint_cost
from ucmkd.methods.parts import class_weights, make_projector, ramp, target_prior
from ucmkd.methods.planned import planned
from ucmkd.methods.pool_prior import estimated, is_estimated, pool_prior
from ucmkd.methods.profile import profile_cost
from ucmkd.methods.vanilla_kd import pair_kd
from ucmkd.models import Student, head_module

_TINY = 1e-12


class JointAlignment(Method):
    r"""``joint_alignment``: ``CE + λ(t) <P, M>`` on unlabelled student and teacher samples.

    After JDOT (Courty et al., arXiv 1705.08848): unlabelled student samples ``x_i`` are matched
    with unpaired teacher samples ``(z_j, q_j)``, q the teacher's softmax, at once by feature
    distance and by agreement of predictions (:func:`joint_cost`), with an entropic plan P. The
    teacher-side masses of P are a class prior: no class can empty. Departures from JDOT: soft
    teacher labels, normalised features of another modality through a projector, entropic plan.

    With pairs in the batch, their distillation (KD at T = 2) and the distance between their
    normalised features are added with ``pair_weight``, and cross-entropy if they have labels.
    With ``anchor`` they enter the transport too, fixed: being matched with anything but its
    partner costs a paired sample ``anchor`` mean costs, so that the unpaired rest has the rest of
    the teacher's samples to itself. Groups (``unlabelled_group``, ``unlabelled_teacher_group`` in
    the batch: the same patient group, speaker, recording, time window) act alike, but a sample
    may be matched with all of its group and with those of unknown group
    (:func:`ucmkd.methods.correspondence.correspondence`). The teacher's samples of a group weigh
    as much as the student's of the same group in the batch, whatever the class prior. So one
    method covers no pairs, a few, all, and everything in between.

    The teacher's samples of a minibatch are weighted so that the class masses equal the prior in
    each step, not only on average (``prior="teacher"``: the teacher's frequencies; equal masses if
    they are not known). With ``placebo=True`` it is the permuted classes that are weighted so: the
    placebo knows the same class frequencies. A teacher sample's class is its label, or its largest
    logit where the batch has no ``unlabelled_teacher_label``.

    Terms: ``ce``, ``joint``; with pairs ``pair_kd``, ``pair_feature``, ``pair_ce``.

    Args:
        student: The model to train.
        weight: λ ≥ 0 after the ramp. Alignment can hurt a weak student; let validation choose 0.
        ramp_steps: λ(t) grows linearly from 0 over this many steps.
        epsilon: Regularisation in units of the mean shifted cost.
        feature_weight: Weight of the feature part of the cost; 0 aligns labels only.
        profile_weight: Weight, in the cost, of how differently the two stand among the class means
            of their own modality (:func:`ucmkd.methods.profile.profile_cost`).
        teacher_temperature: The teacher's soft labels are ``softmax(logits / T)``: it is too sure
            of the samples that it was trained on.
        pair_weight: Weight of the pair terms; 0 ignores pairs.
        anchor: What it costs, in mean shifted costs, to match across known pairs and groups; 0
            leaves the transport without them.
        reach: What it costs, per mass and in mean shifted costs, to leave a sample unmatched
            (unbalanced transport: a class or region that the other side lacks need not be
            matched); None: everything is matched.
        bank: Align with all of the teacher's samples in every step, warm-started from the step
            before, in the place of a minibatch of them.
        head_init: Start the student's head as a copy of the teacher's (two linear heads of one
            shape; the placebo's with its classes permuted).
        temperature: T of the pairs' distillation.
        prior: ``"teacher"``, ``"uniform"``, ``"estimated"`` (from the student's own logits:
            :class:`ucmkd.methods.pool_prior.PoolPrior`) or C class frequencies of the unlabelled
            samples.
        projector: ``"linear"`` (default, also between equal widths), ``"auto"`` or
            ``"identity"``.
        estimate_steps: Steps of cross-entropy alone, before the ramp, after which
            ``prior="estimated"`` is estimated once.
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
    late_buffers = ("start",)

    mass: Tensor | None
    start: Tensor | None  # potentials of the bank's samples after the last step

    def __init__(
        self,
        student: Student,
        *,
        weight: float = 1.0,
        ramp_steps: int = 150,
        epsilon: float = 0.1,
        feature_weight: float = 1.0,
        profile_weight: float = 0.0,
        teacher_temperature: float = 1.0,
        pair_weight: float = 1.0,
        anchor: float = 10.0,
        reach: float | None = None,
        bank: bool = False,
        head_init: bool = False,
        temperature: float = 2.0,
        prior: str | Sequence[float] | Tensor = "teacher",
        projector: str = "linear",
        estimate_steps: int = 150,
        label_smoothing: float = 0.1,
        tol: float = 1e-3,
        max_iter: int = 100,
        **options: Any,
    ) -> None:
        checks.flag("bank", bank)
        checks.flag("head_init", head_init)
        self.whole_teacher = bank
        self.needs_head = head_init
        self.needs_counts = is_estimated(prior)
        super().__init__(student, label_smoothing=label_smoothing, **options)
        checks.number("weight", weight)
        checks.number("anchor", anchor)
        if reach is not None:
            checks.number("reach", reach, strict=True)
        checks.integer("ramp_steps", ramp_steps)
        checks.number("feature_weight", feature_weight)
        checks.number("profile_weight", profile_weight)
        checks.number("teacher_temperature", teacher_temperature, strict=True)
        checks.number("pair_weight", pair_weight)
        checks.number("temperature", temperature, strict=True)
        self.weight = weight
        self.ramp_steps = ramp_steps
        self.feature_weight = feature_weight
        self.profile_weight = profile_weight
        self.teacher_temperature = teacher_temperature
        self.pair_weight = pair_weight
        self.anchor = anchor
        self.temperature = temperature
        self.solver = checks.solver(epsilon=epsilon, tol=tol, max_iter=max_iter)
        self.solver["reach"] = reach
        self.uses_pairs = pair_weight > 0
        self.uses_groups = anchor > 0 and not bank  # the bank has all groups anyway
        self.requires = ("unlabelled", "unlabelled_teacher_logits")
        if feature_weight or profile_weight:
            self.requires += ("unlabelled_teacher_feature",)
        unknown = isinstance(prior, str) and prior == "teacher" and self.class_prior is None
        natural = unknown and self.permutation is None
        self.pool_prior, self.estimate_steps, prior = pool_prior(self, prior, estimate_steps)
        mass = None if natural else target_prior(prior, self.class_prior, self.num_classes)
        self.register_buffer("mass", mass)
        self.projector = make_projector(student.width, self.teacher_width, projector)
        self.register_buffer("start", None)
        if head_init:
            self.copy_head()

    def to_teacher(self, features: Tensor) -> Tensor | None:
        """None: the projector is asked for directions alone."""
        return None

    def weights(self, step: int) -> dict[str, float]:
        """``joint`` is ramped; the pair terms are not."""
        return {
            "ce": 1.0,
            "joint": self.weight * ramp(step - self.estimate_steps, self.ramp_steps),
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
        if self.pool_prior is not None and self.training:
            assert self.mass is not None
            self.mass = estimated(self.pool_prior, logit[1], self.mass, step, self.estimate_steps)

        terms = {
            "ce": self.cross_entropy(logit[0], batch.student_label),
            "joint": self.joint_term(batch, feature, logit[1:]),
        }
        if len(inputs) == 3:
            terms.update(self.pair_terms(feature[2], logit[2], batch))
        return terms

    def joint_term(
        self, batch: Batch, features: Sequence[Tensor], logits: Sequence[Tensor]
    ) -> Tensor:
        """``<P, M>`` of the unlabelled samples and, anchored, of the pairs behind them.

        Args:
            batch: Has the teacher's side.
            features: Student features of the labelled and of the unlabelled samples, and of the
                pairs if there are.
            logits: Student logits of the latter two.
        """
        labelled, *features = features
        assert batch.unlabelled_teacher_logits is not None
        teacher, teacher_logits = batch.unlabelled_teacher_feature, batch.unlabelled_teacher_logits
        n, m, p = len(features[0]), len(teacher_logits), 0
        if len(features) == 2 and self.anchor:
            paired = batch.paired_teacher_feature, batch.paired_teacher_logits
            if paired[1] is not None and (paired[0] is not None or teacher is None):
                p = len(features[1])
                teacher_logits = torch.cat((teacher_logits, paired[1]))
                if teacher is not None:
                    assert paired[0] is not None
                    teacher = torch.cat((teacher, paired[0]))
        own_side = slice(None) if p else slice(1)
        own, q = torch.cat(features[own_side]), self.soft_labels(teacher_logits)
        cost = joint_cost(
            self.projector(own),
            torch.cat(tuple(logits[own_side])),
            teacher,
            q,
            feature_weight=self.feature_weight,
        )
        if self.profile_weight:
            assert teacher is not None
            profile = profile_cost(own, labelled, batch.student_label, teacher, q)
            cost = cost + self.profile_weight * profile / profile.detach().mean().clamp_min(_TINY)
        penalty, column = None, self.column_weight(batch)
        groups = batch.unlabelled_group, batch.unlabelled_teacher_group
        if self.anchor and (p or None not in groups):
            known = correspondence(
                n, m, pairs=p, row_group=groups[0], column_group=groups[1], device=cost.device
            )
            penalty = self.anchor * known.penalty()
            base = torch.ones_like(wide(teacher_logits)[:, 0])
            if column is not None:  # a group has a composition of its own
                base[:m] = torch.where(known.column[:m] == 0, column.to(base.dtype), base[:m])
            column = known.column_weight(base)
        start = self.start
        if start is not None and p:
            start = torch.cat((start, start.new_zeros(p)))  # other pairs in every step
        found = planned(cost, penalty=penalty, column_weight=column, start=start, **self.solver)
        if self.whole_teacher:
            self.start = found.start[:m]
        return found.value

    def soft_labels(self, teacher_logits: Tensor) -> Tensor:
        """The teacher's probabilities ``(v, C)`` at ``teacher_temperature``."""
        return (wide(teacher_logits) / self.teacher_temperature).softmax(dim=-1)

    def column_weight(self, batch: Batch) -> Tensor | None:
        """Masses ``(v,)`` of the teacher's samples under the prior; None: equal."""
        if self.mass is None:
            return None
        logits, label = batch.unlabelled_teacher_logits, batch.unlabelled_teacher_label
        assert logits is not None
        label = logits.argmax(dim=-1) if label is None else label
        return class_weights(label, self.mass)

    def pair_terms(self, features: Tensor, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Distillation and feature matching on the pairs, row by row."""
        terms: dict[str, Tensor] = {}
        if batch.paired_teacher_logits is not None:
            terms["pair_kd"] = pair_kd(
                logits, batch.paired_teacher_logits, temperature=self.temperature
            )
        if self.feature_weight and batch.paired_teacher_feature is not None:
            teacher = F.normalize(wide(batch.paired_teacher_feature.detach()), dim=-1)
            own = wide(self.projector(features))
            gap = F.normalize(own, dim=-1) - teacher.to(own.dtype)
            terms["pair_feature"] = gap.square().sum(-1).clamp_min(_TINY).sqrt().mean()
        if batch.paired_label is not None:
            terms["pair_ce"] = self.cross_entropy(logits, batch.paired_label)
        return terms

    def copy_head(self) -> None:
        """Give the student's head the teacher's weights.

        Raises:
            ValueError: The heads are not linear layers of one shape.
        """
        own, teacher = head_module(self.student), self.teacher_head
        linear = isinstance(own, nn.Linear) and isinstance(teacher, nn.Linear)
        if not linear or own.weight.shape != teacher.weight.shape:  # type: ignore[union-attr]
            raise ValueError(
                "head_init=True needs linear heads of one shape: student "
                f"{own if own is not None else 'without head'}, teacher {teacher}"
            )
        for mine, given in zip(own.parameters(), teacher.parameters(), strict=True):  # type: ignore[union-attr]
            value = given.detach().clone()
            if self.permutation is not None:
                value = value[torch.argsort(self.permutation)]
            with torch.no_grad():
                mine.copy_(value)

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        # The bank's size is known from the first step on only.
        stored = state.get(f"{prefix}start")
        self.start = None if stored is None else torch.empty_like(stored)
        super()._load_from_state_dict(state, prefix, *rest)
