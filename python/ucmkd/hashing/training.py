"""Training of hash functions from pairs; a killed run goes on where its last checkpoint is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ucmkd.checkpoint import Checkpointer, CheckpointError
from ucmkd.data.loaders import PairedLoader
from ucmkd.hashing.cmimh import CMIMH
from ucmkd.methods import checks


@dataclass(frozen=True)
class HashTraining:
    """How to train.

    Attributes:
        steps: Of Adam.
        batch_size: Pairs of a step; the bounds of the information cannot exceed its logarithm.
        lr: Learning rate.
        weight_decay: Of Adam, decoupled.
        seed: Of batches and drawn bits.
        save_every: Steps between checkpoints.
    """

    steps: int = 1000
    batch_size: int = 256
    lr: float = 1e-3
    weight_decay: float = 1e-4
    seed: int = 0
    save_every: int = 200

    def __post_init__(self) -> None:
        for name in ("steps", "save_every"):
            checks.integer(name, getattr(self, name), minimum=1)
        checks.integer("batch_size", self.batch_size, minimum=2)
        checks.integer("seed", self.seed)
        checks.number("lr", self.lr, strict=True)
        checks.number("weight_decay", self.weight_decay)


def fit(
    model: CMIMH,
    x: Tensor,
    y: Tensor,
    training: HashTraining | None = None,
    *,
    folder: Path | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> CMIMH:
    """Train ``model`` on pairs, in place.

    With a ``folder``, checkpoints are kept there and the last one is gone on from; the result is
    that of a run that was never stopped, bit by bit.

    Args:
        model: Freshly made (a checkpoint replaces its weights).
        x: ``(n, x_features)``, standardised.
        y: ``(n, y_features)``; row i is the same sample.
        training: How; None: the defaults.
        folder: For checkpoints; None: none are written.
        progress: Called with the number of steps made and the loss of the last.

    Returns:
        ``model``.

    Raises:
        TypeError: Inputs that are not floating tensors.
        ValueError: Inputs of other shapes, rows that are no pairs, NaN or infinite inputs.
        CheckpointError: A checkpoint of other data, another model or other options, of more steps
            than asked for, or a damaged one.
    """
    training = training or HashTraining()
    _check(model, x, y)
    loader = PairedLoader({"x": x, "y": y}, training.batch_size, training.seed)
    generator = torch.Generator().manual_seed(training.seed)
    adam = torch.optim.AdamW(model.parameters(), lr=training.lr, weight_decay=training.weight_decay)
    keeper = None if folder is None else Checkpointer(folder)
    identity, start = _identity(model, x, y, training), 0
    if keeper is not None and (state := keeper.load(("step", "identity"))) is not None:
        if state["identity"] != identity:
            raise CheckpointError(
                f"checkpoint {keeper.current} is of other data, another model or other options; "
                "delete it or name another folder"
            )
        start = state["step"]
        if start > training.steps:
            raise CheckpointError(
                f"checkpoint {keeper.current} is {start} steps old, steps is {training.steps}; "
                "delete it or name another folder"
            )
        model.load_state_dict(state["model"])
        adam.load_state_dict(state["optimizer"])
        loader.load_state_dict(state["loader"])
        generator.set_state(state["generator"])
    model.train()
    for step in range(start, training.steps):
        batch = next(loader)
        loss = model.loss(batch["x"], batch["y"], generator)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        done = step + 1
        if keeper is not None and (done % training.save_every == 0 or done == training.steps):
            keeper.save(
                {"step": done, "identity": identity, "model": model.state_dict(),
                 "optimizer": adam.state_dict(), "loader": loader.state_dict(),
                 "generator": generator.get_state()}
            )  # fmt: skip
        if progress is not None:
            progress(done, float(loss.detach()))
    return model.eval()


def _check(model: CMIMH, x: Tensor, y: Tensor) -> None:
    for name, value in (("x", x), ("y", y)):
        model.check(name, value)
        if not bool(value.isfinite().all()):
            raise ValueError(f"{name} must be finite, got NaN or infinite entries")
    if len(x) != len(y):
        raise ValueError(f"x and y must be pairs, got {len(x)} and {len(y)} rows")


def _identity(model: CMIMH, x: Tensor, y: Tensor, training: HashTraining) -> str:
    """What a checkpoint belongs to; the number of steps may grow, and checkpoints move."""
    options = {k: v for k, v in asdict(training).items() if k not in ("steps", "save_every")}
    text = f"{model}, {model.cross}, {model.gap}, {options}"
    digest = hashlib.sha256(text.encode())
    for value in (x, y):
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
