"""UCMKD: feature and label alignment, bilevel or as a plain sum (arXiv 2606.10504)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ucmkd.losses import label_align
from ucmkd.losses._common import wide
from ucmkd.losses.label import CLIP, Clip, clip_range
from ucmkd.methods.alignment import make_alignment
from ucmkd.methods.base import Batch, Method
from ucmkd.methods.bilevel import Call, OuterStep
from ucmkd.methods.collapse import CollapseWarning, CollapseWatch
from ucmkd.methods.inner import InnerOptimizer
from ucmkd.methods.parts import make_projector
from ucmkd.methods.rows import Rows, has_pairs, rows_of, rows_of_pairs
from ucmkd.methods.variants import settled
from ucmkd.models import Student


class UCMKD(Method):
    r"""``ucmkd``: Universal Cross-Modal Knowledge Distillation (Tran et al., ICML 2026).

    ``variant="printed"`` is Algorithm 1. In each step, (1) copy the encoder φ and the head p_S;
    (2) ``fa_steps`` times ``φ ← φ - η λ1 ∇FA``; (3) ``la_steps`` times
    ``(φ, p_S) ← (φ, p_S) - η λ2 ∇LA``; (4) take the gradient of the cross-entropy at the copy and
    apply it to the *original* parameters (first-order MAML). ``"joint"`` is the plain sum
    ``CE + λ1 FA + λ2 LA``. ``"released"`` is Algorithm 1 as the authors' code runs it.

    FA is the entropic transport cost between student and teacher features, or their squared MMD
    (:mod:`ucmkd.methods.alignment`); LA is ``mean[-log p_S(y|φ) + κ log p_T(y|φ)]`` with the frozen
    teacher head p_T on the student's features and ``κ = p_T(y|φ)``
    (:func:`ucmkd.losses.label_align`). ``+κ log p_T`` pushes the student away from the teacher's
    score of the true class.

    :mod:`ucmkd.methods.variants` lists where that departs from the paper and which option stands
    for each departure.

    The projector, if any, does not act on the cross-entropy: in bilevel training it takes the mean
    gradient of ``λ1 FA`` and ``λ2 LA`` over the inner steps in the outer step, and stays fixed
    within.

    ``outer="second_order"`` differentiates the cross-entropy at the copy through the inner steps,
    to the original parameters: exactly, with all that the steps held fixed (κ, the mean cost in ε,
    the bandwidth) as the functions of the parameters that they are. It costs two to four times as
    much, and needs ``sharp=False``.

    With ``paired=True`` (Table 2 of the paper) the losses are the same and FA's two batches are
    the student's and the teacher's rows of the same samples: the pairs of the batch. CE and LA
    take the labelled samples, and the pairs too if they have labels. A batch without pairs is
    treated as unpaired, with one warning.

    Inner steps that collapse the student are noticed
    (:class:`ucmkd.methods.collapse.CollapseWatch`). Dropout draws a new mask in each pass, from
    torch's generator, so a seed fixes a run. Gradients of the bilevel form are written into the
    parameters' ``.grad`` directly, where the hooks of ``DistributedDataParallel`` do not see them:
    with several processes average them after :meth:`backward`, as the trainer does.

    Terms: ``ce`` (bilevel: at the adapted copy), ``fa``, ``la`` (bilevel: before the first inner
    step of its kind).

    Args:
        student: The model to train.
        variant: ``"printed"``, ``"released"`` or ``"joint"``.
        fa_weight: λ1 ≥ 0.
        la_weight: λ2 ≥ 0.
        fa_steps: n1 ≥ 0.
        la_steps: n2 ≥ 0.
        outer: ``"first_order"`` or ``"second_order"``.
        inner_optimizer: ``"sgd"`` or ``"adamw"``. This and every None below: as the variant has it.
        inner_lr: η > 0 of the inner steps: .01 (released: 1e-5).
        inner_weight_decay: Decoupled, ≥ 0: 0 (.05).
        inner_weighted: λ1 and λ2 scale the inner steps: True (False).
        la_detach_features: LA's gradient through p_S reaches the head alone: False (True).
        la_detach_teacher: LA has no gradient through p_T: False (True).
        kappa: ``"detached"``, ``"attached"`` or ``"clipped"`` (:func:`ucmkd.losses.label_align`).
        kappa_clip: (lo, hi), or hi alone, of a clipped κ.
        alignment: FA by ``"sinkhorn"`` or by ``"mmd"``.
        cost: Cost of the transport: ``"l1"``, ``"euclidean"`` (the default), ``"sqeuclidean"``,
            ``"cosine"`` (released) or ``"chordal"``.
        epsilon: Regularisation of the transport.
        epsilon_scale: ``"mean"``, None (absolute), or ``"auto"``: ``"mean"`` (None).
        sharp: ``<P, M>`` in place of the regularised value: False (True).
        tol: Stop the transport at this marginal residual.
        max_iter: Most iterations.
        bandwidth: Of the MMD: ``"median"``, ``"mean"`` or a number.
        projector: ``"auto"``, ``"linear"``, ``"identity"``
            (:func:`ucmkd.methods.parts.make_projector`) or ``"truncate"``: ``"auto"``
            (``"truncate"``).
        class_matched: Draw the teacher batch with the student batch's class counts: False (True).
        paired: Draw FA's two batches from the pairs.
        **options: The options of :class:`ucmkd.methods.Method`; ``teacher_head`` is needed.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: An option out of range, ``outer="second_order"`` with ``sharp=True``, or an
            option of the base class is wrong.
        ucmkd.trainer.TrainingError: At a step: the student's features or a loss are NaN or
            infinite.

    Warns:
        CollapseWarning: ``inner_lr`` is at least .1 (bilevel); at a step: the inner steps collapse
            the student.
        UserWarning: ``paired=True`` and a batch without pairs.
    """

    name: ClassVar[str] = "ucmkd"
    needs_teacher = True
    needs_head = True
    requires: tuple[str, ...] = ("teacher_feature",)

    def __init__(
        self,
        student: Student,
        *,
        variant: str = "printed",
        fa_weight: float = 1.0,
        la_weight: float = 1.0,
        fa_steps: int = 1,
        la_steps: int = 1,
        outer: str = "first_order",
        inner_optimizer: str | None = None,
        inner_lr: float | None = None,
        inner_weight_decay: float | None = None,
        inner_weighted: bool | None = None,
        la_detach_features: bool | None = None,
        la_detach_teacher: bool | None = None,
        kappa: str = "detached",
        kappa_clip: Clip = CLIP,
        alignment: str = "sinkhorn",
        cost: str | None = None,
        epsilon: float = 0.1,
        epsilon_scale: str | None = "auto",
        sharp: bool | None = None,
        tol: float = 1e-3,
        max_iter: int = 100,
        bandwidth: str | float = "median",
        projector: str | None = None,
        class_matched: bool | None = None,
        paired: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(student, **options)
        chosen = settled(
            variant,
            {
                "fa_weight": fa_weight,
                "la_weight": la_weight,
                "fa_steps": fa_steps,
                "la_steps": la_steps,
                "outer": outer,
                "inner_optimizer": inner_optimizer,
                "inner_lr": inner_lr,
                "inner_weight_decay": inner_weight_decay,
                "inner_weighted": inner_weighted,
                "la_detach_features": la_detach_features,
                "la_detach_teacher": la_detach_teacher,
                "kappa": kappa,
                "alignment": alignment,
                "cost": cost,
                "epsilon_scale": epsilon_scale,
                "sharp": sharp,
                "projector": projector,
                "class_matched": class_matched,
                "paired": paired,
            },
        )
        self.variant = variant
        self.outer = outer
        self.fa_weight = fa_weight
        self.la_weight = la_weight
        self.fa_steps = fa_steps
        self.la_steps = la_steps
        self.inner_optimizer: str = chosen["inner_optimizer"]
        self.inner_lr: float = chosen["inner_lr"]
        self.inner_weight_decay: float = chosen["inner_weight_decay"]
        self.inner_weighted: bool = chosen["inner_weighted"]
        self.la_detach_features: bool = chosen["la_detach_features"]
        self.la_detach_teacher: bool = chosen["la_detach_teacher"]
        self.kappa = kappa
        self.kappa_clip = clip_range(kappa_clip)
        self.align = make_alignment(
            alignment=alignment,
            bandwidth=bandwidth,
            sharp=chosen["sharp"],
            cost=chosen["cost"],
            epsilon=epsilon,
            epsilon_scale=chosen["epsilon_scale"],
            tol=tol,
            max_iter=max_iter,
        )
        # Cut to the smaller width, there is nothing that the teacher's head could be applied to.
        cut = chosen["projector"] == "truncate"
        self.headless = cut and student.width != self.teacher_width
        self.projector = (
            nn.Identity()
            if cut
            else make_projector(student.width, self.teacher_width, chosen["projector"])
        )
        self.uses_pairs = paired
        self.class_matched = chosen["class_matched"]
        if self.class_matched:
            self.requires = ("teacher_feature", "teacher_label")
        if variant != "joint" and self.inner_lr >= 0.1:
            warnings.warn(
                f"inner_lr={inner_lr}: inner steps of .1 and more can collapse the student "
                "(the default is .01)",
                CollapseWarning,
                stacklevel=2,
            )
        self._watch = CollapseWatch(self.inner_lr)
        self._missed_pairs = False
        # In a list, so that the student is not registered twice.
        self._call = [Call(student)]

    def weights(self, step: int) -> dict[str, float]:
        """``{"ce": 1, "fa": λ1, "la": λ2}``; in bilevel training λ act in the inner steps."""
        fa = self.fa_weight if self.fa_steps or self.variant == "joint" else 0.0
        la = self.la_weight if self.la_steps or self.variant == "joint" else 0.0
        return {"ce": 1.0, "fa": fa, "la": la}

    def label_term(
        self,
        logits: Tensor,
        projected: Tensor,
        label: Tensor,
        *,
        origin: Tensor | None = None,
        check_finite: bool = True,
    ) -> Tensor:
        """LA of student logits ``(n, C)`` and of the projected features ``(n, d_T)`` behind them.

        ``origin`` as in :class:`ucmkd.methods.alignment.Alignment`: κ follows it.
        """
        if self.headless:
            return F.cross_entropy(wide(logits), label)
        teacher = self.head_logits(projected)
        if self.la_detach_teacher:
            teacher = teacher.detach()
        kappa: str | Tensor = self.kappa
        if origin is not None and kappa != "attached":
            log_p = -F.cross_entropy(wide(self.head_logits(origin)), label, reduction="none")
            kappa = log_p.exp().clamp(*self.kappa_clip) if kappa == "clipped" else log_p.exp()
        return label_align(
            logits,
            teacher,
            label,
            kappa=kappa,
            kappa_clip=self.kappa_clip,
            check_finite=check_finite,
        )

    def terms(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """``{"ce", "fa", "la"}`` at the current parameters."""
        rows = self._rows(batch)
        features, logits = self.student.outputs(rows.inputs)
        logits, known = logits[rows.labelled], features[rows.labelled]
        through = self.student.head(known.detach()) if self.la_detach_features else logits
        return {
            "ce": self.cross_entropy(logits, rows.label),
            "fa": self.align(self.projector(features[rows.aligned]), rows.teacher),
            "la": self.label_term(through, self.projector(known), rows.label),
        }

    def backward(
        self, batch: Batch, step: int, backward: Callable[[Tensor], None] | None = None
    ) -> dict[str, Tensor]:
        """Fill the gradients of this step (Algorithm 1 unless ``"joint"``); returns the terms."""
        if self.variant == "joint":
            return super().backward(batch, step, backward)
        rows = self._rows(self.prepare(batch))
        optimizer = InnerOptimizer(
            self.inner_optimizer,
            lr=self.inner_lr,
            weight_decay=self.inner_weight_decay,
            differentiable=self.outer == "second_order",
        )
        outer = OuterStep(
            self._call[0], self.projector, optimizer, head_alone=self.la_detach_features
        )

        # The watch looks at everything at once, when the inner steps are done.
        def feature_term(projected: Tensor, origin: Tensor | None) -> Tensor:
            return self.align(projected, rows.teacher, origin=origin, check_finite=False)

        def label_term(logits: Tensor, projected: Tensor, origin: Tensor | None) -> Tensor:
            return self.label_term(logits, projected, rows.label, origin=origin, check_finite=False)

        labelled = rows.inputs[rows.labelled]
        outer.feature_steps(
            rows.inputs[rows.aligned],
            feature_term,
            steps=self.fa_steps,
            scale=self.fa_weight if self.inner_weighted else 1.0,
            weight=self.fa_weight,
        )
        outer.label_steps(
            labelled,
            label_term,
            steps=self.la_steps,
            scale=self.la_weight if self.inner_weighted else 1.0,
            weight=self.la_weight,
        )
        loss = outer.finish(labelled, lambda logits: self.cross_entropy(logits, rows.label))
        self._watch.look(step, outer.looks)
        (backward or Tensor.backward)(loss)
        outer.hand_over()
        return {"ce": outer.terms.pop("ce"), **outer.terms}

    def _rows(self, batch: Batch) -> Rows:
        if not self.uses_pairs:
            return rows_of(batch)
        if has_pairs(batch):
            return rows_of_pairs(batch)
        if not self._missed_pairs:
            self._missed_pairs = True
            warnings.warn(
                "paired=True, but the batch has no pairs: unpaired batches are aligned. Give "
                "pairs (data.pairs in a recipe)",
                stacklevel=4,
            )
        return rows_of(batch)
