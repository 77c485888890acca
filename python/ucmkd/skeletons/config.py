"""How CMD is built and trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ucmkd.config_errors import require


@dataclass(frozen=True)
class Pretraining:
    """How CMD is trained. In brackets what the released code has for NTU skeletons."""

    steps: int = 1000
    batch_size: int = 128
    """[64]"""
    lr: float = 0.05
    """Of SGD with momentum .9 and weight decay 1e-4; a tenth after 78 % of the steps. [.01]"""
    hidden: int = 128
    width: int = 64
    dim: int = 32
    """[128]"""
    queue: int = 1024
    """[16384]"""
    neighbours: int = 512
    """[8192, as here half of the queue]"""
    momentum: float = 0.99
    """[.999, for some 300 times as many steps]"""
    temperature: float = 0.07
    student_temperature: float = 0.1
    teacher_temperature: float = 0.05
    mutual: float = 1.0
    """Weight of the mutual term; 0: three streams that learn alone."""
    log_every: int = 100
    """Steps between two lines of the log, each with a checkpoint."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "hidden", "width", "dim", "queue", "log_every"):
            require(_whole(self, name), name, getattr(self, name), "a positive integer")
        for name in ("lr", "temperature", "student_temperature", "teacher_temperature"):
            value = _number(self, name)
            require(0 < value < math.inf, name, getattr(self, name), "a positive number")
        mutual = _number(self, "mutual")
        require(0 <= mutual < math.inf, "mutual", self.mutual, "a number of at least 0")
        require(0 <= _number(self, "momentum") <= 1, "momentum", self.momentum, "in [0, 1]")
        accepted = f"at most the queue, {self.queue}"
        require(self.batch_size <= self.queue, "batch_size", self.batch_size, accepted)
        inside = _whole(self, "neighbours") and self.neighbours <= self.queue
        accepted = f"in 1..{self.queue}, the length of the queue"
        require(inside, "neighbours", self.neighbours, accepted)

    def learning_rate(self, step: int) -> float:
        """Of one step of SGD.

        Args:
            step: From 0.
        """
        return self.lr * (0.1 if step >= 0.78 * self.steps else 1.0)


def _whole(config: Pretraining, name: str) -> bool:
    value = getattr(config, name)
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _number(config: Pretraining, name: str) -> float:
    """NaN, which lies in no range, for what is no number."""
    value = getattr(config, name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
