"""The one loop of all trainings of coherence, with checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from ucmkd.checkpoint import Checkpointer, random_state, set_random_state
from ucmkd.coherence.config import CoherenceTraining
from ucmkd.coherence.models import Towers
from ucmkd.coherence.stretches import Stretches
from ucmkd.identity import refuse_other


def descend(
    nets: list[nn.Module] | list[Towers],
    loss_of: Callable[[int], tuple[int, Tensor]],
    total: int,
    lr: float,
    training: CoherenceTraining,
    data: Stretches,
    folder: Path | None,
    kind: str = "",
) -> list[float]:
    """Steps of Adam, each on the network that the loss names; taken up where a kill came.

    Args:
        nets: What is trained.
        loss_of: From a step to the number of a network and its loss.
        total: Number of steps.
        lr: Of Adam.
        training: The other numbers.
        data: What the losses are of.
        folder: Of checkpoints; None: none.
        kind: What else a checkpoint must agree in.

    Raises:
        CheckpointError: A checkpoint of another training, or of other data.
    """
    optimizers = [
        torch.optim.Adam(net.parameters(), lr=lr, weight_decay=training.weight_decay)
        for net in nets
    ]
    checkpointer = None if folder is None else Checkpointer(folder)
    identity = {"data": data.identity(), "setting": repr((asdict(training), total, lr, kind))}
    losses: list[float] = []
    state = None if checkpointer is None else checkpointer.load((*identity, "nets", "losses"))
    if state is not None:
        refuse_other(state, identity, folder)
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
                {**identity, "nets": saved, "losses": losses, "random": random_state()}
            )
    for net in nets:
        net.eval()
    return losses
