"""The interface of every distillation method: a batch in, named losses out.

A method owns the student and whatever must be trained beside it (a projector); the trainer only
ever calls :meth:`Method.backward` and :meth:`Method.predict`, so a new method needs no change
anywhere else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ucmkd.losses._common import wide
from ucmkd.methods import checks
from ucmkd.methods.observed import report_gradients
from ucmkd.methods.parts import checked_counts, checked_prior
from ucmkd.methods.placebo import derangement, permute_columns
from ucmkd.models import Student, head_module


@dataclass(frozen=True)
class Batch:
    """What one training step sees; every tensor on the same device.

    Attributes:
        student: Labelled student inputs ``(n, ...)``.
        student_label: Their classes ``(n,)``, int64.
        teacher_feature: Features ``(m, d_T)`` of the frozen teacher, on samples from its own
            loader: row i of the teacher has nothing to do with row i of the student.
        teacher_logits: Logits ``(m, C)`` of the same samples.
        teacher_label: Classes ``(m,)`` of the same samples, int64 as all labels.
        teacher_input: The same samples themselves, ``(m, ...)``, for a method that trains a model
            of its own on them.
        unlabelled: Student inputs ``(u, ...)`` without labels.
        unlabelled_teacher_feature: Features ``(v, d_T)`` of a second draw of the teacher, at the
            teacher's natural class frequencies, to be aligned with ``unlabelled``.
        unlabelled_teacher_logits: Logits ``(v, C)`` of that draw.
        unlabelled_teacher_label: Classes ``(v,)`` of that draw.
        paired: Student inputs ``(p, ...)`` that were measured in the teacher's modality too.
        paired_teacher_feature: Features ``(p, d_T)`` of the teacher on the same samples, row by
            row.
        paired_teacher_logits: Logits ``(p, C)`` of the teacher on the same samples.
        paired_label: Classes ``(p,)``, or None for unlabelled pairs.
        unlabelled_group: Groups ``(u,)`` of ``unlabelled``, int64; -1 where they are not known.
        unlabelled_teacher_group: Groups ``(v,)`` of the teacher's second draw; equal numbers mean
            the same subject, session or the like.
    """

    student: Tensor
    student_label: Tensor
    teacher_feature: Tensor | None = None
    teacher_logits: Tensor | None = None
    teacher_label: Tensor | None = None
    unlabelled: Tensor | None = None
    unlabelled_teacher_feature: Tensor | None = None
    unlabelled_teacher_logits: Tensor | None = None
    unlabelled_teacher_label: Tensor | None = None
    paired: Tensor | None = None
    paired_teacher_feature: Tensor | None = None
    paired_teacher_logits: Tensor | None = None
    paired_label: Tensor | None = None
    unlabelled_group: Tensor | None = None
    unlabelled_teacher_group: Tensor | None = None
    teacher_input: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: t.to(device) for k, t in given.items() if t is not None})


#: The fields of a batch whose rows are the same samples.
_ROWS = (
    ("student", "student_label"),
    ("teacher_feature", "teacher_logits", "teacher_label", "teacher_input"),
    ("unlabelled", "unlabelled_group"),
    (
        "unlabelled_teacher_feature", "unlabelled_teacher_logits", "unlabelled_teacher_label",
        "unlabelled_teacher_group",
    ),
    ("paired", "paired_teacher_feature", "paired_teacher_logits", "paired_label"),
)  # fmt: skip


class Method(nn.Module):
    """A student in training under one rule.

    Subclasses implement :meth:`terms` and :meth:`weights`. What must be trained besides the
    student is a submodule made in ``__init__``, so :meth:`trainable` is complete before the
    optimiser is built.

    Attributes tell the trainer what to draw: ``needs_teacher`` (a trained teacher, and a draw of
    it in each batch), ``needs_unlabelled`` (unlabelled student inputs; with ``needs_teacher``
    also the teacher's second draw, the ``unlabelled_teacher_`` fields), ``paired`` (pairs are
    needed), ``uses_pairs`` (pairs are used where the batch has them), ``class_matched`` (the
    labelled student batch and the teacher batch have the same class counts), ``needs_prior``
    (``class_prior`` must be given), ``needs_counts`` (``label_counts`` must be given),
    ``needs_head`` (``teacher_head`` must be given), ``needs_stages`` (``paired_teacher_feature``
    is all of the teacher's stages side by side, not its features alone), ``needs_peer`` (``peer``
    must be given, and each batch has ``teacher_input``), ``whole_teacher`` (the teacher's second
    draw is all of its samples, in their order), ``uses_groups`` (where groups are known, the
    unlabelled samples and the teacher's second draw are of the same ones), ``teacher_inputs`` (in
    the place of the teacher's features stand its inputs, and ``teacher_head`` is all of the
    teacher). Read them
    from the instance: some depend on options. ``requires`` lists the fields of :class:`Batch`
    without which a step fails, ``late_buffers`` buffers (vectors) that a training makes in its
    first step, so that a fresh method does not have them and a checkpoint does.

    With ``placebo=True`` the teacher's class names are permuted by a fixed permutation without
    fixed points, consistently in its labels, the columns of its logits and its head's outputs.
    ``class_prior`` is not permuted and methods keep it as the class masses they use, so only the
    teacher's knowledge becomes wrong, not the class frequencies: a gain that the placebo shares
    did not come from what the teacher knows.

    Args:
        student: The model to train.
        num_classes: Number of classes C.
        teacher_head: The teacher's head, features ``(n, d_T)`` to logits ``(n, C)``, or the
            whole teacher as a :class:`ucmkd.models.Student`. Kept, as a frozen copy in eval
            mode, only by methods with ``needs_head``.
        teacher_width: Number d_T of teacher features. Default: the student's width.
        class_prior: The teacher's class frequencies ``(C,)``; normalised to sum to one.
        label_counts: Numbers ``(C,)`` of labelled student samples per class. Kept only by methods
            with ``needs_counts``.
        peer: An untrained model of the teacher's modality, inputs ``(m, ...)`` to logits
            ``(m, C)``. Trained along by methods with ``needs_peer``; others leave it alone.
        label_smoothing: Smoothing of the cross-entropy on labelled samples, in [0, 1).
        placebo: Permute the teacher's classes (a control, see above).
        placebo_seed: Which permutation.

    Raises:
        TypeError: ``student`` or ``peer`` is no :class:`ucmkd.models.Student`, ``teacher_head`` no
            module, or an option of the wrong type.
        ValueError: An argument that the method needs is missing or out of range.
    """

    name: ClassVar[str] = ""
    paired: bool = False
    uses_pairs: bool = False
    needs_teacher: bool = False
    needs_head: bool = False
    needs_stages: bool = False
    needs_prior: bool = False
    needs_counts: bool = False
    needs_peer: bool = False
    needs_unlabelled: bool = False
    class_matched: bool = False
    whole_teacher: bool = False
    uses_groups: bool = False
    teacher_inputs: bool = False
    requires: tuple[str, ...] = ()
    late_buffers: tuple[str, ...] = ()
    #: The terms that learn from the student's own labels; all others align it with something.
    supervised: tuple[str, ...] = ("ce", "pair_ce")

    class_prior: Tensor | None
    label_counts: Tensor | None
    permutation: Tensor | None

    def __init__(
        self,
        student: Student,
        *,
        num_classes: int,
        teacher_head: nn.Module | None = None,
        teacher_width: int | None = None,
        class_prior: Tensor | None = None,
        label_counts: Tensor | None = None,
        peer: Student | None = None,
        label_smoothing: float = 0.0,
        placebo: bool = False,
        placebo_seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(student, Student):
            raise TypeError(
                f"student must be a ucmkd.models.Student, got {type(student).__name__}: wrap it "
                "as SplitModel(encoder, head) or HookedModel(module, layer, example)"
            )
        checks.integer("num_classes", num_classes, minimum=2)
        checks.number("label_smoothing", label_smoothing, below=1.0)
        checks.flag("placebo", placebo)
        checks.integer("placebo_seed", placebo_seed)
        if teacher_width is not None:
            checks.integer("teacher_width", teacher_width, minimum=1)
        if teacher_head is not None and not isinstance(teacher_head, nn.Module):
            raise TypeError(
                "teacher_head must be a torch.nn.Module (features to logits) or a whole "
                f"ucmkd.models.Student, got {type(teacher_head).__name__}"
            )
        if peer is not None and not isinstance(peer, Student):
            raise TypeError(f"peer must be a ucmkd.models.Student, got {type(peer).__name__}")
        for role, model in (("student", student), ("peer", peer)):
            outputs = None if model is None else getattr(head_module(model), "out_features", None)
            if outputs not in (None, num_classes):
                raise ValueError(
                    f"num_classes is {num_classes}, but the {role}'s head has {outputs} outputs; "
                    "they must agree"
                )
        if self.needs_prior and class_prior is None:
            raise ValueError(f"{self.name} needs class_prior, the teacher's class frequencies (C,)")
        if self.needs_counts and label_counts is None:
            raise ValueError(f"{self.name} needs label_counts, the labelled samples per class (C,)")
        if self.needs_head and teacher_head is None:
            raise ValueError(f"{self.name} needs teacher_head, the head of the trained teacher")
        if self.needs_peer and peer is None:
            raise ValueError(f"{self.name} needs peer, an untrained model of the other modality")
        self.student = student
        self.num_classes = num_classes
        self.teacher_width = student.width if teacher_width is None else teacher_width
        self.label_smoothing = label_smoothing
        self.register_buffer(
            "class_prior", None if class_prior is None else checked_prior(class_prior, num_classes)
        )
        counts = None if label_counts is None else checked_counts(label_counts, num_classes)
        self.register_buffer("label_counts", counts if self.needs_counts else None)
        self.register_buffer(
            "permutation", derangement(num_classes, placebo_seed) if placebo else None
        )
        self.teacher_head: nn.Module | None = None
        if self.needs_head and teacher_head is not None:
            head = teacher_head
            if isinstance(head, Student) and not self.teacher_inputs:
                head = head_module(head)
            self._check_head(head)
            # A copy: the caller's teacher keeps its own flags, and no step can reach it.
            self.teacher_head = copy.deepcopy(head).requires_grad_(False).eval()

    def _check_head(self, head: nn.Module) -> None:
        if not isinstance(head, nn.Linear):
            return  # its sizes cannot be read off; the logits are checked at the first step
        wanted = (self.teacher_width, self.num_classes)
        if (head.in_features, head.out_features) != wanted:
            raise ValueError(
                f"teacher_head must map teacher_width = {wanted[0]} features to num_classes = "
                f"{wanted[1]} logits, got {head.in_features} to {head.out_features}"
            )

    # What a method defines -----------------------------------------------------------------

    def terms(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The named, unweighted terms for a batch that is complete and (if asked) permuted."""
        raise NotImplementedError

    def weights(self, step: int) -> dict[str, float]:
        """The weight of every term at this step (ramps), for all terms it may return."""
        return {"ce": 1.0}

    # What the trainer calls ----------------------------------------------------------------

    def losses(self, batch: Batch, step: int = 0) -> dict[str, Tensor]:
        """The named, unweighted terms; ``"ce"`` is always among them.

        Raises:
            ValueError: The batch lacks something that the method needs, or has wrong shapes,
                numbers of rows that do not agree, or labels that are no classes.
        """
        return self.terms(self.prepare(batch), step)

    def total(self, terms: dict[str, Tensor], step: int) -> Tensor:
        """The weighted sum of the terms. A term of weight 0 is left out, not multiplied by 0."""
        weights = self.weights(step)
        weighted = [weights[k] * v for k, v in terms.items() if weights[k] != 0.0]
        return torch.stack(weighted).sum()

    def backward(
        self, batch: Batch, step: int, backward: Callable[[Tensor], None] | None = None
    ) -> dict[str, Tensor]:
        """Fill the gradients of this step; returns the unweighted terms, detached.

        Args:
            batch: The step's batch.
            step: Number of the step, from 0.
            backward: What to call on the loss; ``Tensor.backward`` by default, Fabric's
                ``backward`` in the trainer.
        """
        terms = self.losses(batch, step)
        (backward or Tensor.backward)(self.total(terms, step))
        return {name: value.detach() for name, value in terms.items()}

    def diagnostics(self, batch: Batch, step: int) -> None:
        """Report to :mod:`ucmkd.diagnostics` what the step on this batch looks like from inside.

        Here: one more forward pass, in which methods with a transport report ``plan/entropy``
        and ``plan/residual``, then the cosine between the gradients of the cross-entropy and of
        the weighted alignment terms on the student's parameters, at the current parameters
        (:func:`ucmkd.methods.observed.report_gradients`). Without an alignment term of positive
        weight there is nothing to tell, and nothing is computed.

        No ``.grad`` is touched. What else a forward pass changes (random generators, buffers, the
        extra state of a module) the trainer puts back; a method that keeps any other state
        overrides this.
        """
        if not any(w for name, w in self.weights(step).items() if name not in self.supervised):
            return
        terms = self.losses(batch, step)
        parameters = [p for p in self.student.parameters() if p.requires_grad]
        # The forward pass may run in low precision; a backward pass must not be autocast again.
        with torch.autocast(batch.student.device.type, enabled=False):
            report_gradients(terms, self.weights(step), self.supervised, parameters)

    def predict(self, inputs: Tensor) -> Tensor:
        """Logits ``(n, C)`` at test time."""
        return self.student(inputs)

    def to_teacher(self, features: Tensor) -> Tensor | None:
        """Student features ``(n, width)`` in the teacher's feature space ``(n, d_T)``.

        What a certificate (:mod:`ucmkd.certified`) compares with the teacher's features. Here: the
        method's ``projector``; None for a method that compares features nowhere, cuts the wider
        ones, or compares directions alone, so that the scale means nothing.
        """
        projector = getattr(self, "projector", None)
        if not isinstance(projector, nn.Module):
            return None
        moved: Tensor = projector(features)
        return moved if moved.shape[-1] == self.teacher_width else None

    def joint_teacher(self) -> Student | None:
        """The teacher as this training has left it; None for a method that leaves it as it was."""
        return None

    def deployed(self) -> Student:
        """The model that predicts alone what :meth:`predict` does; the student, mostly itself."""
        return self.student

    def forward(self, inputs: Tensor) -> Tensor:
        """The same as :meth:`predict`."""
        return self.predict(inputs)

    def trainable(self) -> list[nn.Parameter]:
        """The parameters for the optimiser: the student's and the method's own."""
        return [p for p in self.parameters() if p.requires_grad]

    def train(self, mode: bool = True) -> Method:
        """As ``nn.Module.train``; the teacher's head stays in eval mode."""
        super().train(mode)
        if self.teacher_head is not None:
            self.teacher_head.eval()
        return self

    # Shared parts --------------------------------------------------------------------------

    def prepare(self, batch: Batch) -> Batch:
        """Check that the batch has what the method needs; permute the classes of a placebo.

        What comes of the teacher is detached: it is frozen, also where the caller's has a graph.
        """
        missing = [name for name in self.requires if getattr(batch, name) is None]
        if missing:
            raise ValueError(f"{self.name} needs {', '.join(missing)} in the batch")
        self._check_shapes(batch)
        for group in _ROWS:
            checks.rows({name: getattr(batch, name) for name in group})
        teacher = {
            f.name: value.detach()
            for f in fields(batch)
            if "teacher" in f.name and (value := getattr(batch, f.name)) is not None
        }
        batch = replace(batch, **teacher)
        if self.permutation is None:
            return batch
        changed: dict[str, Tensor] = {}
        for prefix in ("", "unlabelled_", "paired_"):
            logits = getattr(batch, f"{prefix}teacher_logits")
            if logits is not None:
                changed[f"{prefix}teacher_logits"] = permute_columns(logits, self.permutation)
        for name in ("teacher_label", "unlabelled_teacher_label"):
            label = getattr(batch, name)
            if label is not None:
                changed[name] = self.permutation[label]
        return replace(batch, **changed)

    def _check_shapes(self, batch: Batch) -> None:
        checks.labels("student_label", batch.student_label, self.num_classes)
        for prefix in ("", "unlabelled_", "paired_"):
            feature = getattr(batch, f"{prefix}teacher_feature")
            if feature is not None and self.needs_teacher:
                checks.width(f"{prefix}teacher_feature", feature, self.teacher_width)
            logits = getattr(batch, f"{prefix}teacher_logits")
            if logits is not None:
                checks.logits(f"{prefix}teacher_logits", logits, self.num_classes)
        for name in ("teacher_label", "unlabelled_teacher_label", "paired_label"):
            label = getattr(batch, name)
            if label is not None:
                checks.labels(name, label, self.num_classes)

    def head_logits(self, features: Tensor) -> Tensor:
        """Logits ``(n, C)`` of the frozen teacher head; gradients flow to ``features``."""
        assert self.teacher_head is not None
        logits = self.teacher_head(features)
        checks.logits("the logits of teacher_head", logits, self.num_classes)
        return logits if self.permutation is None else permute_columns(logits, self.permutation)

    def cross_entropy(self, logits: Tensor, label: Tensor) -> Tensor:
        """Cross-entropy with this method's label smoothing, averaged over the samples."""
        checks.logits("the student's logits", logits, self.num_classes)
        return F.cross_entropy(wide(logits), label, label_smoothing=self.label_smoothing)
