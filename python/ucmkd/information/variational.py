"""MINE, NWJ, InfoNCE and SMILE: a trained critic, valued on samples it has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ucmkd.information import critics
from ucmkd.information.held_out import HeldOut, halves, over_halves
from ucmkd.information.intervals import Rows
from ucmkd.information.training import Progress, Training, fit, isolated, network_input, perceptron
from ucmkd.information.variables import Array, Variable

#: Most held-out rows that are scored against each other.
SCORED_ROWS = 2000
Objective = Callable[[Tensor], Tensor]


class Critic(nn.Module):
    """``T(x, y) = g(x)·h(y)/√e + a(x) + b(y)``: every pair of a batch at the cost of its rows."""

    def __init__(self, x_width: int, y_width: int, training: Training) -> None:
        super().__init__()
        self.scale = 1.0 / math.sqrt(training.embedding)
        self.g = perceptron(x_width, training.width, training.embedding + 1)
        self.h = perceptron(y_width, training.width, training.embedding + 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores ``(n, m)`` of all pairs of rows."""
        g, h = self.g(x), self.h(y)
        product = self.scale * g[:, 1:] @ h[:, 1:].T
        return product + g[:, :1] + h[:, :1].T


def variational(
    x: Variable,
    y: Variable,
    *,
    method: str,
    training: Training,
    seed: int,
    progress: Progress | None = None,
) -> HeldOut:
    """Train a critic on each half of the samples and value the bound on the other half.

    Args:
        x: ``(n, d_x)`` or classes.
        y: ``(n, d_y)`` or classes.
        method: ``"mine"``, ``"nwj"``, ``"infonce"`` or ``"smile"``.
        training: The settings.
        seed: Of the halves, the weights and the batches.
        progress: Called with (done, of) steps.
    """
    a, b = network_input(x), network_input(y)
    parts = halves(len(a), seed)
    estimates: list[Callable[[Rows], float]] = []
    bound = objective_of(method, training)[1]
    for number in (0, 1):
        train, test = parts[1 - number], parts[number]
        done = number * training.steps

        def report(step: int, most: int, done: int = done) -> None:
            if progress is not None:
                progress(done + step, 2 * most)

        scores = _train(a, b, train, test, method, training, seed + number, report)
        estimates.append(_evaluation(scores, bound))
    if progress is not None:
        progress(2 * training.steps, 2 * training.steps)
    evaluate = over_halves(parts, estimates, len(a))
    value = evaluate(np.arange(len(a)))
    return HeldOut(evaluate, len(a), saturation(method, value, min(len(a) // 2, SCORED_ROWS)))


def saturation(method: str, value: float, rows: int) -> tuple[str, ...]:
    """Where the bound cannot reach, or can only with enormous variance, the value it reports.

    Source: log n for InfoNCE: van den Oord et al. 2018; for any lower bound by sampling:
    McAllester and Stratos 2020 (arXiv 1811.04251), theorem 1.
    """
    limit = math.log(rows)
    if method == "infonce" and value > 0.75 * limit:
        return (f"saturated: InfoNCE cannot report more than log {rows} = {limit:.2f} nats",)
    if method in ("mine", "nwj") and value > 0.75 * limit:
        return (
            f"saturated: {rows} held-out samples cannot confirm much more than log {rows} = "
            f"{limit:.2f} nats",
        )
    return ()


def objective_of(method: str, training: Training) -> tuple[Objective, Objective]:
    """What the critic maximises in training, and the bound that is reported."""

    def clipped(scores: Tensor) -> Tensor:
        return critics.smile(scores, clip=training.clip)

    if method == "mine":
        return critics.MovingDenominator(), critics.donsker_varadhan
    if method == "nwj":
        return critics.nwj, critics.nwj
    if method == "infonce":
        return critics.infonce, critics.infonce
    return critics.jensen_shannon, clipped


def _train(
    a: Array, b: Array, train: Rows, test: Rows, method: str, training: Training, seed: int,
    report: Progress,
) -> Tensor:  # fmt: skip
    """Held-out scores ``(n_test, n_test)`` by a critic trained on ``train``."""
    x, y = (torch.from_numpy(np.ascontiguousarray(side)).float() for side in (a, b))
    generator = torch.Generator().manual_seed(seed)
    order = torch.from_numpy(train)[torch.randperm(len(train), generator=generator)]
    count = max(2, round(training.validation * len(order)))
    held, used = order[:count], order[count:]
    objective, bound = objective_of(method, training)
    # MINE's surrogate and SMILE's value say nothing about the fit; those below do.
    judge = critics.jensen_shannon if method == "smile" else bound
    with isolated(seed):
        critic = Critic(x.shape[1], y.shape[1], training)

        def loss(rows: Tensor) -> Tensor:
            return -objective(critic(x[used[rows]], y[used[rows]]))

        def validate() -> Tensor:
            return -judge(critic(x[held], y[held]))

        fit(critic, loss, validate, len(used), training, generator, report)
    rows = torch.from_numpy(test)[:SCORED_ROWS]
    with torch.no_grad():
        scores: Tensor = critic(x[rows], y[rows])
    return scores


def _evaluation(scores: Tensor, bound: Objective) -> Callable[[Rows], float]:
    def estimate(rows: Rows) -> float:
        chosen = torch.from_numpy(rows[rows < len(scores)])
        return float(bound(scores[chosen][:, chosen].double()))

    return estimate
