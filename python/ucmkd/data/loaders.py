"""Which samples make the next step: endless samplers of indices whose state can be saved.

Data sets here fit in memory, so a loader is an index sampler and batches are `tensor[indices]`.
Every sampler draws from its own explicit `torch.Generator`; `state_dict` and `load_state_dict`
make a resumed training see exactly the batches that the uninterrupted one would have seen.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def make_generator(source: int | torch.Generator) -> torch.Generator:
    """A generator on the CPU: the draws must not depend on the device that trains."""
    if isinstance(source, torch.Generator):
        if source.device.type != "cpu":
            raise ValueError(f"generator must live on the CPU, got {source.device}")
        return source
    if isinstance(source, bool) or not isinstance(source, int):
        raise TypeError(f"generator must be an int seed or a torch.Generator, got {source!r}")
    return torch.Generator().manual_seed(source)


def _label_array(name: str, labels: Tensor, num_classes: int) -> NDArray[np.int64]:
    if labels.ndim != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"{name} must be a one-dimensional integer tensor, got {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    # Index arithmetic on tens of numbers: numpy's calls cost a tenth of torch's.
    array = labels.detach().to("cpu", torch.int64).numpy()
    if len(array) and not 0 <= array.min() <= array.max() < num_classes:
        raise ValueError(f"{name} must lie in 0…{num_classes - 1}, got {array.min()}…{array.max()}")
    return array


class InfiniteSampler:
    """Batches of indices without end: each pass over the samples is a fresh permutation.

    Batches run across the end of a pass, so none is smaller than the others and no sample is left
    out; a batch larger than the pool spans several passes. Drawing from all samples this way is
    also drawing the classes at their natural frequencies.

    Args:
        n: Number of samples.
        batch_size: Indices per batch.
        generator: Seed, or a generator on the CPU (then shared with its other users).

    Raises:
        ValueError: `n` or `batch_size` below 1.
        TypeError: `generator` is neither an int nor a `torch.Generator`.
    """

    def __init__(self, n: int, batch_size: int, generator: int | torch.Generator) -> None:
        for name, value in (("n", n), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.n, self.batch_size = n, batch_size
        self.generator = make_generator(generator)
        self._order = torch.empty(0, dtype=torch.int64)
        self._cursor = 0

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        """`(batch_size,)` int64 indices into the samples."""
        pieces, missing = [], self.batch_size
        while missing:
            if self._cursor == len(self._order):
                self._order = torch.randperm(self.n, generator=self.generator)
                self._cursor = 0
            piece = self._order[self._cursor : self._cursor + missing]
            self._cursor += len(piece)
            missing -= len(piece)
            pieces.append(piece)
        return pieces[0].clone() if len(pieces) == 1 else torch.cat(pieces)

    def state_dict(self) -> dict[str, Any]:
        """Everything the coming batches depend on; safe to pickle."""
        return {
            "n": self.n,
            "batch_size": self.batch_size,
            "order": self._order.clone(),
            "cursor": self._cursor,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: The state belongs to another pool or batch size.
        """
        check_state(state, n=self.n, batch_size=self.batch_size)
        self._order, self._cursor = checked_order(state, self.n)
        self.generator.set_state(state["generator"])


def checked_order(state: Mapping[str, Any], n: int) -> tuple[Tensor, int]:
    """Stored order and cursor: a permutation of ``n`` rows, or none yet, and a place in it.

    Raises:
        ValueError: They are of no sampler of ``n`` rows.
    """
    order, cursor = state["order"].clone(), int(state["cursor"])
    if order.dtype != torch.int64 or not torch.equal(order.sort().values, torch.arange(len(order))):
        raise ValueError("the stored order is no permutation")
    if len(order) not in (0, n) or not 0 <= cursor <= len(order):
        raise ValueError(f"a stored place {cursor} in an order of {len(order)}, of {n} samples")
    return order, cursor


def check_state(state: Mapping[str, Any], **expected: object) -> None:
    for name, value in expected.items():
        if state.get(name) != value:
            raise ValueError(
                f"state of another sampler: {name} is {state.get(name)}, here it is {value}"
            )


