"""Numbers of a training of coherence."""

from __future__ import annotations

from dataclasses import dataclass

from ucmkd.methods import checks


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
        TypeError: Not a number, or not an integer where one is needed.
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
            checks.integer(name, getattr(self, name), minimum=1)
        checks.integer("seed", self.seed)
        checks.number("lr", self.lr, strict=True)
        for name in ("guide_weight", "student_weight", "weight_decay"):
            checks.number(name, getattr(self, name))
        for name in ("guide_threshold", "student_threshold"):
            value = getattr(self, name)
            checks.number(name, value)
            if value > 1:
                raise ValueError(f"{name} must lie in [0, 1]; got {value}")
