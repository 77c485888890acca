"""Order logits with guidance, and how well they order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ucmkd.coherence.config import CoherenceTraining
from ucmkd.coherence.guidance import best_match, guided_logits
from ucmkd.coherence.models import Towers
from ucmkd.coherence.orders import exact_match, kendall_tau, most_probable_order
from ucmkd.coherence.stretches import Sets, Stretches
from ucmkd.ops import _check as check

GUIDANCE = ("none", "learned", "gold", "permuted")
"""Where guidance goes: nowhere; by the towers' similarity; to the windows of the same time; by the
towers' similarity too, but the guide is another recording's (a control)."""


class Scores(NamedTuple):
    """On stretches: means of Kendall's τ and of exact matches, and the share of right pairs."""

    tau: float
    exact: float
    pairs: float


def order_logits(
    student: nn.Module,
    guide: nn.Module,
    towers: Towers,
    batch: Sets,
    training: CoherenceTraining,
    *,
    guidance: str,
    backwards: bool = False,
) -> Tensor:
    """The student's order logits with guidance, ``(B, n, n, 2)``.

    Args:
        student: Windows to order logits.
        guide: The same of the other modality.
        towers: Windows of both to similarities, see :class:`.Towers`.
        batch: Windows of both modalities.
        training: Thresholds and weights of guidance.
        guidance: One of :data:`GUIDANCE`.
        backwards: The guide's logits instead, with the student's guidance.

    Raises:
        ValueError: ``guidance`` is none of :data:`GUIDANCE`.
    """
    check.one_of(guidance, GUIDANCE, "guidance")
    own, other = (batch.guide, batch.student) if backwards else (batch.student, batch.guide)
    net, giver = (guide, student) if backwards else (student, guide)
    logits: Tensor = net(own)
    if guidance == "none":
        return logits
    if guidance == "permuted":
        other = other.roll(1, dims=0)
    with torch.no_grad():
        if guidance == "gold":
            partner = batch.partner()
            match = partner.argsort(dim=1) if backwards else partner
        else:
            similarity = towers(own, other).mT if backwards else towers(other, own)
            match = best_match(similarity)
        given = giver(other)
    return guided_logits(
        logits, given, match,
        threshold=training.student_threshold if backwards else training.guide_threshold,
        weight=training.student_weight if backwards else training.guide_weight,
    )  # fmt: skip


@torch.no_grad()
def evaluate(
    student: nn.Module,
    guide: nn.Module,
    towers: Towers,
    data: Stretches,
    training: CoherenceTraining,
    *,
    guidance: str,
    backwards: bool = False,
) -> Scores:
    """How well all stretches are ordered, in eval mode.

    Args:
        student: As in :func:`order_logits`.
        guide: As there.
        towers: As there.
        data: What is ordered, all of it.
        training: As there.
        guidance: As there.
        backwards: As there.

    Raises:
        ValueError: As there.
    """
    check.one_of(guidance, GUIDANCE, "guidance")
    for net in (student, guide, towers):
        net.eval()
    batch = data.all()
    logits = order_logits(
        student, guide, towers, batch, training, guidance=guidance, backwards=backwards
    )
    position = batch.guide_position if backwards else batch.student_position
    order = most_probable_order(logits)
    label = position[:, :, None] < position[:, None]
    apart = ~torch.eye(data.count, dtype=torch.bool)
    right = ((logits.argmax(-1) == 1) == label)[:, apart]
    return Scores(
        float(kendall_tau(order, position).mean()),
        float(exact_match(order, position).double().mean()),
        float(right.double().mean()),
    )
