"""A teacher cut before its first layer, for methods that need what it sees and not what it says."""

from __future__ import annotations

from torch import Tensor

from .batches import TrainingData
from .config import ConfigError, Recipe
from .methods import METHODS
from .models import Student
from .stored_inputs import StoredInputs


class TeacherInputs(Student):
    """Features that are the inputs, under a head that is the whole teacher.

    What a run caches of it are inputs, and a method can show them to the teacher in parts
    (``msd``) or train a teacher of its own on them (``amid``).

    Args:
        teacher: Takes inputs ``(n, d)``.
        width: d.
    """

    def __init__(self, teacher: Student, width: int) -> None:
        super().__init__()
        self.head = teacher
        self.width = width

    def encoder(self, inputs: Tensor) -> Tensor:
        """The inputs ``(n, d)`` themselves."""
        return inputs


def shown(recipe: Recipe, teacher: Student, own: TrainingData) -> Student:
    """The teacher as the recipe's method is to see it: itself, or cut before its first layer.

    Args:
        recipe: Of the run.
        teacher: Frozen, in evaluation mode.
        own: Its own problem (:attr:`ucmkd.preparation.Prepared.teacher`).

    Raises:
        ConfigError: inputs of another shape than ``(n, d)`` for a method that needs them.
    """
    if not METHODS[recipe.method.name].teacher_inputs:
        return teacher
    if isinstance(own.student, StoredInputs) or own.student.ndim != 2:
        raise ConfigError(
            f"method {recipe.method.name!r} needs the teacher's inputs, as rows (n, d); those of "
            f"{recipe.data.teacher.dataset!r} have the shape {tuple(own.student.shape)}; methods "
            "that need its features or logits alone: dml, fitnet, vanilla_kd"
        )
    found = TeacherInputs(teacher, own.student.shape[1])
    return found.train(teacher.training)
