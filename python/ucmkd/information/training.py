"""Training of small networks with early stopping, for the neural estimators."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ucmkd.information.variables import Array, Variable
from ucmkd.theory.gaussian import checks

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Training:
    """How the networks of the neural estimators are trained.

    Attributes:
        width: Of the two hidden layers.
        steps: Most steps per half of the data.
        batch: Pairs per step.
        learning_rate: Of Adam.
        weight_decay: Of AdamW.
        check_every: Steps between validations.
        patience: Validations without improvement before training stops.
        validation: Share of the training half that early stopping looks at.
        embedding: Width of the two embeddings whose products are the critic.
        latent: Dimensions of each latent representation.
        dropout: Of the autoencoders, in training only.
        clip: τ of ``"smile"``.

    Raises:
        TypeError: A setting that is no number, or no integer where a count is asked for.
        ValueError: One outside its range.
    """

    width: int = 128
    steps: int = 1500
    batch: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    check_every: int = 25
    patience: int = 12
    validation: float = 0.2
    embedding: int = 32
    latent: int = 8
    dropout: float = 0.1
    clip: float = 5.0

    def __post_init__(self) -> None:
        for name in ("width", "steps", "check_every", "patience", "embedding", "latent"):
            checks.count(name, getattr(self, name), 1)
        checks.count("batch", self.batch, 2)
        for name in ("learning_rate", "weight_decay", "validation", "dropout", "clip"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float | np.number):
                raise TypeError(f"{name} must be a number, got {type(value).__name__}")
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}")
        if not self.weight_decay >= 0.0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay!r}")
        if not 0.0 < self.validation < 1.0:
            raise ValueError(f"validation must lie in (0, 1), got {self.validation!r}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout!r}")


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Seed torch inside, leave its generator as it was, and compute on one thread.

    For networks of this size a second thread costs more than it brings, and the results would
    depend on how many there are.
    """
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def perceptron(inputs: int, width: int, outputs: int, *, dropout: float = 0.0) -> nn.Sequential:
    """Two hidden layers with GELU."""
    layers: list[nn.Module] = []
    for size in (inputs, width):
        layers += [nn.Linear(size, width), nn.GELU()]
        if dropout > 0.0:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def fit(
    model: nn.Module,
    loss: Callable[[Tensor], Tensor],
    validate: Callable[[], Tensor],
    rows: int,
    training: Training,
    generator: torch.Generator,
    report: Progress | None = None,
) -> float:
    """Train in place; at the end the model has the weights of its best validation.

    Args:
        model: Its parameters are trained; in eval mode for ``validate`` and afterwards.
        loss: From row numbers ``(batch,)`` of the training set to a scalar.
        validate: The loss on the validation set, called without gradients.
        rows: Number of training rows.
        training: The settings.
        generator: Draws the batches.
        report: Called with (step, most steps).

    Returns:
        The best validation loss.
    """
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    best, best_weights, waited = float("inf"), copy.deepcopy(model.state_dict()), 0
    for step in range(1, training.steps + 1):
        model.train()
        batch = torch.randperm(rows, generator=generator)[: training.batch]
        value = loss(batch)
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        if step % training.check_every == 0 or step == training.steps:
            model.eval()
            with torch.no_grad():
                found = float(validate())
            if found < best:
                best, best_weights, waited = found, copy.deepcopy(model.state_dict()), 0
            else:
                waited += 1
            if report is not None:
                report(step, training.steps)
            if waited >= training.patience:
                break
    model.load_state_dict(best_weights)
    model.eval()
    return best


def network_input(side: Variable) -> Array:
    """Float columns: classes as indicators of variance 1."""
    if not side.discrete:
        return side.values
    codes = side.values[:, 0].astype(int)
    table = torch.nn.functional.one_hot(torch.from_numpy(codes)).double()
    table = table - table.mean(dim=0)
    return (table / table.std(dim=0).clamp_min(1e-12)).numpy()
