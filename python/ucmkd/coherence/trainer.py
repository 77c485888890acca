"""Training of coherence: towers, each modality alone, then alternating rounds with guidance."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from ucmkd.coherence.config import CoherenceTraining
from ucmkd.coherence.descent import descend
from ucmkd.coherence.evaluation import GUIDANCE, order_logits
from ucmkd.coherence.models import Towers, alignment_loss
from ucmkd.coherence.orders import order_loss
from ucmkd.coherence.stretches import Stretches
from ucmkd.ops import _check as check
from ucmkd.step_random import generator_of


def train_towers(
    towers: Towers, data: Stretches, training: CoherenceTraining, *, folder: Path | None = None
) -> list[float]:
    """Align windows of the same time; returns the losses. See :func:`.alignment_loss`.

    Args:
        towers: Windows of both modalities to similarities.
        data: To train on.
        training: Numbers.
        folder: Of checkpoints; None: none.

    Raises:
        CheckpointError: A checkpoint of another training, or of other data.
    """

    def loss(step: int) -> Tensor:
        batch = data.draw(training.batch, generator_of(training.seed, step, 1))
        return alignment_loss(towers(batch.guide, batch.student), batch.partner())

    total = training.steps
    return descend(
        [towers], lambda step: (0, loss(step)), total, training.lr, training, data, folder
    )


def train_alone(
    net: nn.Module,
    side: str,
    data: Stretches,
    training: CoherenceTraining,
    *,
    folder: Path | None = None,
) -> list[float]:
    """Order windows of one modality without the other; returns the losses.

    Args:
        net: Windows to order logits, see :class:`.OrderNet`.
        side: ``"student"`` or ``"guide"``.
        data: To train on.
        training: Numbers.
        folder: Of checkpoints; None: none.

    Raises:
        ValueError: Another side.
        CheckpointError: A checkpoint of another training, or of other data.
    """
    check.one_of(side, ("student", "guide"), "side")

    def loss(step: int) -> Tensor:
        batch = data.draw(training.batch, generator_of(training.seed, step, 2))
        return order_loss(net(getattr(batch, side)), getattr(batch, f"{side}_position"))

    total = training.steps
    return descend([net], lambda step: (0, loss(step)), total, training.lr, training, data, folder)


def train_rounds(
    student: nn.Module,
    guide: nn.Module,
    towers: Towers,
    data: Stretches,
    training: CoherenceTraining,
    *,
    guidance: str = "learned",
    folder: Path | None = None,
) -> list[float]:
    """Alternate: the student with the guide's sure decisions, then the guide with the student's.

    Whoever gives guidance is in eval mode. Returns the losses of all steps.

    Args:
        student: Trained alone before.
        guide: Trained alone before.
        towers: Trained before.
        data: To train on.
        training: Numbers; the learning rate is half of what it says.
        guidance: One of :data:`GUIDANCE`.
        folder: Of checkpoints; None: none.

    Raises:
        ValueError: Another guidance.
        CheckpointError: A checkpoint of another training, or of other data.
    """
    check.one_of(guidance, GUIDANCE, "guidance")
    towers.eval()
    nets, length = [student, guide], training.round_steps

    def loss(step: int) -> tuple[int, Tensor]:
        turn = step // length % 2
        nets[turn].train()
        nets[1 - turn].eval()
        batch = data.draw(training.batch, generator_of(training.seed, step, 3))
        logits = order_logits(
            student, guide, towers, batch, training, guidance=guidance, backwards=turn == 1
        )
        return turn, order_loss(logits, batch.guide_position if turn else batch.student_position)

    total = 2 * training.rounds * length
    return descend(nets, loss, total, training.lr / 2, training, data, folder, guidance)
