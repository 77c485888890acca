"""Teacher minibatches seen before, and what was computed for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ucmkd import _backend
from ucmkd.ops._solve import as_numpy
from ucmkd.ops.frozen import FrozenTerm

#: Teacher minibatches that a state remembers.
TEACHERS = 8


class Teacher:
    """One teacher minibatch: a copy to know it by, and what the last calls with it found."""

    def __init__(self, key: tuple[Any, ...], given: Sequence[Tensor | None]) -> None:
        self.key = key
        self.given = tuple(None if t is None else t.detach().clone() for t in given)
        self.numbers: list[list[float]] = []
        #: The self-term.
        self.term = FrozenTerm()
        #: The student's points at the last call, and the cross term's potential of the teacher.
        self.student: Tensor | None = None
        self.potential: Tensor | None = None

    def is_(self, key: tuple[Any, ...], given: Sequence[Tensor | None]) -> bool:
        """Whether these are its features, weights, labels and options, entry by entry."""
        return key == self.key and all(map(equal, given, self.given))

    def to(self, device: torch.device | str) -> None:
        """Moves everything to a device."""

        def move(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.to(device)

        self.given = tuple(map(move, self.given))
        self.student, self.potential = move(self.student), move(self.potential)
        self.term.to(device)
        self.key = (*self.key[:-1], torch.empty(0, device=device).device)


class Teachers:
    """The last :data:`TEACHERS` of them, the latest first."""

    def __init__(self) -> None:
        self._all: list[Teacher] = []

    def find(
        self, key: tuple[Any, ...], given: Sequence[Tensor | None], numbers: list[list[float]]
    ) -> Teacher:
        """The teacher with this key (whose last entry is the device) and these inputs, new or
        not; ``numbers`` are ε, the reaches and λ: for others its values do not count."""
        found = next((t for t in self._all if t.is_(key, given)), None)
        if found is None:
            found = Teacher(key, given)
            del self._all[TEACHERS - 1 :]
        else:
            self._all.remove(found)
            if numbers != found.numbers:
                found.term.forget_values()
        self._all.insert(0, found)
        found.numbers = numbers
        return found

    @property
    def latest(self) -> Teacher:
        """The one of the last call."""
        return self._all[0]

    def forget(self, teacher: Teacher) -> None:
        """Forgets one."""
        self._all.remove(teacher)

    def clear(self) -> None:
        """Forgets all."""
        self._all.clear()

    def forget_students(self) -> None:
        """Forgets all that depends on the student."""
        for teacher in self._all:
            teacher.student = teacher.potential = None

    def to(self, device: torch.device | str) -> None:
        """Moves everything to a device."""
        for teacher in self._all:
            teacher.to(device)


def equal(one: Tensor | None, two: Tensor | None) -> bool:
    """Whether both are None, or equal entry by entry, type and device included."""
    if one is None or two is None:
        return one is two
    if one.shape != two.shape or one.dtype != two.dtype or one.device != two.device:
        return False
    if _fast(one):
        return bool(_backend.rust().equal(as_numpy(one), as_numpy(two)))
    return torch.equal(one, two)


def distance(one: Tensor, two: Tensor) -> float:
    """The Euclidean distance of two tensors."""
    if _fast(one):
        return float(_backend.rust().distance(as_numpy(one), as_numpy(two)))
    return float(torch.dist(one, two))


def _fast(points: Tensor) -> bool:
    """Whether one pass of the compiled extension will do, without PyTorch's threads."""
    return (
        points.device.type == "cpu" and points.dtype in (torch.float32, torch.float64)
        and _backend.has_rust()
    )  # fmt: skip
