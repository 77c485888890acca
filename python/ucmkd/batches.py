"""What a training sees: tensors, in memory or in a file, and one batch per step drawn from them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .config import TrainingConfig
from .data import ClassMatchedSampler, GroupSampler, InfiniteSampler
from .methods import checks
from .methods.base import Batch
from .pools import MatchedStreamSampler, Stream, StreamSampler
from .stored_inputs import Inputs, StoredInputs

if TYPE_CHECKING:
    from .methods.base import Method


@dataclass(frozen=True)
class TrainingData:
    """The samples of one distillation; rows of a group belong together, groups do not.

    Inputs are (n, ...) floating point, labels (n,) int64, on any one device; what is too big for
    memory is a :class:`~ucmkd.stored_inputs.StoredInputs`. A teacher is present only as its
    cached outputs.

    Attributes:
        num_classes: C, an integer of at least 2.
        student, student_label: labelled student samples (n, ...). Samples of validation, test,
            unlabelled and paired have the same shape.
        validation, validation_label: for model selection; without them the last step is kept.
        test, test_label: looked at once, at the end.
        teacher_feature, teacher_logits, teacher_label: outputs of the frozen teacher on its own
            samples, (m, d_T), (m, C), (m,).
        teacher_input: those samples themselves (m, ...), for a method that trains a model on them.
        unlabelled: student samples without labels (u, ...).
        teacher_group, unlabelled_group: coarse correspondences, (m,) and (u,) int64: samples of
            equal number are of the same subject, session or the like; -1 where it is not known.
        cohort_feature, cohort_logits, cohort_group: outputs of the teacher on more samples, whose
            labels nobody knows but whose groups are known: (g, d_T), (g, C), (g,).
        paired, paired_teacher_feature, paired_teacher_logits, paired_label: student samples that
            are also measured in the teacher's modality (p, ...), the teacher's outputs on them,
            and their labels where known.
        modalities, teacher_modalities: where a side has several modalities, how many columns of
            its inputs belong to each, in their order; else None.
        streams: pools that are too big for memory, by name: ``student``, ``unlabelled``,
            ``teacher``. Batches come from there; the fields of such a pool hold a few of its
            samples, for building models.

    Raises:
        TypeError: ``num_classes`` that is no integer.
        ValueError: fewer than two classes, rows of a group that do not agree, labels outside
            [0, C), an empty set, student samples of different shapes.
    """

    num_classes: int
    student: Inputs
    student_label: Tensor
    validation: Inputs | None = None
    validation_label: Tensor | None = None
    test: Inputs | None = None
    test_label: Tensor | None = None
    teacher_feature: Tensor | None = None
    teacher_logits: Tensor | None = None
    teacher_label: Tensor | None = None
    unlabelled: Inputs | None = None
    paired: Inputs | None = None
    paired_teacher_feature: Tensor | None = None
    paired_teacher_logits: Tensor | None = None
    paired_label: Tensor | None = None
    teacher_group: Tensor | None = None
    unlabelled_group: Tensor | None = None
    cohort_feature: Tensor | None = None
    cohort_logits: Tensor | None = None
    cohort_group: Tensor | None = None
    teacher_input: Inputs | None = None
    modalities: Mapping[str, int] | None = None
    teacher_modalities: Mapping[str, int] | None = None
    streams: Mapping[str, Stream] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.integer("num_classes", self.num_classes, minimum=2)
        for group in ("student", "validation", "test", "teacher", "unlabelled", "paired", "cohort"):
            given = {
                item.name: value
                for item in dataclasses.fields(self)
                if item.name.startswith(group)
                and isinstance(value := getattr(self, item.name), Tensor | StoredInputs)
            }
            rows = {name: len(value) for name, value in given.items()}
            if len(set(rows.values())) > 1:
                raise ValueError(f"rows of one group must agree, got {rows}")
            if group in ("validation", "test") and len(given) == 1:
                raise ValueError(f"{group} and {group}_label come together, got only {rows}")
            if 0 in rows.values():
                raise ValueError(f"{next(iter(rows))} must not be empty (None leaves it out)")
            label = given.get(f"{group}_label")
            if isinstance(label, Tensor):
                self._check_label(f"{group}_label", label)
            member = given.get(f"{group}_group")
            if isinstance(member, Tensor):
                _check_group(f"{group}_group", member)
        for name in ("validation", "test", "unlabelled", "paired"):
            pool: Inputs | None = getattr(self, name)
            if pool is not None and pool.shape[1:] != self.student.shape[1:]:
                raise ValueError(
                    f"student and {name} must have samples of one shape, got "
                    f"{tuple(self.student.shape[1:])} and {tuple(pool.shape[1:])}"
                )

    def _check_label(self, name: str, label: Tensor) -> None:
        if label.dtype != torch.int64 or label.ndim != 1:
            raise ValueError(f"{name} must be (n,) int64, got {label.ndim}-d {label.dtype}")
        low, high = int(label.min()), int(label.max())
        if low < 0 or high >= self.num_classes:
            raise ValueError(
                f"{name} must lie in 0..{self.num_classes - 1}, got values from {low} to {high}"
            )

    @property
    def class_prior(self) -> Tensor | None:
        """The teacher's class frequencies (C,), summing to 1; None without teacher labels."""
        counts = self._counted("teacher")
        if counts is None:
            if self.teacher_label is None:
                return None
            counts = torch.bincount(self.teacher_label, minlength=self.num_classes)
        return counts / int(counts.sum())

    @property
    def label_counts(self) -> Tensor:
        """Labelled student samples per class (C,), int64."""
        counts = self._counted("student")
        if counts is None:
            counts = torch.bincount(self.student_label, minlength=self.num_classes)
        return counts

    def _counted(self, pool: str) -> Tensor | None:
        """Samples per class of a pool that is streamed."""
        return self.streams[pool].counts if pool in self.streams else None

    def samples(self, pool: str) -> int:
        """Samples of ``student``, ``unlabelled``, ``validation``, ``test`` or ``paired``."""
        if pool in self.streams:
            return len(self.streams[pool])
        rows = getattr(self, pool)
        return 0 if rows is None else len(rows)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> TrainingData:
        """The same data on a device; floating-point tensors as ``dtype`` if given."""
        changes: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor | StoredInputs):
                kind = dtype if value.is_floating_point() else None
                changes[item.name] = value.to(device=device, dtype=kind)
        changes["streams"] = {name: s.to(device, dtype) for name, s in self.streams.items()}
        return dataclasses.replace(self, **changes)


