"""The samples that the rules see: those a user has before any distillation, from the same split."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from benches.teachers.problems import Problem
from ucmkd.config import Recipe, from_mapping
from ucmkd.preparation import prepare


class Views:
    """Every view of one problem and seed.

    ``own(view)`` are the labelled samples of a teacher of this view, ``rows(view)`` the student's
    training samples in this view, labelled first: the same people in every view. No validation
    and no test sample of the student is among them.

    Args:
        problem: Whose.
        seed: Of the split, the one of the trainings.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        self.problem, self.seed = problem, seed
        self._found: dict[str, tuple[tuple[Tensor, Tensor], Tensor, Tensor, int]] = {}

    def own(self, view: str) -> tuple[Tensor, Tensor]:
        """Features and labels of the teacher's training samples."""
        return self._read(view)[0]

    def rows(self, view: str) -> Tensor:
        """``(n, d)``."""
        return self._read(view)[1]

    def labels(self, view: str) -> Tensor:
        """``(n,)``, -1 for the unlabelled ones."""
        return self._read(view)[2]

    def _read(self, view: str) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor, int]:
        if view not in self._found:
            # A view as its own teacher: both sides' rows, and the split depends on labels only.
            section = self.problem.section(view, view)
            data = from_mapping(Recipe, {"data": section}).data
            data = replace(
                data,
                teacher=replace(data.teacher, columns=None, standardise=False),
                student=replace(data.student, columns=None, standardise=False),
            )
            found = prepare(data, self.seed)
            own, student = found.teacher, found.student
            assert student.unlabelled is not None
            rows = torch.cat([_flat(student.student), _flat(student.unlabelled)])
            unknown = torch.full((len(student.unlabelled),), -1)
            labels = torch.cat([student.student_label, unknown])
            self._found[view] = (
                (_flat(own.student), own.student_label), rows, labels, found.student.num_classes
            )  # fmt: skip
        return self._found[view]

    def classes(self, view: str) -> int:
        """C."""
        return self._read(view)[3]


def _flat(inputs: object) -> Tensor:
    assert isinstance(inputs, Tensor)
    return inputs.flatten(1)
