"""Samples of a training that are read as a stream, batch by batch, and the teacher's word on them.

In :class:`ucmkd.batches.TrainingData` a pool that is streamed has a few of its samples in the
place of all, to build models on; the batches come from here.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .data.loaders import check_state
from .data.standardise import Standardiser
from .data.streaming.index import ShardError, ShardFolder, Split
from .data.streaming.loader import ShardBatches, collated
from .data.streaming.order import Placed, all_samples, first_samples, read_places
from .models import Student

#: Samples of a stream that stand for it where models are built and certificates fitted.
SPECIMEN = 1024

Rows = dict[str, Tensor]
"""``input`` (b, ...), ``label`` (b,) if known, ``feature`` and ``logits`` if there is a teacher."""


@dataclass(frozen=True)
class Stream:
    """One pool of samples in shards.

    Attributes:
        folder: Of the shards.
        name: Of the split.
        standardiser: Of the inputs; None: as they are stored.
        workers, buffer: As of :class:`ucmkd.data.streaming.ShardBatches`.
        teacher: Frozen, in evaluation mode, float32; asked about each batch when it is drawn. None:
            inputs and labels alone.
        device, dtype: Of what is drawn; the teacher is on this device.
    """

    folder: ShardFolder
    name: str
    standardiser: Standardiser | None = None
    workers: int = 0
    buffer: int = 1000
    teacher: Student | None = None
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32

    @property
    def split(self) -> Split:
        """The shards."""
        return self.folder.split(self.name)

    def __len__(self) -> int:
        return len(self.split)

    @property
    def counts(self) -> Tensor | None:
        """Samples per class (C,), int64; None without labels."""
        return None if self.split.labels is None else torch.tensor(self.split.labels)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Stream:
        """The same, to be drawn on another device or in another type."""
        return replace(self, device=device, dtype=dtype or self.dtype)

    def specimen(self, count: int = SPECIMEN) -> tuple[Tensor, Tensor | None]:
        """Inputs and labels of a few samples, from shards throughout."""
        return self._held(first_samples(self.split, self.folder.shape, count))

    def whole(self) -> tuple[Tensor, Tensor | None]:
        """Inputs and labels of all samples, which then are in memory."""
        return self._held(list(all_samples(self.split, self.folder.shape)))

    def _held(self, samples: list[Placed]) -> tuple[Tensor, Tensor | None]:
        found = self.rows(samples)
        return found["input"], found.get("label")

    def rows(self, samples: list[Placed]) -> Rows:
        """Samples as one batch on the CPU, standardised."""
        return collated(samples, self.standardiser, self.split.labels is not None)

    def batches(self, batch_size: int, seed: int, rank: int, world: int) -> ShardBatches:
        """The loader: see :class:`ucmkd.data.streaming.ShardBatches`."""
        return ShardBatches(
            self.folder, self.name, batch_size, seed,
            buffer=self.buffer, workers=self.workers, rank=rank, world=world,
            standardiser=self.standardiser,
        )  # fmt: skip

    @torch.no_grad()
    def answered(self, rows: Rows) -> Rows:
        """The rows on the device, with the teacher's features and logits if there is one."""
        found = {name: value.to(self.device, non_blocking=True) for name, value in rows.items()}
        if self.teacher is not None:
            feature, logits = self.teacher.outputs(found["input"].float())
            found |= {"feature": feature.to(self.dtype), "logits": logits.to(self.dtype)}
        found["input"] = found["input"].to(self.dtype)
        return found


class StreamSampler:
    """Draws from a stream what the samplers of :mod:`ucmkd.data` draw from memory."""

    def __init__(self, stream: Stream, batch_size: int, seed: int, rank: int, world: int) -> None:
        self.stream = stream
        self._batches = stream.batches(min(batch_size, len(stream)), seed, rank, world)

    def __next__(self) -> Rows:
        return self.stream.answered(next(self._batches))

    def state_dict(self) -> dict[str, Any]:
        return self._batches.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._batches.load_state_dict(state)


class MatchedStreamSampler:
    """Draws, for given labels, samples of a stream with the same class counts.

    Samples wait in a queue of their class until one is asked for; a full queue loses its oldest.
    All queues together hold the stream's ``buffer``, or a batch if that is more. For a class that
    the stream does not have the next sample of any class is taken; a warning says so once.

    Args:
        stream: With labels.
        batch_size: Samples that are read at a time.
        seed, rank, world: As of :class:`ucmkd.data.streaming.ShardBatches`.

    Raises:
        ValueError: A stream without labels.
    """

    def __init__(self, stream: Stream, batch_size: int, seed: int, rank: int, world: int) -> None:
        counts = stream.split.labels
        if counts is None:
            raise ValueError(f"split {stream.name!r} of {stream.folder.path} has no labels")
        self.stream, self._counts = stream, np.array(counts)
        self._batches = stream.batches(min(batch_size, len(stream)), seed, rank, world)
        self._longest = -(-stream.buffer // len(counts))
        self._queues: list[deque[Placed]] = [deque() for _ in counts]
        names = [stream.folder.class_names[k] for k in np.flatnonzero(self._counts == 0)]
        if names:
            warnings.warn(
                f"no samples of class {', '.join(names)} to match with; the next samples of the "
                "stream are drawn instead",
                stacklevel=3,
            )

    def draw(self, labels: Tensor) -> Rows:
        """Row i has the class ``labels[i]``, unless the stream lacks it; labels on the CPU."""
        wanted = labels.tolist()
        counted = np.bincount(wanted, minlength=len(self._counts))
        any_class: deque[Placed] = deque()
        free = int(counted[self._counts == 0].sum())
        need = np.where(self._counts == 0, 0, counted)
        read, limit = 0, 4 * len(self.stream) + 4 * len(wanted) + self.stream.buffer
        while len(any_class) < free or any(
            len(queue) < count for queue, count in zip(self._queues, need, strict=True)
        ):
            if read > limit:
                raise ShardError(
                    f"{self.stream.folder.path}: classes {np.flatnonzero(need).tolist()} were not "
                    f"all found in {read} samples of split {self.stream.name!r}; its index has "
                    f"{self._counts.tolist()} of each, another reader may have all of one: write "
                    "more shards"
                )
            for sample in self._next():
                read += 1
                if len(any_class) < free:
                    any_class.append(sample)
                    continue
                queue = self._queues[sample.label]
                queue.append(sample)
                if len(queue) > max(self._longest, need[sample.label]):
                    queue.popleft()
        drawn = [(self._queues[k] if self._counts[k] else any_class).popleft() for k in wanted]
        # The reader has scaled them already.
        return self.stream.answered(collated(drawn, None, True))

    def _next(self) -> list[Placed]:
        batch = next(self._batches)
        columns = batch["input"].numpy(), batch["label"].tolist(), batch["place"].tolist()
        return [Placed(x, label, *place) for x, label, place in zip(*columns, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Of the reading, and which samples wait."""
        return {
            "longest": self._longest,
            "batches": self._batches.state_dict(),
            "waiting": [[n for s in queue for n in (s.shard, s.number)] for queue in self._queues],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken; the samples that waited are read again."""
        check_state(state, longest=self._longest)
        self._batches.load_state_dict(state["batches"])
        stream = self.stream
        for queue, numbers in zip(self._queues, state["waiting"], strict=True):
            places = list(zip(numbers[::2], numbers[1::2], strict=True))
            queue.clear()
            if places:
                samples = read_places(stream.split, stream.folder.shape, places)
                scaled = stream.rows(samples)["input"].numpy()
                queue.extend(s._replace(input=x) for s, x in zip(samples, scaled, strict=True))
