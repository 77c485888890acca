"""What the families share: the case, the points as tensors, reading the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benches.problems import Solution, Transport
from benches.timing import Answer

#: Nobody runs longer than this in the residual setting.
LONGEST = 5000
#: Settings are chosen on at most so many points.
CALIBRATION = 1024


@dataclass(frozen=True)
class Case:
    """A problem and the setting, ``"iterations"`` or ``"residual"``."""

    problem: Transport
    mode: str

    @property
    def plain(self) -> bool:
        """Whether the setting is the one of equal iterations."""
        return self.mode == "iterations"

    def reference(self, first: str, form: str = "dual") -> Solution:
        """What a contestant that updates side ``first`` first approximates."""
        if not self.plain:
            return self.problem.converged
        end = self.problem.after(first)
        return end.dual() if form == "dual" else end.primal()


def points(problem: Any) -> tuple[Tensor, Tensor]:
    """Student (which wants a gradient) and teacher of a problem, as tensors of its own."""
    x = torch.from_numpy(problem.x).clone().requires_grad_()
    return x, torch.from_numpy(problem.y).clone()


def read(result: tuple[Any, ...]) -> Answer:
    """``(value, gradient)`` or ``(value, gradient, iterations)`` of any library."""
    value, gradient, *rest = result
    iterations = int(np.max(np.asarray(rest[0]))) if rest and rest[0] is not None else None
    return Answer(np.asarray(value, dtype=np.float64), np.asarray(gradient), iterations)
