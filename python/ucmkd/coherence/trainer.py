"""Training of coherence: towers, each modality alone, then alternating rounds with guidance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ucmkd.checkpoint import Checkpointer, CheckpointError, random_state, set_random_state
from ucmkd.coherence.guidance import best_match, guided_logits
from ucmkd.coherence.models import Towers, alignment_loss
from ucmkd.coherence.orders import exact_match, kendall_tau, most_probable_order, order_loss
from ucmkd.coherence.stretches import Sets, Stretches
from ucmkd.ops import _check as check
from ucmkd.step_random import generator_of

GUIDANCE = ("none", "learned", "gold", "permuted")
"""Where guidance goes: nowhere; by the towers' similarity; to the windows of the same time; by the
towers' similarity too, but the guide is another recording's (a control)."""


@dataclass(frozen=True)
class CoherenceTraining:
    """Numbers of a training; those of guidance are the released code's.

    Attributes:
        steps: Of the towers, and of each network alone.
        rounds: Each trains the student, then the guide.
        round_steps: Of one network in a round.
        batch: Stretches per step.
        lr: Of Adam before the rounds, and half of it in them.
        weight_decay: Of Adam.
        guide_threshold: A decision of the guide counts above this probability.
        guide_weight: Of the guide's logits.
        student_threshold: The same for the way back.
        student_weight: Of the student's logits on the way back.
        seed: Of the batches.
        save_every: Steps between checkpoints.

    Raises:
        ValueError: A number out of range.
    """

    steps: int = 300
    rounds: int = 5
    round_steps: int = 60
    batch: int = 64
    lr: float = 1e-3
    weight_decay: float = 1e-5
    guide_threshold: float = 0.8
    guide_weight: float = 1.0
    student_threshold: float = 0.9
    student_weight: float = 0.25
    seed: int = 0
    save_every: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "rounds", "round_steps", "batch", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1; got {getattr(self, name)}")
        for name in ("guide_threshold", "student_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1]; got {getattr(self, name)}")
        for name in ("guide_weight", "student_weight", "weight_decay", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be >= 0; got {getattr(self, name)}")
        if not self.lr > 0:
            raise ValueError(f"lr must be > 0; got {self.lr}")


class Scores(NamedTuple):
    """On stretches: means of Kendall's τ and of exact matches, and the share of right pairs."""

    tau: float
    exact: float
    pairs: float


def train_towers(
    towers: Towers, data: Stretches, training: CoherenceTraining, *, folder: Path | None = None
) -> list[float]:
    """Align windows of the same time; returns the losses. See :func:`.alignment_loss`."""

    def loss(step: int) -> Tensor:
        batch = data.draw(training.batch, generator_of(training.seed, step, 1))
        return alignment_loss(towers(batch.guide, batch.student), batch.partner())

    total = training.steps
    return _run([towers], lambda step: (0, loss(step)), total, training.lr, training, folder)


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
        CheckpointError: A checkpoint of another training.
    """
    check.one_of(side, ("student", "guide"), "side")

    def loss(step: int) -> Tensor:
        batch = data.draw(training.batch, generator_of(training.seed, step, 2))
        return order_loss(net(getattr(batch, side)), getattr(batch, f"{side}_position"))

    total = training.steps
    return _run([net], lambda step: (0, loss(step)), total, training.lr, training, folder)


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
        CheckpointError: A checkpoint of another training.
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
    return _run(nets, loss, total, training.lr / 2, training, folder, guidance)


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
    """The student's order logits with guidance; ``backwards``: the guide's, with the student's.

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
    """How well all stretches are ordered; arguments as in :func:`order_logits`."""
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


def _run(
    nets: list[nn.Module] | list[Towers],
    loss_of: Callable[[int], tuple[int, Tensor]],
    total: int,
    lr: float,
    training: CoherenceTraining,
    folder: Path | None,
    kind: str = "",
) -> list[float]:
    """Steps of Adam, each on the network that the loss names; taken up where a kill came."""
    optimizers = [
        torch.optim.Adam(net.parameters(), lr=lr, weight_decay=training.weight_decay)
        for net in nets
    ]
    checkpointer = None if folder is None else Checkpointer(folder)
    setting = repr((asdict(training), total, lr, kind))
    losses: list[float] = []
    state = None if checkpointer is None else checkpointer.load(("setting", "nets", "losses"))
    if state is not None:
        if state["setting"] != setting:
            raise CheckpointError(
                f"checkpoint in {folder} is of another training ({state['setting']}), not of this "
                f"one ({setting}); choose another folder or delete that one"
            )
        for net, optimizer, saved in zip(nets, optimizers, state["nets"], strict=True):
            net.load_state_dict(saved["weights"])
            optimizer.load_state_dict(saved["optimizer"])
        set_random_state(state["random"])
        losses = state["losses"]
    for net in nets:
        net.train()
    for step in range(len(losses), total):
        which, loss = loss_of(step)
        optimizers[which].zero_grad(set_to_none=True)
        loss.backward()
        optimizers[which].step()
        losses.append(loss.item())
        done = len(losses)
        if checkpointer is not None and (done % training.save_every == 0 or done == total):
            saved = [
                {"weights": net.state_dict(), "optimizer": optimizer.state_dict()}
                for net, optimizer in zip(nets, optimizers, strict=True)
            ]
            checkpointer.save(
                {"setting": setting, "nets": saved, "losses": losses, "random": random_state()}
            )
    for net in nets:
        net.eval()
    return losses
