"""Batches out of shards: passes, parts, resume to the bit, and what is held in memory."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torchdata")

import torch

from shards_common import small
from ucmkd.data import Standardiser
from ucmkd.data.streaming import ShardBatches, ShardError, ShardFolder, ShuffledSamples

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def numbers(batches: ShardBatches, count: int) -> list[int]:
    """Row numbers of the next ``count`` batches."""
    return [int(x) for _ in range(count) for x in next(batches)["input"][:, 0]]


@pytest.fixture
def folder(tmp_path: Path) -> ShardFolder:
    return small(tmp_path / "shards")


def test_every_sample_once_in_each_pass(folder: ShardFolder) -> None:
    """Batches run across the end of a pass; passes differ; labels go with their samples."""
    batches = ShardBatches(folder, "train", 16, seed=0, buffer=12)
    drawn = list(itertools.islice(batches, 5))
    seen = torch.cat([b["input"][:, 0] for b in drawn]).int()
    first, second = seen[:40].tolist(), seen[40:].tolist()
    assert sorted(first) == sorted(second) == list(range(40)) and first != second
    assert torch.equal(torch.cat([b["label"] for b in drawn]), (seen % 3).long())
    assert drawn[0]["input"].shape == (16, 3) and drawn[0]["label"].dtype == torch.int64
    again, other = (ShardBatches(folder, "train", 16, seed=s, buffer=12) for s in (0, 1))
    assert numbers(again, 5) == seen.tolist() != numbers(other, 5)
    assert "label" not in next(ShardBatches(folder, "unlabelled", 4, seed=0))


def test_the_buffer_mixes_as_far_as_it_reaches(folder: ShardFolder) -> None:
    """By hand: with a buffer of 1 a shard comes in its own order, shard after shard."""
    samples = ShuffledSamples(folder.split("train"), folder.shape, 3, buffer=1)
    places = [(s.shard, s.number) for s in itertools.islice(samples, 40)]
    order = np.random.default_rng([3, 0]).permutation(6)
    sizes = folder.split("train").sizes
    assert places == [(shard, k) for shard in order.tolist() for k in range(sizes[shard])]
    # Two samples are held: the next one is one of the next two.
    samples = ShuffledSamples(folder.split("train"), folder.shape, 3, buffer=2)
    flat = {place: k for k, place in enumerate(places)}
    drawn = [flat[s.shard, s.number] for s in itertools.islice(samples, 40)]
    assert all(position <= k + 1 for k, position in enumerate(drawn)) and drawn != sorted(drawn)


def test_a_full_buffer_is_a_fair_shuffle(folder: ShardFolder) -> None:
    """The place of a sample in a pass: mean 19.5, and each of 40 equally often."""
    samples = ShuffledSamples(folder.split("train"), folder.shape, 0, buffer=40)
    where = np.empty((100, 40))
    for k in range(100):
        for position in range(40):
            where[k, int(next(samples).input[0])] = position
    # Standard deviation of a mean of 100 uniform places: 11.54 / 10.
    assert np.abs(where.mean(0) - 19.5).max() < 4.5 * 1.154
    counts = np.bincount(where.astype(int).ravel() // 10 * 4 + np.tile(np.arange(40) // 10, 100))
    assert ((counts - 250) ** 2 / 250).sum() < 40  # chi-squared, 9 degrees of freedom


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_workers_divide_a_pass(folder: ShardFolder, workers: int) -> None:
    """Two ranks with three shards each in a pass, of all six; other ones in the next."""
    seen = []
    for rank in range(2):
        batches = ShardBatches(
            folder, "train", 1, seed=5, workers=workers, rank=rank, world=2, buffer=5
        )
        drawn = [next(batches)["place"][0].tolist() for _ in range(60)]
        seen.append({place[0] for place in drawn[: 38 if workers else 18]})
        assert {place[0] for place in drawn} > seen[-1]
    if workers == 0:
        assert len(seen[0]) == len(seen[1]) == 3 and seen[0] | seen[1] == set(range(6))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_fewer_shards_than_readers(folder: ShardFolder) -> None:
    """Workers are left out; ranks that cannot divide the shards read all, each in its order."""
    assert ShardBatches(folder, "train", 4, seed=0, workers=9).workers == 6
    assert ShardBatches(folder, "train", 4, seed=0, workers=9, world=4).workers == 1
    ranks = [ShardBatches(folder, "unlabelled", 9, seed=0, rank=r, world=3) for r in range(3)]
    orders = [tuple(numbers(batches, 1)) for batches in ranks]
    assert all(sorted(order) == list(range(100, 109)) for order in orders)
    assert len(set(orders)) == 3


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("before", [0, 1, 7, 13])
def test_the_resume_is_exact(folder: ShardFolder, workers: int, before: int) -> None:
    """From any step, also twice, through a file as a checkpoint has it."""
    options = {"seed": 1, "workers": workers, "buffer": 9}
    path = folder.path / "state"
    batches = ShardBatches(folder, "train", 6, **options)
    numbers(batches, before)
    torch.save(batches.state_dict(), path)
    wanted = numbers(batches, 12)
    for _ in range(2):
        batches = ShardBatches(folder, "train", 6, **options)
        batches.load_state_dict(torch.load(path, weights_only=True))
        first = numbers(batches, 4)
        torch.save(batches.state_dict(), path)
        assert first == wanted[:24]
        wanted = first + numbers(batches, 8)
        batches = ShardBatches(folder, "train", 6, **options)
        batches.load_state_dict(torch.load(path, weights_only=True))
        assert numbers(batches, 8) == wanted[24:]
        wanted = wanted[24:] + numbers(batches, 4)


def test_a_state_is_numbers_and_small(folder: ShardFolder) -> None:
    """Which samples the buffer holds, not the samples; the global generators are left alone."""
    before = torch.get_rng_state()
    batches = ShardBatches(folder, "train", 6, seed=0, buffer=9)
    numbers(batches, 3)

    def leaves(value: object) -> list:
        if isinstance(value, dict):
            return [leaf for item in value.values() for leaf in leaves(item)]
        return [x for item in value for x in leaves(item)] if isinstance(value, list) else [value]

    found = leaves(batches.state_dict())
    assert all(isinstance(x, int | str | bool | None) for x in found) and len(found) < 60
    assert torch.equal(torch.get_rng_state(), before)


def test_states_of_something_else(folder: ShardFolder, tmp_path: Path) -> None:
    state = ShardBatches(folder, "train", 6, seed=0, buffer=9).state_dict()
    for options, message in (
        ({"seed": 1}, "seed is 0, here it is 1"),
        ({"seed": 0, "workers": 2}, "workers is 0, here it is 2"),
        ({"seed": 0, "buffer": 8}, "buffer is 9, here it is 8"),
    ):
        with pytest.raises(ValueError, match=f"state of another sampler: {message}"):
            ShardBatches(folder, "train", 6, **{"buffer": 9, **options}).load_state_dict(state)
    other = small(tmp_path / "other", n=41)
    with pytest.raises(ValueError, match="samples is 40, here it is 41"):
        ShardBatches(other, "train", 6, seed=0, buffer=9).load_state_dict(state)


def test_another_number_of_ranks_goes_on_with_new_passes(folder: ShardFolder) -> None:
    batches = ShardBatches(folder, "train", 6, seed=0)
    beginning = numbers(batches, 6)
    state = batches.state_dict()
    ranks = [ShardBatches(folder, "train", 6, seed=0, rank=r, world=2) for r in range(2)]
    for one in ranks:
        one.load_state_dict(state)
    parts = [numbers(one, 3) for one in ranks]
    assert not set(parts[0]) & set(parts[1])  # a new pass, divided
    back = ShardBatches(folder, "train", 6, seed=0)
    back.load_state_dict(ranks[0].state_dict())
    assert numbers(back, 6) != beginning


def test_the_reader_standardises(folder: ShardFolder) -> None:
    plain = ShardBatches(folder, "train", 40, seed=0)
    scaler = Standardiser(np.array([1.0, 0.5, -2.0]), np.array([2.0, 1.0, 4.0]))
    scaled = ShardBatches(folder, "train", 40, seed=0, standardiser=scaler)
    assert torch.equal(
        next(scaled)["input"], torch.from_numpy(scaler(next(plain)["input"].numpy()))
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_shard_ends_it_in_a_sentence(folder: ShardFolder, workers: int) -> None:
    for path in folder.split("train").files:
        path.write_bytes(path.read_bytes()[:3000])
    batches = ShardBatches(folder, "train", 6, seed=0, workers=workers)
    with pytest.raises(ShardError) as caught:
        next(batches)
    assert "\n" not in str(caught.value) and "train-0000" in str(caught.value)


def test_what_is_refused(folder: ShardFolder) -> None:
    for options, message in (
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"buffer": 0}, "buffer must be at least 1, got 0"),
        ({"workers": -1}, "workers must be at least 0, got -1"),
        ({"rank": 2, "world": 2}, r"rank must lie in 0…1 \(world - 1\), got 2"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"split": "test"}, "test"),
    ):
        with pytest.raises(ValueError, match=message):
            ShardBatches(folder, **{"split": "train", "batch_size": 4, "seed": 0, **options})


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """A pass over six times the samples has about the peak of a pass over one time."""
    peaks = []
    for n in (120, 720):
        folder = small(tmp_path / str(n), n=n, per_shard=40, width=512)
        batches = ShardBatches(folder, "train", 20, seed=0, buffer=40)
        next(batches)
        tracemalloc.start()
        for _ in range(n // 20):
            next(batches)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    sample = 512 * 4
    assert peaks[1] < 1.5 * peaks[0]
    assert peaks[1] < (40 + 3 * 20) * sample + 200_000 < 720 * sample / 3
