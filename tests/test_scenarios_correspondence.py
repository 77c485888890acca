"""Coarse correspondences: who shares a group, in the data and in every batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scenarios_common import config, digits, write
from ucmkd.batches import Batches, TrainingData
from ucmkd.config import ConfigError, TrainingConfig
from ucmkd.methods import create
from ucmkd.models import MLP
from ucmkd.preparation import Prepared, prepare
from ucmkd.preparation.correspondence import group_codes

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], 60))
GROUPS = np.array([f"s{k}" for k in np.arange(240) // 24])


def test_group_codes() -> None:
    teacher, student = np.array(["c", "a", "x", "a"]), np.array(["y", "a", "c"])
    own, other, names = group_codes(teacher, student)
    assert own.tolist() == [1, 0, -1, 0] and other.tolist() == [-1, 0, 1]
    assert names == ("a", "c") and own.dtype == np.int64
    with pytest.raises(ConfigError, match="the teacher has 3, the student 1, and none is the same"):
        group_codes(teacher, np.array(["q"]))


def members(made: Prepared) -> dict[str, set[str]]:
    own, data = made.teacher, made.student
    assert own.validation is not None and data.validation is not None and data.test is not None
    assert data.unlabelled is not None
    found = {
        "teacher": own.student,
        "teacher_validation": own.validation,
        "train": torch.cat([data.student, data.unlabelled]),
        "validation": data.validation,
        "test": data.test,
    }
    return {name: set(GROUPS[rows[:, 0].int() % 1000]) for name, rows in found.items()}


def codes_agree(made: Prepared) -> None:
    """Equal numbers if and only if equal groups."""
    data = made.student
    assert data.teacher_group is not None and data.unlabelled_group is not None
    assert data.unlabelled is not None
    own = GROUPS[made.teacher.student[:, 0].int() % 1000]
    other = GROUPS[data.unlabelled[:, 0].int() % 1000]
    shared = set(own) & set(other)
    assert shared
    for codes, names in ((data.teacher_group, own), (data.unlabelled_group, other)):
        assert [code >= 0 for code in codes.tolist()] == [name in shared for name in names]
    known = data.teacher_group >= 0, data.unlabelled_group >= 0
    equal = data.teacher_group[known[0]][:, None] == data.unlabelled_group[known[1]]
    names = own[known[0].numpy()][:, None] == other[known[1].numpy()]
    assert np.array_equal(equal, names)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("more", [{}, {"test_groups": 2}])
def test_training_shares_groups_and_evaluation_does_not(
    tmp_path: Path, together: bool, more: dict[str, Any]
) -> None:
    student = write(tmp_path / "one.npz", LABELS, groups=GROUPS)
    teacher = student
    if not together:
        teacher = write(tmp_path / "two.npz", LABELS, offset=1000, groups=GROUPS)
    made = prepare(config(teacher, student, correspondence="group", **more), 0)
    found = members(made)
    assert found["teacher"] < found["train"] and found["teacher_validation"] < found["train"]
    assert not found["teacher"] & found["teacher_validation"]
    assert not found["validation"] & found["test"]
    trained = found["teacher"] | found["teacher_validation"] | found["train"]
    assert not trained & (found["validation"] | found["test"])
    codes_agree(made)
    if together:  # no sample is on both sides
        assert made.student.unlabelled is not None
        own = {*made.teacher.student[:, 0].tolist()}
        assert not own & {
            *made.student.unlabelled[:, 0].tolist(),
            *made.student.student[:, 0].tolist(),
        }
    else:
        aside = np.isin(GROUPS, list(found["validation"] | found["test"])).sum()
        assert any(f"{aside} of the teacher's 240 samples" in note for note in made.notes)
    assert any("groups occur on both sides, with " in note for note in made.notes)


def test_what_has_no_correspondence(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.npz", LABELS)
    named = write(tmp_path / "named.npz", LABELS, offset=1000, groups=GROUPS)
    for teacher, student, which in ((plain, named, "teacher"), (named, plain, "student")):
        with pytest.raises(ConfigError, match=rf"on both sides; data\.{which} \(plain\) has none"):
            prepare(config(teacher, student, correspondence="group"), 0)
    with pytest.raises(ConfigError, match=r"data\.teacher \(digits/pixels\) has none"):
        prepare(digits(correspondence="group"), 0)
    others = write(tmp_path / "others.npz", LABELS, groups=np.char.add("other ", GROUPS))
    with pytest.raises(ConfigError, match="none is the same"):
        prepare(config(others, named, correspondence="group"), 0)
    with pytest.raises(ConfigError, match="needs unlabelled samples of the student"):
        prepare(config(named, named, {"unlabelled": False}, correspondence="group"), 0)
    mixed = write(tmp_path / "mixed.npz", LABELS, groups=GROUPS, test=np.arange(240) % 5 == 0)
    with pytest.raises(ConfigError, match=r"or name the test set with data\.test_groups"):
        prepare(config(named, mixed, correspondence="group"), 0)


def toy(**changes: Any) -> TrainingData:
    count = torch.arange(12)
    given: dict[str, Any] = {
        "num_classes": 2,
        "student": torch.zeros(4, 1),
        "student_label": torch.tensor([0, 0, 1, 1]),
        "teacher_feature": count[:, None].float(),
        "teacher_logits": torch.zeros(12, 2),
        "teacher_label": count % 2,
        "teacher_group": count // 2,
        "unlabelled": count[:9, None].float(),
        "unlabelled_group": 10 - count[:9],
    }
    return TrainingData(**{**given, **changes})


def batches(data: TrainingData) -> Batches:
    method = create(
        "joint_alignment", MLP(1, num_classes=2), num_classes=2, class_prior=torch.ones(2),
        teacher_width=1,
    )  # fmt: skip
    training = TrainingConfig(batch_size=4, teacher_batch_size=7, unlabelled_batch_size=5)
    return Batches(data, method, training, seed=0)


def test_groups_are_drawn_with_their_rows() -> None:
    drawn = batches(toy())
    plain = batches(toy(teacher_group=None, unlabelled_group=None))
    for _ in range(5):
        batch, without = drawn.draw(), plain.draw()
        assert batch.unlabelled is not None and batch.unlabelled_teacher_feature is not None
        assert batch.unlabelled_group is not None and batch.unlabelled_teacher_group is not None
        assert torch.equal(batch.unlabelled_group, 10 - batch.unlabelled[:, 0].long())
        feature = batch.unlabelled_teacher_feature[:, 0].long()
        assert torch.equal(batch.unlabelled_teacher_group, feature // 2)
        assert without.unlabelled_group is None and without.unlabelled_teacher_group is None
        # A group that both sets have comes with all its rows, or not at all.
        shared = torch.tensor([2, 3, 4, 5])
        here = batch.unlabelled_group[torch.isin(batch.unlabelled_group, shared)]
        there = batch.unlabelled_teacher_group[torch.isin(batch.unlabelled_teacher_group, shared)]
        assert torch.equal(here.repeat_interleave(2).sort().values, there.sort().values)


def test_a_method_may_require_groups() -> None:
    method = batches(toy()).method
    method.requires = ("unlabelled_group", "unlabelled_teacher_group")
    training = TrainingConfig()
    assert Batches(toy(), method, training, seed=0).draw().unlabelled_group is not None
    with pytest.raises(ValueError, match="needs unlabelled_group, teacher_group, and the data"):
        Batches(toy(unlabelled_group=None, teacher_group=None), method, training, seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unlabelled_group": torch.zeros(8, dtype=torch.int64)}, "rows of one group must agree"),
        ({"teacher_group": torch.zeros(3, dtype=torch.int64)}, "rows of one group must agree"),
        ({"unlabelled_group": torch.zeros(9)}, r"unlabelled_group must be \(n,\) int64"),
        ({"teacher_group": torch.full((12,), -2)}, r"teacher_group must be -1 \(unknown\) or more"),
        ({"unlabelled": torch.zeros(0, 1), "unlabelled_group": None}, "unlabelled must not be"),
    ],
)
def test_groups_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy(**changes)
