"""Batches out of shards, read ahead by processes of their own, resumable at any step.

The processes and their states are :class:`torchdata.stateful_dataloader.StatefulDataLoader`'s: each
batch comes with the state of the process that read it, so that what was read ahead and not used
is not lost at a resume.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ucmkd.data.loaders import check_state
from ucmkd.data.standardise import Standardiser
from ucmkd.data.streaming.index import ShardError, ShardFolder
from ucmkd.data.streaming.order import Placed, ShuffledSamples


def collated(
    samples: list[Placed], standardiser: Standardiser | None, labelled: bool
) -> dict[str, Tensor]:
    """Samples as one batch: ``input`` (b, ...), ``place`` (b, 2), and ``label`` (b,) if known."""
    inputs = np.stack([sample.input for sample in samples])
    if standardiser is not None:
        inputs = standardiser(inputs)
    batch = {
        "input": torch.from_numpy(inputs),
        "place": torch.tensor([(sample.shard, sample.number) for sample in samples]),
    }
    if labelled:
        batch["label"] = torch.tensor([sample.label for sample in samples])
    return batch


class _Batched:
    """The batches of one reader."""

    def __init__(
        self, samples: ShuffledSamples, size: int, standardiser: Standardiser | None
    ) -> None:
        self._samples, self._size, self._standardiser = samples, size, standardiser

    def __iter__(self) -> _Batched:
        return self

    def __next__(self) -> dict[str, Tensor]:
        samples = [next(self._samples) for _ in range(self._size)]
        return collated(samples, self._standardiser, self._samples.split.labels is not None)

    def state_dict(self) -> dict[str, Any]:
        return self._samples.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._samples.load_state_dict(state)


class _Readers(IterableDataset[dict[str, Tensor]]):
    """Tells the readers apart, in whichever process they are."""

    def __init__(
        self, split: Any, shape: tuple[int, ...], size: int, standardiser: Standardiser | None,
        **options: int,
    ) -> None:  # fmt: skip
        self._split, self._shape, self._size = split, shape, size
        self._standardiser, self._options = standardiser, options

    def __iter__(self) -> _Batched:
        options, worker = dict(self._options), get_worker_info()
        if worker is not None:
            options["part"] += worker.id
        return _Batched(
            ShuffledSamples(self._split, self._shape, **options), self._size, self._standardiser
        )


def _as_it_is(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return batch


class ShardBatches:
    """Batches of one split without end, ``input`` (b, ...) float32 and ``label`` (b,) int64.

    The counterpart of :class:`ucmkd.data.InfiniteSampler` for what does not fit into memory: what
    is held are ``buffer`` samples for each reader and two batches read ahead. Each rank, and each
    worker within it, reads its own part of the shards, other ones in every pass. With fewer shards
    than ranks every rank reads all of them, in an order of its own; with fewer shards than readers
    some workers are left out.

    Iterating gives a dictionary; ``place`` (b, 2) in it says which sample of which shard a row is.

    Args:
        folder: Of the shards.
        split: Name of the split.
        batch_size: Samples in a batch; batches run across the end of a pass.
        seed: Of the order; the same on all ranks.
        buffer: Samples that each reader mixes.
        workers: Processes that read ahead; 0: reading happens in between. Another number is
            another order.
        rank: Of this process.
        world: Number of processes.
        standardiser: Applied to the inputs by the reader.

    Raises:
        ImportError: torchdata is not installed (the extra ``stream``).
        ValueError: A size that is not positive, or a rank outside 0 … world - 1.
        ShardError: No such split; while reading: a damaged shard.
    """

    def __init__(
        self,
        folder: ShardFolder,
        split: str,
        batch_size: int,
        seed: int,
        *,
        buffer: int = 1000,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        standardiser: Standardiser | None = None,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("buffer", buffer), ("world", world)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if workers < 0:
            raise ValueError(f"workers must be at least 0, got {workers}")
        if not 0 <= rank < world:
            raise ValueError(f"rank must lie in 0…{world - 1} (world - 1), got {rank}")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        self.folder, self.split, self.standardiser = folder, folder.split(split), standardiser
        self.batch_size, self.seed, self.buffer = batch_size, seed, buffer
        self.asked, self.rank, self.world = workers, rank, world
        self._restarts = 0
        self._make(None)

    @property
    def workers(self) -> int:
        """Processes that read ahead, no more than there are shards for each rank."""
        return min(self.asked, max(1, len(self.split.files) // self.world))

    def _make(self, state: Any) -> None:
        try:
            from torchdata.stateful_dataloader import StatefulDataLoader
        except ImportError as error:
            raise ImportError(
                "streams need torchdata: install it with pip install 'ucmkd[stream]'"
            ) from error
        shared = len(self.split.files) < self.world  # too few to divide
        readers = max(1, self.workers)
        seeds = (self.seed, self._restarts, self.rank if shared else self.world + 1)
        dataset = _Readers(
            self.split,
            self.folder.shape,
            self.batch_size,
            self.standardiser,
            seed=int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0]),
            buffer=self.buffer,
            part=0 if shared else self.rank * readers,
            parts=readers if shared else self.world * readers,
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="'set_vital' is deprecated")
            self._loader = StatefulDataLoader(
                dataset,
                batch_size=None,
                num_workers=self.workers,
                collate_fn=_as_it_is,
                generator=torch.Generator().manual_seed(0),  # else it draws from the global one
            )
        if state is not None:
            self._loader.load_state_dict(state)
        self._iterator: Iterator[dict[str, Tensor]] | None = None

    def __iter__(self) -> ShardBatches:
        return self

    def __next__(self) -> dict[str, Tensor]:
        if self._iterator is None:
            self._iterator = iter(self._loader)
        try:
            return next(self._iterator)
        except ShardError as error:  # of a worker it comes with the worker's traceback
            raise ShardError(
                str(error).strip().splitlines()[-1].partition("ShardError: ")[2] or str(error)
            ) from None

    def state_dict(self) -> dict[str, Any]:
        """Everything the coming batches depend on: numbers, no sample."""
        if self._iterator is None:
            self._iterator = iter(self._loader)
        return {
            **self._identity(),
            "rank": self.rank,
            "world": self.world,
            "restarts": self._restarts,
            "loader": self._loader.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken, with the very batches that would have come.

        The state of another number of ranks begins new passes, in an order that has not been.

        Raises:
            ValueError: The state belongs to other shards or settings.
            ShardError: The shards have changed since.
        """
        check_state(state, **self._identity())
        same = (state["rank"], state["world"]) == (self.rank, self.world)
        self._restarts = state["restarts"] + (not same)
        self._make(state["loader"] if same else None)

    def _identity(self) -> dict[str, Any]:
        return {
            "split": self.split.name,
            "samples": len(self.split),
            "batch_size": self.batch_size,
            "buffer": self.buffer,
            "seed": self.seed,
            "workers": self.asked,
        }