def _check_group(name: str, member: Tensor) -> None:
    if member.dtype != torch.int64 or member.ndim != 1:
        raise ValueError(f"{name} must be (n,) int64, got {member.ndim}-d {member.dtype}")
    if int(member.min()) < -1:
        raise ValueError(f"{name} must be -1 (unknown) or more, got {int(member.min())}")


class _Bank(NamedTuple):
    """All that the teacher can be aligned with: its own samples, and cohorts behind them."""

    feature: Tensor | None
    logits: Tensor | None
    label: Tensor | None
    group: Tensor | None

    @classmethod
    def of(cls, data: TrainingData) -> _Bank:
        own = cls(data.teacher_feature, data.teacher_logits, data.teacher_label, data.teacher_group)
        if data.cohort_feature is None or own.feature is None or own.logits is None:
            return own
        assert data.cohort_logits is not None and data.cohort_group is not None
        group = own.group
        if group is None:
            group = torch.full_like(data.cohort_group[:1], -1).expand(len(own.feature))
        return cls(
            torch.cat((own.feature, data.cohort_feature)),
            torch.cat((own.logits, data.cohort_logits)),
            None,  # a cohort's labels are not known
            torch.cat((group, data.cohort_group)),
        )


# What a row of a stream is to `Batches._rows`, in the order of its tensors.
_COLUMNS = {
    "student": ("input", "label"),
    "unlabelled": ("input", "group"),
    "teacher": ("feature", "logits", "label", "input"),
    "unlabelled_teacher": ("feature", "logits", "label", "group"),
}


