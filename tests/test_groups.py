"""Coarse correspondences: who may be matched with whom, and what a batch holds of it."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from ucmkd.batches import Batches, TrainingData
from ucmkd.config import ConfigError, DataConfig, TrainingConfig, from_mapping
from ucmkd.data import GroupSampler
from ucmkd.methods import create
from ucmkd.methods.correspondence import correspondence
from ucmkd.models import MLP
from ucmkd.preparation import prepare
from ucmkd.trainer import fit

FIRST = torch.tensor([0, 0, 0, 1, 1, 2, -1, -1, 9])
SECOND = torch.tensor([1, 0, 0, -1, 1, 1, 2, -1, -1, 7])


def test_whole_groups_come_together() -> None:
    for first, second in islice(GroupSampler(FIRST, SECOND, (64, 64), 0), 20):
        assert len(first) == len(FIRST)  # a pass has all of them, once
        assert sorted(first.tolist()) == list(range(len(FIRST)))
        assert set(SECOND[second].tolist()) == {0, 1, 2, -1, 7}  # 7 is on one side: as unknown
    small = GroupSampler(torch.arange(40) // 2, torch.arange(40) // 2, (8, 8), 3)
    seen: list[int] = []
    for first, second in islice(small, 5):
        assert sorted(first.tolist()) == sorted(second.tolist()) and len(first) == 8
        seen += first.tolist()
    assert sorted(seen) == list(range(40))


def test_a_large_group_gives_a_part() -> None:
    member = torch.arange(500) % 5
    drawn = list(islice(GroupSampler(member, member, (16, 32), 0), 50))
    for first, second in drawn:
        counts = [torch.bincount(member[rows], minlength=5).tolist() for rows in (first, second)]
        assert sorted(counts[0]) == [0, 4, 4, 4, 4] and counts[1] == [2 * n for n in counts[0]]
        assert len(set(first.tolist())) == len(first)
    assert len(set(torch.cat([first for first, _ in drawn]).tolist())) > 350
    single = torch.zeros(100).long()  # one group fills the batch
    first, second = next(GroupSampler(single, single, (16, 32), 0))
    assert len(first) == 16 and len(second) == 32
    whole = torch.arange(100) // 10  # a group that fits is there as a whole
    first, second = next(GroupSampler(whole, whole, (16, 32), 0))
    assert torch.bincount(whole[first]).max() == 10 and len(first) == len(second) == 20


def test_the_sampler_goes_on_where_it_was() -> None:
    sampler = GroupSampler(FIRST, SECOND, (3, 4), 5)
    list(islice(sampler, 7))
    state = sampler.state_dict()
    coming = list(islice(sampler, 6))
    other = GroupSampler(FIRST, SECOND, (3, 4), 99)
    other.load_state_dict(state)
    for (a, b), (c, d) in zip(coming, islice(other, 6), strict=True):
        assert torch.equal(a, c) and torch.equal(b, d)
    with pytest.raises(ValueError, match="state of another sampler: sizes"):
        GroupSampler(FIRST, SECOND, (4, 4), 5).load_state_dict(state)
    with pytest.raises(ValueError, match="batch size of the second set must be at least 1, got 0"):
        GroupSampler(FIRST, SECOND, (4, 0), 5)


def test_unknown_groups_are_matched_with_anyone() -> None:
    """Where the second set has known groups alone, a loose sample must not stand without it."""
    first = torch.cat((torch.full((200,), -1), torch.tensor([0, 0, 1, 1])))
    second = torch.arange(20) // 10
    seen: set[int] = set()
    for own, other in islice(GroupSampler(first, second, (16, 16), 0), 200):
        assert len(set(other.tolist())) == len(other) >= 16
        for g in first[own].unique():  # known groups are there as before, as a whole
            assert g == -1 or bool((second[other] == g).sum() == 10)
        seen |= set(other.tolist())
    assert len(seen) == 20
    # All of the second set may be in the batch already.
    own, other = next(GroupSampler(torch.tensor([0, -1]), torch.zeros(3).long(), (2, 9), 0))
    assert sorted(own.tolist()) == [0, 1] and sorted(other.tolist()) == [0, 1, 2]
    # The other way round every sample of the first set has its group, and nothing is missing.
    for own, other in islice(GroupSampler(second, first, (4, 64), 0), 50):
        assert len(own) and set(first[other].tolist()) == set(second[own].tolist())


def test_batches_with_loose_samples_of_both_sets_stay_as_they_are() -> None:
    drawn = list(islice(GroupSampler(FIRST, SECOND, (3, 4), 5), 3))
    assert [(own.tolist(), other.tolist()) for own, other in drawn] == [
        ([8, 0, 1, 2], [1, 2, 8]),
        ([3, 4, 6], [0, 4, 5, 3]),
        ([7, 5, 0, 1, 2], [6, 1, 2, 9]),
    ]


def test_joint_alignment_learns_with_partly_unknown_groups() -> None:
    generator = torch.Generator().manual_seed(1)
    first = torch.cat((torch.full((100,), -1), torch.tensor([0, 0, 1, 1])))
    data = TrainingData(
        4,
        torch.randn(30, 7, generator=generator),
        torch.arange(30) % 4,
        unlabelled=torch.randn(104, 7, generator=generator),
        unlabelled_group=first,
        teacher_feature=torch.randn(20, 5, generator=generator),
        teacher_logits=torch.randn(20, 4, generator=generator),
        teacher_label=torch.arange(20) % 4,
        teacher_group=torch.arange(20) // 10,
    )
    made = create(
        "joint_alignment", MLP(7, num_classes=4, width=6), num_classes=4, teacher_width=5,
        class_prior=torch.ones(4),
    )  # fmt: skip
    training = TrainingConfig(
        steps=15, batch_size=8, unlabelled_batch_size=8, teacher_batch_size=8, log_every=5
    )
    assert all(np.isfinite(r["loss"]["joint"]) for r in fit(made, data, training).history)


def test_columns_weigh_what_their_rows_weigh() -> None:
    known = correspondence(
        4, 5, pairs=1, row_group=torch.tensor([3, 3, 8, -1]),
        column_group=torch.tensor([3, 8, 8, -1, -1]),
    )  # fmt: skip
    base = torch.tensor([1.0, 1.0, 3.0, 2.0, 2.0, 1.0])
    expected = torch.tensor([2 / 5, 1 / 20, 3 / 20, 1 / 10, 1 / 10, 1 / 5])
    torch.testing.assert_close(known.column_weight(base), expected)
    # Rows of group 1 have no columns: the others take their mass.
    lost = correspondence(2, 1, row_group=torch.tensor([0, 1]), column_group=torch.tensor([0]))
    torch.testing.assert_close(lost.column_weight(torch.ones(1)), torch.ones(1))


CONFIG = {
    "teacher": {"dataset": "digits", "view": "pixels"},
    "student": {"dataset": "digits", "view": "shape", "labels_per_class": 5},
    "cohort_size": 6,
}


def config(**changes: object) -> DataConfig:
    made: DataConfig = from_mapping(DataConfig, {**CONFIG, **changes}, "data")
    return made


def test_cohorts_are_the_unlabelled_samples_shuffled() -> None:
    prepared, plain = prepare(config(), 3), prepare(config(cohort_size=None), 3)
    own, theirs = prepared.student.unlabelled_group, prepared.student.cohort_group
    assert own is not None and theirs is not None and prepared.cohort_teacher is not None
    count = torch.bincount(own)
    assert torch.equal(count, torch.bincount(theirs)) and bool((count[:-1] == 6).all())
    assert len(prepared.cohort_teacher) == len(theirs) == len(own)
    assert not torch.equal(own, theirs)
    # Nothing else changes, and the samples are those that all pairs would have.
    assert torch.equal(prepared.student.unlabelled, plain.student.unlabelled)
    paired = prepare(config(cohort_size=None, pairs=-1), 3)
    assert paired.paired_teacher is not None
    rows = {tuple(row) for row in paired.paired_teacher.tolist()}
    assert {tuple(row) for row in prepared.cohort_teacher.tolist()} == rows
    # Within a cohort they are the same people.
    single = prepare(config(cohort_size=1), 3)
    a, b = single.student.unlabelled_group, single.student.cohort_group
    assert a is not None and b is not None and single.cohort_teacher is not None
    ordered = single.cohort_teacher[torch.argsort(b)][a]
    assert torch.equal(ordered, paired.paired_teacher)


def test_cohorts_need_two_views_and_a_pool() -> None:
    with pytest.raises(ConfigError, match="cohort_size must be null: teacher and student come"):
        prepare(
            config(
                teacher={"dataset": "digits_pixels"},
                student={"dataset": "digits_shape", "labels_per_class": 5},
            ),
            0,
        )
    student = {**CONFIG["student"], "unlabelled": False}  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="cohort_size needs unlabelled samples"):
        prepare(config(student=student), 0)
    with pytest.raises(ConfigError, match="cohort_size must be null beside correspondence"):
        config(correspondence="group")
    with pytest.raises(ConfigError, match="cohort_size must be a positive integer or null, got 0"):
        config(cohort_size=0)


def test_batches_align_cohorts_with_themselves() -> None:
    generator = torch.Generator().manual_seed(0)
    member = torch.arange(24) // 4
    data = TrainingData(
        num_classes=3,
        student=torch.randn(6, 5, generator=generator),
        student_label=torch.tensor([0, 1, 2, 0, 1, 2]),
        teacher_feature=torch.zeros(9, 4),
        teacher_logits=torch.zeros(9, 3),
        teacher_label=torch.arange(9) % 3,
        unlabelled=torch.randn(24, 5, generator=generator),
        unlabelled_group=member,
        cohort_feature=member.flip(0)[:, None].float().expand(24, 4) + 1,
        cohort_logits=torch.zeros(24, 3),
        cohort_group=member.flip(0),
    )

    def method(**options: object) -> object:
        return create(
            "joint_alignment", MLP(5, num_classes=3, width=4), num_classes=3, teacher_width=4,
            class_prior=torch.ones(3), **options,
        )  # fmt: skip

    training = TrainingConfig(unlabelled_batch_size=8, teacher_batch_size=12)
    batch = Batches(data, method(), training, seed=1).draw()  # type: ignore[arg-type]
    group, other = batch.unlabelled_group, batch.unlabelled_teacher_group
    assert group is not None and other is not None and batch.unlabelled_teacher_feature is not None
    assert sorted(group.tolist()) == sorted(group.unique().tolist() * 4)  # whole cohorts
    assert set(other.tolist()) == set(group.tolist())
    assert torch.equal(batch.unlabelled_teacher_feature[:, 0], other + 1.0)
    made = method()
    made.backward(batch, 10)  # type: ignore[attr-defined]
    # The bank has them all in every step, so that its potentials can be kept.
    bank = method(bank=True)
    for _ in range(3):
        whole = Batches(data, bank, training, seed=1).draw()  # type: ignore[arg-type]
        other = whole.unlabelled_teacher_group
        assert other is not None and other.tolist() == [-1] * 9 + member.flip(0).tolist()
        terms = bank.backward(whole, 10)  # type: ignore[attr-defined]
        assert bool(terms["joint"].isfinite()) and len(bank.start) == 33  # type: ignore[attr-defined]
        assert bool(bank.start.isfinite().all())  # type: ignore[attr-defined]
    # Without anchor nobody asks for groups, and the teacher's own samples are used.
    plain = Batches(data, method(anchor=0.0), training, seed=1).draw()  # type: ignore[arg-type]
    assert plain.unlabelled_teacher_feature is not None
    assert bool((plain.unlabelled_teacher_feature == 0).all())
    with pytest.raises(ValueError, match="rows of one group must agree"):
        replace(data, cohort_group=member[:3])


def test_a_cohort_tells_nothing_of_the_order() -> None:
    """The order of the teacher's rows must not betray who is who."""
    prepared = prepare(config(cohort_size=10_000), 0)
    group = prepared.student.cohort_group
    assert group is not None and int(group.max()) == 0
    paired = prepare(config(cohort_size=None, pairs=-1), 0).paired_teacher
    assert paired is not None and prepared.cohort_teacher is not None
    same = (paired == prepared.cohort_teacher).all(dim=1)
    assert float(np.mean(same.numpy())) < 0.05
