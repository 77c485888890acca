"""MSD: a multimodal student learns what its teacher says of every modality by itself, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ucmkd.diagnostics import collecting, report
from ucmkd.losses import kd_loss
from ucmkd.losses._common import wide
from ucmkd.methods import checks
from ucmkd.methods.base import Batch, Method
from ucmkd.methods.lookahead import weight_gradient
from ucmkd.methods.modalities import alone, checked, without
from ucmkd.models import Student

WEIGHTINGS = ("uniform", "population", "instance", "meta")


def modality_losses(logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """``T² KL(t(x_i^m) || s(x_i^m))`` of every modality and sample; ``(M, p)``.

    Args:
        logits: Of the student with all modalities but m masked, ``(M, p, C)``.
        teacher_logits: Of the teacher, likewise; detached.
        temperature: T > 0.
    """
    m, p, _ = logits.shape
    rows = (logits.flatten(0, 1), teacher_logits.flatten(0, 1))
    return kd_loss(*rows, temperature=temperature, reduction="none").reshape(m, p)


def saliency(teacher_logits: Tensor, without_logits: Tensor) -> Tensor:
    """``KL(t(x_i) || t(x_i^{-m}))``: how much the teacher's word changes without m; ``(M, p)``.

    Args:
        teacher_logits: Of the whole inputs ``(p, C)``.
        without_logits: Of the inputs with modality m masked ``(M, p, C)``.
    """
    whole, masked = (wide(z).log_softmax(-1) for z in (teacher_logits, without_logits))
    return F.kl_div(masked, whole.expand_as(masked), reduction="none", log_target=True).sum(-1)


def shares(values: Tensor) -> Tensor:
    """``v_m / Σ_k v_k`` over the first dimension; ``1/M`` each where all are zero."""
    values = wide(values)
    total = values.sum(0, keepdim=True)
    return torch.where(total > 0, values / total.clamp_min(1e-30), 1 / len(values))


class MSD(Method):
    r"""``msd``: ``(1 - λ) CE + λ KD + μ Σ_m w_m`` :func:`modality_losses`.

    Jin et al., "MSD: saliency-aware knowledge distillation for multimodal understanding", Findings
    of EMNLP 2021 (arXiv 2101.01881). A *reconstruction*: no code is published, and the forms of
    the saliency and of the meta-learning are ours. Teacher and student see the same modalities;
    ``x^m`` has all but m masked, that is zero. The weights of a sample add up to one:

    - ``uniform``: 1/M;
    - ``population``: in proportion to the mean :func:`saliency` of all samples so far;
    - ``instance``: in proportion to the sample's own saliency;
    - ``meta``: ``softmax(v)``. One gradient step of the student is looked ahead that sees the
      labels of half of the batch, and v descends the cross-entropy of the other half behind it
      (:func:`ucmkd.methods.lookahead.weight_gradient`). So these are held out of the step alone,
      not of the training, as the few labels are wanted there.

    The divergences are on the pairs, which need no labels: here the student's unlabelled samples.

    Terms: ``ce``, ``kd``, ``modality``, for ``meta`` also ``meta`` (whose value means nothing, but
    whose gradient is v's); with labelled pairs ``pair_ce``.

    Args:
        student: The model to train, on inputs ``(n, d)`` of all modalities.
        modalities: Columns of each modality in the student's inputs, d in all.
        teacher_modalities: The same of the teacher's; names must agree.
        weighting: ``uniform``, ``population``, ``instance`` or ``meta``.
        alpha: λ in [0, 1).
        weight: μ ≥ 0.
        temperature: T > 0 of all divergences.
        lookahead: Length of the step for ``meta``, > 0.
        meta_speed: v is this times its parameter, so that it is learned this much faster, > 0.
        **options: The options of :class:`ucmkd.methods.Method`; ``teacher_head`` is all of the
            teacher, ``(n, d_T)`` inputs to logits.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: An option out of range; a side with one modality, or other modalities.
    """

    name: ClassVar[str] = "msd"
    paired = True
    uses_pairs = True
    needs_teacher = True
    needs_head = True
    teacher_inputs = True
    requires = ("paired", "paired_teacher_feature")

    salient: Tensor

    def __init__(
        self,
        student: Student,
        *,
        modalities: Mapping[str, int] | None = None,
        teacher_modalities: Mapping[str, int] | None = None,
        weighting: str = "instance",
        alpha: float = 0.5,
        weight: float = 0.5,
        temperature: float = 2.0,
        lookahead: float = 0.01,
        meta_speed: float = 10.0,
        **options: Any,
    ) -> None:
        super().__init__(student, **options)
        checks.choice("weighting", weighting, WEIGHTINGS)
        checks.number("alpha", alpha, below=1.0)
        checks.number("weight", weight)
        for name, value in (
            ("temperature", temperature), ("lookahead", lookahead), ("meta_speed", meta_speed),
        ):  # fmt: skip
            checks.number(name, value, strict=True)
        self.modalities = checked(self.name, "modalities", modalities)
        self.others = checked(
            self.name, "teacher_modalities", teacher_modalities, self.teacher_width
        )
        if list(self.modalities) != list(self.others):
            raise ValueError(
                f"modalities and teacher_modalities must have the same names in the same order, "
                f"got {list(self.modalities)} and {list(self.others)}"
            )
        self.weighting, self.alpha, self.weight = weighting, alpha, weight
        self.temperature, self.lookahead, self.meta_speed = temperature, lookahead, meta_speed
        count = len(self.modalities)
        self.register_buffer("salient", torch.zeros(count))
        self.preference = nn.Parameter(torch.zeros(count)) if weighting == "meta" else None

    def weights(self, step: int) -> dict[str, float]:
        """``ce`` and ``pair_ce`` 1 - λ, ``kd`` λ, ``modality`` μ, ``meta`` 1."""
        ce = 1.0 - self.alpha
        return {"ce": ce, "kd": self.alpha, "modality": self.weight, "meta": 1.0, "pair_ce": ce}

    @torch.no_grad()
    def modality_weights(self, inputs: Tensor) -> Tensor:
        """``w_m`` of teacher inputs ``(p, d_T)``, each column adding up to one; ``(M, p)``."""
        assert self.teacher_head is not None
        count, p = len(self.modalities), len(inputs)
        if self.preference is not None:
            return (self.meta_speed * self.preference).softmax(0)[:, None].expand(count, p)
        if self.weighting == "uniform":
            return inputs.new_full((count, p), 1 / count)
        masked = self._teacher(without(inputs, self.others))
        found = saliency(self.head_logits(inputs), masked)
        if self.weighting == "instance":
            return shares(found)
        if self.training:
            self.salient += found.sum(1)
        return shares(self.salient)[:, None].expand(count, p)

    def _teacher(self, inputs: Tensor) -> Tensor:
        """Logits ``(M, p, C)`` of ``(M, p, d_T)``."""
        return self.head_logits(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])

    def terms(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """``{"ce", "kd", "modality"}``, for ``meta`` also ``"meta"``; see the class."""
        inputs = batch.paired_teacher_feature
        assert inputs is not None and batch.paired is not None
        if batch.paired.shape[1] != sum(self.modalities.values()):
            raise ValueError(
                f"modalities must have {batch.paired.shape[1]} columns in all, as the student's "
                f"inputs have; got {dict(self.modalities)}"
            )
        with torch.no_grad():
            whole, masked = self.head_logits(inputs), self._teacher(alone(inputs, self.others))
        own = alone(batch.paired, self.modalities)
        n, p = len(batch.student), len(inputs)
        rows = torch.cat((batch.student, batch.paired, own.flatten(0, 1)))
        known, pairs, parts = self.student(rows).split((n, p, len(own) * p))
        each = modality_losses(
            parts.unflatten(0, own.shape[:2]), masked, temperature=self.temperature
        )
        weights = self.modality_weights(inputs)
        if collecting():
            for name, value in zip(self.modalities, weights.mean(1), strict=True):
                report(f"modality_weight/{name}", value)
        terms = {
            "ce": self.cross_entropy(known, batch.student_label),
            "kd": kd_loss(pairs, whole, temperature=self.temperature),
            "modality": (weights * each).sum(0).mean(),
        }
        if batch.paired_label is not None:
            terms["pair_ce"] = self.cross_entropy(pairs, batch.paired_label)
        if self.preference is not None:
            half = n // 2
            label = batch.student_label
            base = {**terms, "ce": self.cross_entropy(known[: half or n], label[: half or n])}
            terms["meta"] = self._meta(base, each.mean(1), batch.student[half:], label[half:])
        return terms

    def _meta(self, base: dict[str, Tensor], each: Tensor, inputs: Tensor, label: Tensor) -> Tensor:
        """A scalar with the gradient of the held-out cross-entropy for ``preference``."""
        assert self.preference is not None
        current = (self.meta_speed * self.preference).softmax(0)
        if not torch.is_grad_enabled():
            return current.sum() * 0
        factor = self.weights(0)
        slope = weight_gradient(
            self.student,
            torch.stack([factor[k] * v for k, v in base.items() if k != "modality"]).sum(),
            [self.weight * value for value in each],
            current.detach(),
            lambda predict: self.cross_entropy(predict(inputs), label),
            step=self.lookahead,
        )
        return (current * slope).sum()
