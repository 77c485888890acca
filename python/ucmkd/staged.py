"""A teacher that shows all of its stages where others show their last layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .config import Recipe
from .methods import METHODS
from .models import Student
from .teacher import freeze


class StagedTeacher(Student):
    """A frozen teacher whose features are all its stages, flattened, side by side.

    Args:
        teacher: Frozen; shared, not copied.
    """

    def __init__(self, teacher: Student) -> None:
        super().__init__()
        self.teacher = teacher
        self.width = sum(math.prod(shape) for shape in teacher.stage_shapes)

    def outputs(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Stages ``(n, width)`` and logits ``(n, C)``."""
        stages, logits = self.teacher.stages(inputs)
        return torch.cat([stage.flatten(1) for stage in stages], dim=1), logits


def staged(recipe: Recipe, teacher: Student) -> Student:
    """The teacher as the recipe's method looks at it: with all its stages, or as it is."""
    if not METHODS[recipe.method.name].needs_stages:
        return teacher
    found = StagedTeacher(teacher)
    freeze(found)
    return found