class ClassMatchedSampler:
    """Draws, for given labels, samples of another set with the same class counts.

    Every class is a queue of its samples in shuffled order; entry i of a draw is the next sample of
    class `labels[i]`. A queue is shuffled anew when it has run out, so that no sample comes twice
    in a draw unless the draw asks for more than its class has.
    A class without samples falls back to the next samples of the whole set, at its natural class
    frequencies: counts then differ from those asked for; a warning names such classes once.

    Args:
        labels: `(m,)` classes of the set to draw from.
        generator: Seed, or a generator on the CPU.
        num_classes: Number of classes on both sides; None: the largest label plus one.
        class_names: Names for the warning; None: the numbers.

    Attributes:
        missing: Names of the classes that have no sample.

    Raises:
        ValueError: Bad or no labels, labels out of range, a wrong number of class names.
    """

    def __init__(
        self,
        labels: Tensor,
        generator: int | torch.Generator,
        *,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        if labels.numel() == 0:
            raise ValueError("labels must not be empty")
        self.num_classes = int(labels.max()) + 1 if num_classes is None else num_classes
        array = _label_array("labels", labels, self.num_classes)
        if class_names is not None and len(class_names) != self.num_classes:
            raise ValueError(
                f"class_names must have one name for each of {self.num_classes} classes, got "
                f"{len(class_names)}"
            )
        self.generator = make_generator(generator)
        counts = np.bincount(array, minlength=self.num_classes)
        # The last queue is the whole set; classes without samples draw from it.
        self._queue_of = np.where(counts == 0, self.num_classes, np.arange(self.num_classes))
        self._sizes = np.append(counts, len(array))
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._order = np.concatenate([np.argsort(array, kind="stable"), np.arange(len(array))])
        self._cursors = np.zeros(self.num_classes + 1, dtype=np.int64)
        names = [str(k) for k in range(self.num_classes)] if class_names is None else class_names
        self.missing = tuple(names[k] for k in np.flatnonzero(counts == 0).tolist())
        if self.missing:
            warnings.warn(
                f"no samples of class {', '.join(self.missing)} to match with; other classes are "
                "drawn at their natural frequencies instead",
                stacklevel=2,
            )
        self._shuffle(np.flatnonzero(self._sizes))

    def _shuffle(self, queues: NDArray[np.int64]) -> None:
        for queue in queues.tolist():
            start, size = int(self._starts[queue]), int(self._sizes[queue])
            order = torch.randperm(size, generator=self.generator).numpy()
            self._order[start : start + size] = self._order[start : start + size][order]
        self._cursors[queues] = 0

    def draw(self, labels: Tensor) -> Tensor:
        """`(n,)` int64 indices; entry i has the class `labels[i]` (unless that class is missing).

        Args:
            labels: `(n,)` classes to match, e.g. those of the student's batch.

        Raises:
            ValueError: Labels of another type, or out of range.
        """
        queues = self._queue_of[_label_array("labels", labels, self.num_classes)]
        wanted = np.bincount(queues, minlength=self.num_classes + 1)
        by_queue = np.argsort(queues, kind="stable")
        first = (np.cumsum(wanted) - wanted)[queues[by_queue]]
        rank = np.empty_like(queues)
        rank[by_queue] = np.arange(len(queues)) - first
        position = (self._cursors[queues] + rank) % self._sizes[queues]
        drawn = self._order[self._starts[queues] + position]
        self._cursors += wanted
        self._shuffle(np.flatnonzero((wanted > 0) & (self._cursors >= self._sizes)))
        return torch.from_numpy(drawn)

    def state_dict(self) -> dict[str, Any]:
        """Everything the coming draws depend on; safe to pickle."""
        return {
            "n": int(self._sizes[-1]),
            "num_classes": self.num_classes,
            "order": torch.from_numpy(self._order.copy()),
            "cursors": torch.from_numpy(self._cursors.copy()),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: The state belongs to another set.
        """
        check_state(state, n=int(self._sizes[-1]), num_classes=self.num_classes)
        order, cursors = (state[name].cpu().numpy().copy() for name in ("order", "cursors"))
        same = order.shape == self._order.shape and cursors.shape == self._cursors.shape
        for start, size in zip(self._starts, self._sizes, strict=True):
            queue = slice(start, start + size)  # its samples, in whatever order
            same = same and np.array_equal(np.sort(order[queue]), np.sort(self._order[queue]))
        if not same or (cursors < 0).any() or (cursors > self._sizes).any():
            raise ValueError("state of another sampler: its queues hold other samples")
        self._order, self._cursors = order, cursors
        self.generator.set_state(state["generator"])


class UnpairedIndices(NamedTuple):
    """Rows of one step; entry i of the one has nothing to do with entry i of the other."""

    student: Tensor
    teacher: Tensor


class UnpairedSampler:
    """Two independent streams of indices, with lengths and batch sizes of their own.

    Args:
        student_labels: `(n,)` classes of the student's samples.
        teacher_labels: `(m,)` classes of the teacher's samples.
        student_batch: Indices per step of the student.
        teacher_batch: Indices per step of the teacher; with `class_matched` it must be None or
            `student_batch`, since the class counts are equal.
        seed: Seed; both streams get generators of their own from it.
        class_matched: Draw the teacher's batch with the class counts of the student's.
        num_classes: Number of classes; None: the largest label of both sides plus one.
        class_names: Names for the warning about missing classes.

    Raises:
        ValueError: Bad sizes or labels, or a teacher's batch size that contradicts
            `class_matched`.
    """

    def __init__(
        self,
        student_labels: Tensor,
        teacher_labels: Tensor,
        student_batch: int,
        teacher_batch: int | None = None,
        *,
        seed: int,
        class_matched: bool = False,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        if student_labels.numel() == 0 or teacher_labels.numel() == 0:
            raise ValueError("student_labels and teacher_labels must not be empty")
        classes = num_classes or int(max(student_labels.max(), teacher_labels.max())) + 1
        _label_array("student_labels", student_labels, classes)
        _label_array("teacher_labels", teacher_labels, classes)
        self._labels = student_labels.detach().to("cpu", torch.int64)
        if class_matched and teacher_batch not in (None, student_batch):
            raise ValueError(
                f"teacher_batch must be None or {student_batch} (student_batch) with "
                f"class_matched, got {teacher_batch}"
            )
        root = make_generator(seed)
        seeds = torch.randint(2**62, (2,), generator=root).tolist()
        self.student = InfiniteSampler(len(self._labels), student_batch, seeds[0])
        self.teacher: InfiniteSampler | ClassMatchedSampler
        if class_matched:
            self.teacher = ClassMatchedSampler(
                teacher_labels, seeds[1], num_classes=classes, class_names=class_names
            )
        else:
            size = student_batch if teacher_batch is None else teacher_batch
            self.teacher = InfiniteSampler(len(teacher_labels), size, seeds[1])

    def __iter__(self) -> Iterator[UnpairedIndices]:
        return self

    def __next__(self) -> UnpairedIndices:
        student = next(self.student)
        if isinstance(self.teacher, ClassMatchedSampler):
            return UnpairedIndices(student, self.teacher.draw(self._labels[student]))
        return UnpairedIndices(student, next(self.teacher))

    def state_dict(self) -> dict[str, Any]:
        """The states of both streams."""
        return {"student": self.student.state_dict(), "teacher": self.teacher.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: The state belongs to other data or batch sizes.
        """
        self.student.load_state_dict(state["student"])
        self.teacher.load_state_dict(state["teacher"])


class PairedLoader:
    """Batches of the same samples from several tensors: views, labels, cached outputs.

    Args:
        tensors: Tensors with equal first dimensions; row i is the same sample in all of them.
        batch_size: Samples per batch.
        generator: Seed, or a generator on the CPU.

    Raises:
        ValueError: No tensors, rows that disagree, no samples, a batch size below 1.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], batch_size: int, generator: int | torch.Generator
    ) -> None:
        rows = {name: len(tensor) for name, tensor in tensors.items()}
        if len(set(rows.values())) != 1:
            raise ValueError(f"tensors must have the same number of rows, got {rows}")
        self.tensors = dict(tensors)
        self.sampler = InfiniteSampler(next(iter(rows.values())), batch_size, generator)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return self

    def __next__(self) -> dict[str, Tensor]:
        index = next(self.sampler)
        return {name: tensor[index.to(tensor.device)] for name, tensor in self.tensors.items()}

    def state_dict(self) -> dict[str, Any]:
        """The state of the sampler; the tensors are not part of it."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: The state belongs to other data or another batch size.
        """
        self.sampler.load_state_dict(state)
