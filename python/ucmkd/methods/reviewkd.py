"""ReviewKD: every stage of the teacher is imitated by the student's stages from there on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ucmkd.methods import checks
from ucmkd.methods.base import Batch
from ucmkd.methods.pairs import PairMethod
from ucmkd.methods.parts import ramp
from ucmkd.methods.review_fusion import AttentionFusion, hierarchical_context_loss
from ucmkd.models import Student


class ReviewKD(PairMethod):
    r"""``reviewkd``: ``CE + λ`` :math:`\sum_j` hierarchical context loss of fused stages, on pairs.

    Chen, Liu, Zhao and Jia 2021 (arXiv 2104.09044), equations 5 to 7: from the deepest stage up,
    each stage of the student is fused with the deeper ones by attention
    (:class:`~ucmkd.methods.review_fusion.AttentionFusion`) and compared with the teacher's stage of
    that depth (:func:`~ucmkd.methods.review_fusion.hierarchical_context_loss`). The stages are
    those of :meth:`ucmkd.models.Student.stages`: the two hidden layers of the perceptron. Where
    one side has more, its deepest ones are used.

    Departures: stages may be vectors, for which the loss is a mean square and a convolution a
    linear layer; no batch normalisation in the fusion, since a batch has few pairs.

    Terms: ``ce``, ``review``; with labelled pairs ``pair_ce`` (weight 1). Only features are
    compared, so that a placebo's permuted class names change nothing.

    Args:
        student: The model to train.
        teacher_stages: Shapes of the teacher's stages without the batch, first to last; in
            ``paired_teacher_feature`` they lie side by side, flattened. None: the teacher's
            features are its only stage. (The trainer supplies them.)
        weight: λ ≥ 0; .6 to 8 in the paper.
        ramp_steps: λ grows linearly over this many steps; the paper's code does so for 20 epochs.
        mid: Width of the fusion; None: the channels of the student's deepest stage, at most 512.
        **options: The options of :class:`ucmkd.methods.Method`.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: An option out of range, or maps on one side where the other has vectors.
    """

    name: ClassVar[str] = "reviewkd"
    needs_stages = True
    requires: tuple[str, ...] = ("paired", "paired_teacher_feature")

    def __init__(
        self,
        student: Student,
        *,
        teacher_stages: Sequence[Sequence[int]] | None = None,
        weight: float = 1.0,
        ramp_steps: int = 0,
        mid: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(student, **options)
        checks.number("weight", weight)
        checks.integer("ramp_steps", ramp_steps)
        self.weight, self.ramp_steps = weight, ramp_steps
        given = [(self.teacher_width,)] if teacher_stages is None else teacher_stages
        if not given:
            raise ValueError("teacher_stages must hold at least one shape, got none")
        self.teacher_stages = [tuple(shape) for shape in given]
        self.sizes = [math.prod(shape) for shape in self.teacher_stages]
        own = student.stage_shapes
        self.count = min(len(own), len(self.teacher_stages))
        pairs = list(zip(own[-self.count :], self.teacher_stages[-self.count :], strict=True))
        if len({len(shape) for pair in pairs for shape in pair}) > 1:
            raise ValueError(
                "teacher_stages must be maps where the student's are, and vectors where they are: "
                f"student {list(own)}, teacher {self.teacher_stages}"
            )
        if mid is None:
            mid = min(512, own[-1][0])
        checks.integer("mid", mid, minimum=1)
        self.fusions = nn.ModuleList(
            AttentionFusion(
                mine[0], mid, theirs[0], maps=len(mine) == 3, deepest=k == self.count - 1
            )
            for k, (mine, theirs) in enumerate(pairs)
        )

    def weights(self, step: int) -> dict[str, float]:
        """``{"ce": 1, "review": ramped weight, "pair_ce": 1}``."""
        return {"ce": 1.0, "review": self.weight * ramp(step, self.ramp_steps), "pair_ce": 1.0}

    def review(self, stages: Sequence[Tensor], teacher: Tensor) -> Tensor:
        """The loss of the student's stages; ``teacher`` has all of its own side by side."""
        loss, deeper = teacher.new_zeros(()), None
        parts = teacher.split(self.sizes, dim=1)[-self.count :]
        shapes = self.teacher_stages[-self.count :]
        for k in reversed(range(self.count)):
            target = parts[k].unflatten(1, shapes[k])
            fused, deeper = self.fusions[k](stages[k - self.count], deeper, target.shape[2:])
            loss = loss + hierarchical_context_loss(fused, target)
        return loss

    def _check_shapes(self, batch: Batch) -> None:
        stages = batch.paired_teacher_feature
        assert stages is not None
        if stages.ndim != 2 or stages.shape[1] != sum(self.sizes):
            raise ValueError(
                f"paired_teacher_feature must have shape (p, {sum(self.sizes)}), all of "
                f"teacher_stages {self.teacher_stages} side by side, got {tuple(stages.shape)}"
            )
        super()._check_shapes(replace(batch, paired_teacher_feature=None))

    def terms(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """``{"ce", "review"}`` and, with labelled pairs, ``"pair_ce"``."""
        assert batch.paired is not None and batch.paired_teacher_feature is not None
        n = len(batch.student)
        stages, logits = self.student.stages(torch.cat((batch.student, batch.paired)))
        terms = {
            "ce": self.cross_entropy(logits[:n], batch.student_label),
            "review": self.review([x[n:] for x in stages], batch.paired_teacher_feature),
        }
        if batch.paired_label is not None:
            terms["pair_ce"] = self.cross_entropy(logits[n:], batch.paired_label)
        return terms
