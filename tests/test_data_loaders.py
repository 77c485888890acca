"""Samplers: every sample comes, classes match, and a resumed sequence goes on exactly."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ucmkd.data import ClassMatchedSampler, InfiniteSampler, PairedLoader, UnpairedSampler


def counts(labels: Tensor, classes: int) -> list[int]:
    return torch.bincount(labels, minlength=classes).tolist()


@settings(deadline=None, max_examples=50)
@given(n=st.integers(1, 30), batch=st.integers(1, 40), seed=st.integers(0, 1000))
def test_every_pass_has_every_sample_once(n, batch, seed):
    sampler = InfiniteSampler(n, batch, seed)
    drawn = torch.cat([next(sampler) for _ in range(1 + 3 * n // batch)])
    assert all(len(next(sampler)) == batch for _ in range(3))
    for start in range(0, len(drawn) - n + 1, n):
        assert torch.equal(drawn[start : start + n].sort().values, torch.arange(n))


def test_batches_do_not_alias_the_sampler():
    sampler, control = InfiniteSampler(10, 4, 0), InfiniteSampler(10, 4, 0)
    next(sampler).zero_()
    next(control)
    assert torch.equal(next(sampler), next(control))


def test_passes_differ_and_the_global_generator_is_untouched():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    sampler = InfiniteSampler(100, 100, 0)
    assert not torch.equal(next(sampler), next(sampler))
    ClassMatchedSampler(torch.arange(10), 0).draw(torch.arange(10))
    assert torch.equal(torch.get_rng_state(), before)


def infinite() -> InfiniteSampler:
    return InfiniteSampler(37, 8, 3)


def unpaired() -> UnpairedSampler:
    return UnpairedSampler(torch.arange(50) % 3, torch.arange(41) % 3, 8, 12, seed=3)


def matched() -> UnpairedSampler:
    labels = torch.arange(50) % 3
    return UnpairedSampler(labels, torch.arange(41) % 3, 8, seed=3, class_matched=True)


def paired() -> PairedLoader:
    return PairedLoader({"a": torch.arange(37), "b": torch.arange(37) * 2}, 8, 3)


@pytest.mark.parametrize("make", [infinite, unpaired, matched, paired])
@pytest.mark.parametrize("steps", [0, 1, 7, 30])
def test_a_resumed_sequence_goes_on_exactly(make: Callable[[], InfiniteSampler], steps: int):
    sampler = make()
    for _ in range(steps):
        next(sampler)
    stored = io.BytesIO()
    torch.save(sampler.state_dict(), stored)
    expected = [next(sampler) for _ in range(40)]
    stored.seek(0)
    resumed = make()
    for _ in range(5):
        next(resumed)
    resumed.load_state_dict(torch.load(stored, weights_only=True))
    for want in expected:
        got = next(resumed)
        parts = (want, got) if isinstance(want, tuple | dict) else ((want,), (got,))
        for one, other in zip(
            *(p.values() if isinstance(p, dict) else p for p in parts), strict=True
        ):
            assert torch.equal(one, other)


def test_a_state_is_a_snapshot_and_belongs_to_its_sampler():
    sampler = ClassMatchedSampler(torch.arange(20) % 4, 0)
    state = sampler.state_dict()
    first = [sampler.draw(torch.arange(4)) for _ in range(9)]
    sampler.load_state_dict(state)
    assert all(torch.equal(batch, sampler.draw(torch.arange(4))) for batch in first)
    with pytest.raises(ValueError, match="n is 20, here it is 21"):
        ClassMatchedSampler(torch.arange(21) % 4, 0).load_state_dict(state)
    with pytest.raises(ValueError, match="batch_size is 3, here it is 4"):
        InfiniteSampler(10, 4, 0).load_state_dict(InfiniteSampler(10, 3, 0).state_dict())


@settings(deadline=None, max_examples=50)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    wanted=st.lists(st.integers(0, 4), max_size=40),
    seed=st.integers(0, 1000),
)
def test_class_matched_draws(sizes, wanted, seed):
    classes = len(sizes)
    labels = torch.repeat_interleave(torch.arange(classes), torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    sampler = ClassMatchedSampler(labels, seed)
    asked = torch.tensor([k % classes for k in wanted], dtype=torch.int64)
    for _ in range(4):
        drawn = sampler.draw(asked)
        assert torch.equal(labels[drawn], asked)
        for k in range(classes):
            mine = drawn[asked == k]
            if len(mine) <= sizes[k]:
                assert len(mine.unique()) == len(mine)


def test_class_matched_draws_use_every_sample_equally():
    labels = torch.tensor([0] * 7 + [1] * 3 + [2] * 20)
    sampler = ClassMatchedSampler(labels, 1)
    asked = torch.tensor([0, 2, 1, 0, 2, 2])
    times = torch.zeros(30)
    for _ in range(3000):
        times += torch.bincount(sampler.draw(asked), minlength=30)
    share = times / 3000 / torch.tensor([2 / 7] * 7 + [1 / 3] * 3 + [3 / 20] * 20)
    assert (share - 1).abs().max() < 0.1


def test_missing_classes_are_named_and_drawn_from_all():
    labels = torch.tensor([0] * 30 + [2] * 10)
    with pytest.warns(UserWarning, match="no samples of class dog, emu"):
        sampler = ClassMatchedSampler(
            labels, 0, num_classes=4, class_names=["cat", "dog", "cow", "emu"]
        )
    assert sampler.missing == ("dog", "emu")
    asked = torch.tensor([0, 1, 3, 2] * 5)
    drawn = torch.stack([sampler.draw(asked) for _ in range(400)])
    assert (labels[drawn[:, asked == 0]] == 0).all() and (labels[drawn[:, asked == 2]] == 2).all()
    other = labels[drawn[:, (asked == 1) | (asked == 3)]]
    assert abs((other == 0).float().mean() - 0.75) < 0.05
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ClassMatchedSampler(labels % 2, 0).missing == ()


def test_unpaired_sampler():
    student, teacher = torch.arange(60) % 3, (torch.arange(90) % 9) // 3
    plain = UnpairedSampler(student, teacher, 12, 20, seed=0)
    batch = next(plain)
    assert batch.student.shape == (12,) and batch.teacher.shape == (20,)
    same = UnpairedSampler(student, teacher, 12, 20, seed=0)
    assert torch.equal(next(same).teacher, batch.teacher)
    assert not torch.equal(
        next(UnpairedSampler(student, teacher, 12, 20, seed=1)).teacher, batch.teacher
    )
    # The two streams are independent: another batch size of the one leaves the other as it is.
    other = next(UnpairedSampler(student, teacher, 5, 20, seed=0))
    assert torch.equal(other.teacher, batch.teacher)
    together = UnpairedSampler(student, teacher, 12, seed=0, class_matched=True)
    for _ in range(20):
        batch = next(together)
        assert counts(student[batch.student], 3) == counts(teacher[batch.teacher], 3)


def test_natural_frequencies():
    labels = torch.tensor([0] * 90 + [1] * 10)
    sampler = InfiniteSampler(100, 30, 0)
    drawn = labels[torch.cat([next(sampler) for _ in range(10)])]
    assert counts(drawn, 2) == [270, 30]


def test_paired_loader_keeps_rows_together():
    loader = PairedLoader({"x": torch.randn(9, 2), "row": torch.arange(9)}, 4, 0)
    for _ in range(5):
        batch = next(loader)
        assert torch.equal(batch["x"], loader.tensors["x"][batch["row"]])


def test_bad_arguments():
    for n, batch in ((0, 1), (1, 0), (-1, 2)):
        with pytest.raises(ValueError, match="at least 1"):
            InfiniteSampler(n, batch, 0)
    for generator in (None, "0", True, 1.5):
        with pytest.raises(TypeError, match="generator"):
            InfiniteSampler(1, 1, generator)  # type: ignore[arg-type]
    labels = torch.arange(3)
    for bad in (torch.zeros(3), labels[None], torch.ones(3, dtype=torch.bool)):
        with pytest.raises(ValueError, match="one-dimensional integer"):
            ClassMatchedSampler(bad, 0, num_classes=3)
    with pytest.raises(ValueError, match="must not be empty"):
        ClassMatchedSampler(labels[:0], 0)
    with pytest.raises(ValueError, match=r"labels must lie in 0…2, got 0…5"):
        ClassMatchedSampler(labels, 0).draw(torch.tensor([0, 5]))
    with pytest.raises(ValueError, match="labels must lie"):
        ClassMatchedSampler(torch.tensor([-1, 0]), 0)
    with pytest.raises(ValueError, match="class_names"):
        ClassMatchedSampler(labels, 0, class_names=["a"])
    with pytest.raises(ValueError, match="same number of rows"):
        PairedLoader({"a": labels, "b": labels[:2]}, 1, 0)
    with pytest.raises(ValueError, match="same number of rows"):
        PairedLoader({}, 1, 0)
    with pytest.raises(ValueError, match="teacher_batch"):
        UnpairedSampler(labels, labels, 2, 3, seed=0, class_matched=True)
    with pytest.raises(ValueError, match="must not be empty"):
        UnpairedSampler(labels, labels[:0], 2, seed=0)


def test_no_teacher_batch_is_not_the_students() -> None:
    labels = torch.arange(9) % 3
    with pytest.raises(ValueError, match="batch_size"):
        UnpairedSampler(labels, labels, 4, 0, seed=0)
    assert len(next(UnpairedSampler(labels, labels, 4, seed=0)).teacher) == 4
