"""Groups (speakers, subjects) stay on one side of every split; own files that claim otherwise."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from ucmkd import data
from ucmkd.config import ConfigError, DataConfig, from_mapping
from ucmkd.data.split import stratified_parts, unpaired_split
from ucmkd.preparation import prepare

GENERATOR = np.random.default_rng(0)
GROUPS = np.repeat(np.arange(40), GENERATOR.integers(3, 25, size=40)).astype(str)
LABELS = GENERATOR.integers(0, 3, size=len(GROUPS))


def assert_apart(*parts: np.ndarray) -> None:
    for first, second in combinations(parts, 2):
        assert len(first) and not len(np.intersect1d(first, second))


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_whole_and_shares_are_met(seed: int) -> None:
    shares = (0.6, 0.1, 0.3)
    parts = stratified_parts(LABELS, shares, seed, groups=GROUPS)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(LABELS)))
    assert_apart(*(GROUPS[part] for part in parts))
    for part, share in zip(parts, shares, strict=True):
        assert abs(len(part) / len(LABELS) - share) < 0.03
        frequency = np.bincount(LABELS[part], minlength=3) / len(part)
        assert abs(frequency - np.bincount(LABELS) / len(LABELS)).max() < 0.1
    again = stratified_parts(LABELS, shares, seed, groups=GROUPS)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_one_group_per_part_is_enough() -> None:
    groups = np.repeat(["a", "b", "c"], [50, 45, 40])
    labels = np.arange(135) % 5
    parts = stratified_parts(labels, (0.8, 0.1, 0.1), 0, groups=groups)
    assert_apart(*(groups[part] for part in parts))
    with pytest.raises(ValueError, match="3 groups cannot be cut into 4 parts"):
        stratified_parts(labels, (0.4, 0.3, 0.2, 0.1), 0, groups=groups)
    with pytest.raises(ValueError, match="one name per label"):
        stratified_parts(labels, (0.5, 0.5), 0, groups=groups[:-1])


def test_unpaired_split_keeps_groups_apart() -> None:
    split = unpaired_split(LABELS, 1, groups=GROUPS)
    assert_apart(*(GROUPS[part] for part in split.__dict__.values()))


def write(path: Path, offset: int = 0, **more: np.ndarray) -> str:
    """A file whose first column is the group's number."""
    inputs = np.stack([GROUPS.astype(float) + offset, GENERATOR.normal(size=len(GROUPS))], axis=1)
    groups = np.array([f"subject {int(g) + offset}" for g in GROUPS])
    np.savez(path, X=inputs, y=LABELS, **{"groups": groups, **more})
    return str(path)


def config(teacher: str, student: str) -> DataConfig:
    plain = {"standardise": False}
    return from_mapping(
        DataConfig,
        {
            "teacher": {"dataset": teacher, **plain},
            "student": {"dataset": student, "labels_per_class": 5, **plain},
        },
    )


def sides(config: DataConfig) -> list[np.ndarray]:
    """The group numbers of teacher training, teacher validation, student training, …"""
    prepared = prepare(config, 0)
    own, student = prepared.teacher, prepared.student
    assert own.validation is not None and student.unlabelled is not None
    assert student.validation is not None and student.test is not None
    train = np.concatenate([student.student[:, 0], student.unlabelled[:, 0]])
    return [
        own.student[:, 0].numpy(),
        own.validation[:, 0].numpy(),
        train,
        student.validation[:, 0].numpy(),
        student.test[:, 0].numpy(),
    ]


def test_recipes_keep_groups_apart(tmp_path: Path) -> None:
    one, other = write(tmp_path / "one.npz"), write(tmp_path / "other.npz", offset=100)
    assert_apart(*sides(config(one, one)))
    assert_apart(*sides(config(one, other)))
    official = np.isin(GROUPS, ["3", "7", "20", "21", "22"])
    tested = write(tmp_path / "tested.npz", offset=100, test=official)
    parts = sides(config(one, tested))
    assert_apart(*parts)
    assert set(parts[-1]) == {103, 107, 120, 121, 122}


def test_groups_that_cannot_be_kept_apart(tmp_path: Path) -> None:
    one, same = write(tmp_path / "one.npz"), write(tmp_path / "same.npz")
    with pytest.raises(ConfigError, match="share 40 groups, for example 'subject 0'"):
        prepare(config(one, same), 0)
    mixed = write(tmp_path / "mixed.npz", offset=100, test=np.arange(len(GROUPS)) % 2 == 0)
    with pytest.raises(ConfigError, match=r"group 'subject 100' is on both sides of .*'test'"):
        prepare(config(one, mixed), 0)
    few = write(tmp_path / "few.npz", groups=np.array(["a", "b"])[np.arange(len(GROUPS)) % 2])
    with pytest.raises(ConfigError, match=r"data.validation = 0.1, data.test = 0.3: groups"):
        prepare(config(one, few), 0)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"ids": np.array(["a", "b", "a", "c"])}, "ids must be distinct, got 'a' 2 times"),
        ({"test": np.zeros(4, bool)}, "test must be True for some .* got all False"),
        ({"test": np.ones(4, bool)}, "test must be True for some .* got all True"),
    ],
)
def test_arrays_that_contradict_themselves(tmp_path: Path, arrays: dict, message: str) -> None:
    np.savez(tmp_path / "own.npz", X=np.zeros((4, 2)), y=np.arange(4) % 2, **arrays)
    with pytest.raises(ValueError, match=message):
        data.load_npz(tmp_path / "own.npz")


def test_text_named_npz(tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    path.write_text("X,y\n1,2\n")
    with pytest.raises(ValueError, match=r"table\.npz is not an \.npz file"):
        data.load_npz(path)
