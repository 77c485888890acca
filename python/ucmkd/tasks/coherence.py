"""Shuffled windows put into order, guided by another sensor, ``task: coherence``.

The accelerometer of a smartwatch, guided by its gyroscope (:mod:`ucmkd.coherence`): seven people
to train on, three others to test on, chosen by the seed.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from ucmkd.coherence import (
    CoherenceTraining,
    OrderNet,
    Stretches,
    Towers,
    best_match,
    evaluate,
    smartwatch_stretches,
    train_alone,
    train_rounds,
    train_towers,
)
from ucmkd.config_errors import require
from ucmkd.tasks.base import SECONDS, Case, Measure, Outcome, Shown, Task


@dataclass(frozen=True)
class CoherenceSettings:
    """What a study may set."""

    rounds: int = 5
    """Of training with guidance; 0: each network alone, guidance at the test only."""
    steps: int = 300
    """Of the towers, and of each network alone."""
    round_steps: int = 60
    """Of one network in a round."""

    def __post_init__(self) -> None:
        for name, least in (("rounds", 0), ("steps", 1), ("round_steps", 1)):
            value = getattr(self, name)
            require(value >= least, name, value, f"an integer of at least {least}")

    def training(self, seed: int) -> CoherenceTraining:
        """As the trainer takes it."""
        return CoherenceTraining(
            steps=self.steps, rounds=max(self.rounds, 1), round_steps=self.round_steps, seed=seed
        )


@dataclass(frozen=True)
class Models:
    """Both networks, each trained alone, and the towers."""

    student: OrderNet
    guide: OrderNet
    towers: Towers


@lru_cache(maxsize=1)
def stretches(seed: int) -> tuple[Stretches, Stretches]:
    """Those to train on and to test on."""
    return smartwatch_stretches(seed=seed)


@lru_cache(maxsize=1)
def prepared(seed: int, steps: int) -> Models:
    """The three that all rows of a seed start from."""
    train, _ = stretches(seed)
    training = CoherenceSettings(steps=steps).training(seed)
    inputs = train.student[0].numel()
    torch.manual_seed(seed)
    made = Models(OrderNet(inputs), OrderNet(inputs), Towers(inputs, inputs))
    train_towers(made.towers, train, training)
    train_alone(made.student, "student", train, training)
    train_alone(made.guide, "guide", train, training)
    return made


def run(case: Case) -> Outcome:
    """Train in rounds, where there are some."""
    settings, (train, held) = case.settings, stretches(case.seed)
    training = settings.training(case.seed)
    guidance = "permuted" if case.control == "placebo" else case.method
    models = prepared(case.seed, settings.steps)
    student, guide, towers = (copy.deepcopy(net) for net in vars(models).values())
    if settings.rounds:
        torch.manual_seed(case.seed)
        train_rounds(student, guide, towers, train, training, guidance=guidance)

    def test() -> dict[str, Any]:
        def scores(prefix: str, guidance: str, backwards: bool = False) -> dict[str, float]:
            found = evaluate(
                student, guide, towers, held, training, guidance=guidance, backwards=backwards
            )
            return {prefix + name: value for name, value in found._asdict().items()}

        sets = held.all()
        with torch.no_grad():
            right = best_match(towers(sets.guide, sets.student)) == sets.partner()
        return {
            **scores("", guidance),
            **scores("alone_", "none"),
            **scores("guide_", guidance, backwards=True),
            "aligned": float(right.double().mean()),
        }

    return Outcome(test, len(train.starts), len(held.starts) * held.count)


TASK = Task(
    settings=CoherenceSettings,
    rows={"none": (), "learned": ("placebo",), "gold": ()},
    run=run,
    fetch=lambda: smartwatch_stretches(seed=0),
    prepare=lambda case: prepared(case.seed, case.settings.steps),
    shown=Shown(
        measures=(
            Measure("tau", "τ", "Kendall's τ", scale=1.0, form=".3f"),
            Measure("exact", "exact", "whole order right, %"),
            Measure("alone_tau", "τ alone", scale=1.0, form=".3f", tested=False),
            Measure("alone_exact", "exact alone", tested=False),
            Measure("guide_tau", "τ of the guide", scale=1.0, form=".3f", tested=False),
            Measure("guide_exact", "exact of the guide", tested=False),
            SECONDS,
        ),
        caption="Kendall's τ, and the share of stretches whose whole order is right, in percent "
        "(chance 0 and 0.8)",
        columns="Alone: the same student asked without guidance. Of the guide: the other network, "
        "with the student's guidance. Seconds: of the rounds.",
        unit="In τ and in percentage points",
        meaning={"placebo": "the guide is of another recording"},
        samples="windows",
    ),
    validates=False,
    whole_seeds=True,
)
