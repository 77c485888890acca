"""One reader's endless, shuffled way through its part of the shards; where it is, it can say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ucmkd.data.loaders import check_state
from ucmkd.data.streaming.index import ShardError, Split
from ucmkd.data.streaming.samples import read_samples


class Placed(NamedTuple):
    """A sample and where it lies: number of the shard in its split, number in the shard."""

    input: NDArray[np.float32]
    label: int
    shard: int
    number: int


class ShuffledSamples:
    """Samples of one split without end, every sample of a part once in each pass.

    A pass takes the shards in random order, those at positions ``part``, ``part + parts``, … of it:
    equal for all readers, so that they divide the shards anew in each pass. Samples are read one
    after the other into a buffer, and a random one leaves it; at the end of a pass it runs empty.

    The state are numbers: the pass, how far it is read, how many were drawn, and *which* samples
    the buffer holds. Going on reads these again, at most ``buffer`` of them.

    Args:
        split: The shards, at least ``parts`` of them.
        shape: Of a sample.
        seed: Of the order, the same for all parts.
        part: Which part, 0 … parts - 1.
        parts: Readers in all, over all processes.
        buffer: The most samples that are held; 1: none is mixed with others of its shard.
    """

    def __init__(
        self,
        split: Split,
        shape: tuple[int, ...],
        seed: int,
        *,
        part: int = 0,
        parts: int = 1,
        buffer: int = 1000,
    ) -> None:
        self.split, self.shape, self.seed = split, shape, seed
        self.part, self.parts, self.buffer = part, parts, buffer
        self._held: list[Placed] = []
        self._begin(0)

    def __iter__(self) -> Iterator[Placed]:
        return self

    def __next__(self) -> Placed:
        self._fill()
        if not self._held:
            self._begin(self._pass + 1)
            self._fill()
        held = self._held
        slot = self._random.random_raw() * len(held) >> 64  # 64 random bits times the length
        self._drawn += 1
        held[slot], held[-1] = held[-1], held[slot]
        return held.pop()

    def state_dict(self) -> dict[str, Any]:
        """Everything the coming samples depend on, in plain numbers."""
        held = [number for sample in self._held for number in (sample.shard, sample.number)]
        return {
            **self._identity(),
            "pass": self._pass,
            "taken": self._taken,
            "drawn": self._drawn,
            "held": held,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: The state belongs to other shards, another part or another buffer.
            ShardError: The shards have changed since.
        """
        check_state(state, **self._identity())
        self._begin(state["pass"])
        self._taken, self._drawn = state["taken"], state["drawn"]
        self._random.advance(self._drawn)
        self._reader = self._read(self._taken)
        places = list(zip(state["held"][::2], state["held"][1::2], strict=True))
        self._held = read_places(self.split, self.shape, places)

    def _identity(self) -> dict[str, Any]:
        return {
            "split": self.split.name,
            "shards": len(self.split.files),
            "samples": len(self.split),
            "seed": self.seed,
            "part": self.part,
            "parts": self.parts,
            "buffer": self.buffer,
        }

    def _begin(self, number: int) -> None:
        """Pass ``number``, from its first sample."""
        order = np.random.default_rng([self.seed, number]).permutation(len(self.split.files))
        self._shards: list[int] = order[self.part :: self.parts].tolist()
        key = np.random.SeedSequence([self.seed, number, 1 + self.part])
        self._random = np.random.PCG64(key)
        self._pass, self._taken, self._drawn = number, 0, 0
        self._reader = self._read(0)

    def _fill(self) -> None:
        while len(self._held) < self.buffer:
            sample = next(self._reader, None)
            if sample is None:
                return
            self._held.append(sample)
            self._taken += 1

    def _read(self, skip: int) -> Iterator[Placed]:
        """What is left of this pass after ``skip`` samples."""
        for shard in self._shards:
            size = self.split.sizes[shard]
            if skip < size:
                yield from _whole_shard(self.split, self.shape, shard, skip)
            skip = max(0, skip - size)


def _whole_shard(
    split: Split, shape: tuple[int, ...], shard: int, start: int = 0
) -> Iterator[Placed]:
    """The samples of one shard from number ``start``, as many as the index says."""
    classes = None if split.labels is None else len(split.labels)
    path, size, after = split.files[shard], split.sizes[shard], start
    for sample in read_samples(path, shape=shape, classes=classes, start=start):
        after = sample.number + 1
        if after > size:
            break
        yield Placed(sample.input, sample.label, shard, sample.number)
    if after != size:
        found = f"only {after}" if after < size else "more"
        raise ShardError(
            f"{path} has {found} samples, and the index says {size}: the file is cut short, or "
            "the index is of another one"
        )


def read_places(
    split: Split, shape: tuple[int, ...], places: Iterable[tuple[int, int]]
) -> list[Placed]:
    """The samples at ``(shard, number)``, in the order asked for; a shard is opened once.

    Raises:
        ShardError: There is no such sample.
    """
    wanted = list(places)
    by_shard: dict[int, set[int]] = {}
    for shard, number in wanted:
        by_shard.setdefault(shard, set()).add(number)
    classes = None if split.labels is None else len(split.labels)
    found: dict[tuple[int, int], Placed] = {}
    for shard, numbers in by_shard.items():
        for sample in read_samples(split.files[shard], shape=shape, classes=classes, only=numbers):
            key = (shard, sample.number)
            found[key] = Placed(sample.input, sample.label, *key)
        if missing := [number for number in numbers if (shard, number) not in found]:
            raise ShardError(
                f"{split.files[shard]} has no sample number {missing[0]}: it has changed since the "
                "state was taken"
            )
    return [found[place] for place in wanted]


def first_samples(split: Split, shape: tuple[int, ...], count: int) -> list[Placed]:
    """About ``count`` samples, or all if there are fewer, the first ones of evenly spaced shards.

    Most of 32 shards are opened: the samples are for building models and small checks.
    """
    shards = min(len(split.files), 32)
    chosen = np.unique(np.arange(shards) * len(split.files) // shards).tolist()
    each = -(-count // len(chosen))
    places = [(k, number) for k in chosen for number in range(min(each, split.sizes[k]))]
    return read_places(split, shape, places[:count])


def all_samples(split: Split, shape: tuple[int, ...]) -> Iterator[Placed]:
    """Every sample once, in order: for what is held in memory whole."""
    for shard in range(len(split.files)):
        yield from _whole_shard(split, shape, shard)