class Batches:
    """Draws one :class:`~ucmkd.methods.base.Batch` per step from independent samplers.

    Each pool has its own sampler, batch size and random generator, so a method sees the same
    labelled samples whatever else it asks for.

    Args:
        data: where the rows come from.
        method: says what it needs (``needs_teacher``, ``needs_peer``, ``needs_unlabelled``,
            ``class_matched``, ``paired`` or ``uses_pairs``).
        training: batch sizes; a pool that is smaller is the batch.
        seed: of all samplers; ``rank`` tells processes apart.
        world: number of processes; those that read a stream divide it.

    Raises:
        ValueError: the method needs a pool that the data do not have, or all of one at once that
            is streamed.
    """

    def __init__(
        self,
        data: TrainingData,
        method: Method,
        training: TrainingConfig,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        wanted = {
            "teacher_feature": method.needs_teacher and not method.paired,
            "teacher_label": method.class_matched,
            "teacher_input": method.needs_peer,
            "unlabelled": method.needs_unlabelled,
            "paired": method.paired,
        }
        names = [name for name, needed in wanted.items() if needed]
        # The teacher's second draw comes from the same rows as the first.
        names += [name.replace("unlabelled_teacher_", "teacher_") for name in method.requires]
        missing = [name for name in dict.fromkeys(names) if getattr(data, name) is None]
        if missing:
            raise ValueError(
                f"method {method.name!r} needs {', '.join(missing)}, and the data have none"
            )
        self.data, self.method = data, method
        if method.whole_teacher and "teacher" in data.streams:
            raise ValueError(
                f"method {method.name!r} needs all of the teacher's samples in each step (its "
                "option bank), and they are streamed"
            )
        self._seed, self._rank, self._world = seed, rank, world
        self._samplers: dict[str, Any] = {}
        self._pool("student", data.student, training.batch_size)
        self._bank = _Bank.of(data)
        if (
            method.uses_groups
            and self._bank.group is not None
            and data.unlabelled_group is not None
        ):
            self._samplers["grouped"] = GroupSampler(
                data.unlabelled_group,
                self._bank.group,
                (training.unlabelled_batch_size, training.teacher_batch_size),
                self._generator("unlabelled"),
            )
        elif method.needs_unlabelled:
            self._pool("unlabelled", data.unlabelled, training.unlabelled_batch_size)
            if method.needs_teacher and not method.whole_teacher:
                self._pool("unlabelled_teacher", data.teacher_feature, training.teacher_batch_size)
        if method.class_matched:
            assert data.teacher_label is not None
            if "teacher" in data.streams:
                size = training.batch_size
                self._samplers["teacher"] = self._stream(MatchedStreamSampler, "teacher", size)
            else:
                self._samplers["teacher"] = ClassMatchedSampler(
                    data.teacher_label, self._generator("teacher"), num_classes=data.num_classes
                )
        elif method.needs_teacher:
            self._pool("teacher", data.teacher_feature, training.teacher_batch_size)
        elif method.needs_peer:
            self._pool("teacher", data.teacher_input, training.teacher_batch_size)
        if method.paired or method.uses_pairs:
            self._pool("paired", data.paired, training.pair_batch_size)
        lengths = [math.ceil(data.samples("student") / training.batch_size)]
        if method.needs_unlabelled and data.unlabelled is not None:
            lengths.append(math.ceil(data.samples("unlabelled") / training.unlabelled_batch_size))
        self.steps_per_epoch = max(lengths)

    def _seed_of(self, name: str, rank: int) -> int:
        streams = ("student", "unlabelled", "unlabelled_teacher", "teacher", "paired")
        number = len(streams) * rank + streams.index(name)
        return (self._seed * 1_000_003 + number) % 2**63

    def _generator(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed_of(name, self._rank))

    def _stream(
        self, kind: type[StreamSampler | MatchedStreamSampler], name: str, batch_size: int
    ) -> StreamSampler | MatchedStreamSampler:
        """A sampler of a pool that is streamed; its order is that of all processes."""
        stream = self.data.streams[name.replace("unlabelled_teacher", "teacher")]
        return kind(stream, batch_size, self._seed_of(name, 0), self._rank, self._world)

    def _pool(self, name: str, pool: Inputs | None, batch_size: int) -> None:
        if name.replace("unlabelled_teacher", "teacher") in self.data.streams:
            self._samplers[name] = self._stream(StreamSampler, name, batch_size)
        elif pool is not None:
            size = min(batch_size, len(pool))
            self._samplers[name] = InfiniteSampler(len(pool), size, self._generator(name))

    def _rows(self, name: str, *tensors: Inputs | None) -> list[Tensor | None]:
        sampler = self._samplers.get(name)
        if sampler is None:
            return [None] * len(tensors)
        if isinstance(sampler, StreamSampler):
            return _chosen(next(sampler), name, tensors)
        index = next(sampler).to(self.data.student.device, non_blocking=True)
        return [None if tensor is None else tensor[index] for tensor in tensors]

    def _unpaired(self) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """Unlabelled student samples with their groups; teacher samples to align them with."""
        data, bank = self.data, self._bank
        sampler = self._samplers.get("grouped")
        if sampler is not None:
            own, other = (index.to(data.student.device) for index in next(sampler))
            student = [t if t is None else t[own] for t in (data.unlabelled, data.unlabelled_group)]
            return student, [None if t is None else t[other] for t in bank]
        cached = (data.teacher_feature, data.teacher_logits, data.teacher_label, data.teacher_group)
        student = self._rows("unlabelled", data.unlabelled, data.unlabelled_group)
        if self.method.whole_teacher and self.method.needs_unlabelled:
            return student, list(bank)
        return student, self._rows("unlabelled_teacher", *cached)

    def draw(self) -> Batch:
        """The next batch; groups that the method does not ask for are None."""
        data = self.data
        inputs = data.teacher_input if self.method.needs_peer else None
        cached = (data.teacher_feature, data.teacher_logits, data.teacher_label, inputs)
        student, student_label = self._rows("student", data.student, data.student_label)
        assert student is not None and student_label is not None
        matching = self._samplers.get("teacher")
        if isinstance(matching, MatchedStreamSampler):
            teacher = _chosen(matching.draw(student_label.cpu()), "teacher", cached)
        elif self.method.class_matched:
            index = self._samplers["teacher"].draw(student_label.cpu()).to(student.device)
            teacher = [None if tensor is None else tensor[index] for tensor in cached]
        else:
            teacher = self._rows("teacher", *cached)
        unlabelled, natural = self._unpaired()
        paired = self._rows(
            "paired",
            data.paired,
            data.paired_teacher_feature,
            data.paired_teacher_logits,
            data.paired_label,
        )
        return Batch(
            student=student,
            student_label=student_label,
            teacher_feature=teacher[0],
            teacher_logits=teacher[1],
            teacher_label=teacher[2],
            unlabelled=unlabelled[0],
            unlabelled_teacher_feature=natural[0],
            unlabelled_teacher_logits=natural[1],
            unlabelled_teacher_label=natural[2],
            paired=paired[0],
            paired_teacher_feature=paired[1],
            paired_teacher_logits=paired[2],
            paired_label=paired[3],
            unlabelled_group=unlabelled[1],
            unlabelled_teacher_group=natural[3],
            teacher_input=teacher[3],
        )

    def state_dict(self) -> dict[str, Any]:
        """States of all samplers: the next batch after loading is the next batch."""
        return {name: sampler.state_dict() for name, sampler in self._samplers.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, sampler in self._samplers.items():
            sampler.load_state_dict(state[name])


def _chosen(
    rows: Mapping[str, Tensor], name: str, tensors: Sequence[Inputs | None]
) -> list[Tensor | None]:
    """The columns of a streamed batch of which the data have any."""
    return [
        None if tensor is None else rows[column]
        for column, tensor in zip(_COLUMNS[name], tensors, strict=True)
    ]
