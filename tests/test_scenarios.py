"""What makes a scenario of two data sets: noise, missing classes, caps, held-out groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from scenarios_common import config, digits, write
from ucmkd.config import DataConfig, from_mapping
from ucmkd.data import DATASETS
from ucmkd.preparation import Prepared, prepare, sides
from ucmkd.preparation.labels import noisy_labels

GENERATOR = np.random.default_rng(0)
LABELS = GENERATOR.permutation(np.repeat([0, 1, 2, 3], 60))
GROUPS = np.array([f"s{k}" for k in np.arange(240) // 24])


def same(first: torch.Tensor | None, second: torch.Tensor | None) -> bool:
    assert first is not None and second is not None
    return torch.equal(first, second)


def test_the_split_of_a_recipe_without_options_is_what_it_was() -> None:
    """Sums of grey values of each part: integers, noted when this was the whole preparation."""
    known = {
        0: [253422, 27204, 12412, 156996, 28396, 83288, 9655],
        5: [252334, 28670, 12046, 156606, 28270, 83792, 9601],
    }
    for seed, sums in known.items():
        made = prepare(digits({"labels_per_class": 4}, pairs=30), seed)
        own, data = made.teacher, made.student
        parts = (own.student, own.validation, data.student, data.unlabelled, data.validation)
        found = [int(part.sum()) for part in (*parts, data.test, data.paired) if part is not None]
        assert found == sums and made.notes == ()
        assert data.unlabelled_group is None and data.teacher_group is None


def test_noisy_labels() -> None:
    labels = np.repeat([0, 2, 5], [400, 300, 300])
    noisy = noisy_labels(labels, 0.3, np.random.default_rng(0))
    changed = noisy != labels
    assert changed.sum() == 300 and set(noisy.tolist()) == {0, 2, 5}
    # Uniform over samples and over the other classes: 4 standard deviations.
    assert abs(changed[:400].sum() - 120) < 4 * np.sqrt(1000 * 0.3 * 0.4 * 0.6)
    to_two = (noisy[:400][changed[:400]] == 2).sum()
    assert abs(to_two - changed[:400].sum() / 2) < 4 * np.sqrt(120 / 4)
    assert np.array_equal(noisy_labels(labels, 0.0, np.random.default_rng(0)), labels)


def test_label_noise_changes_nothing_else() -> None:
    clean, noisy = prepare(digits(), 1), prepare(digits({"label_noise": 0.25}), 1)
    before, after = clean.student, noisy.student
    assert int((before.student_label != after.student_label).sum()) == 15
    assert noisy.notes == ("label noise: 15 of the student's 60 labels are wrong",)
    for name in ("student", "unlabelled", "validation", "validation_label", "test", "test_label"):
        assert same(getattr(before, name), getattr(after, name))
    assert same(clean.teacher.student_label, noisy.teacher.student_label)
    again = prepare(digits({"label_noise": 0.25}), 1).student
    assert same(after.student_label, again.student_label)


@pytest.mark.parametrize("count", [6, None])
def test_missing_classes(count: int | None) -> None:
    plain = prepare(digits({"labels_per_class": count}), 2).student
    side = {"labels_per_class": count, "missing_classes": ["3", "8"]}
    made = prepare(digits(side), 2)
    data = made.student
    kept = ~np.isin(plain.student_label, [3, 8])
    assert same(data.student, plain.student[kept])
    assert same(data.student_label, plain.student_label[kept])
    back = int((~kept).sum())
    assert data.unlabelled is not None
    assert len(data.unlabelled) == back + (0 if plain.unlabelled is None else len(plain.unlabelled))
    assert same(data.test_label, plain.test_label) and 3 in plain.test_label
    assert data.num_classes == 10
    (note,) = made.notes
    assert note.startswith("no label of the student of class '3', '8':")


def test_missing_classes_drawn() -> None:
    drawn = set()
    for seed in range(4):
        made = prepare(digits({"missing_classes": 2}), seed)
        left = set(made.student.student_label.tolist())
        assert len(left) == 8
        drawn.add(tuple(set(range(10)) - left))
        assert made.notes[0].startswith("classes without student labels, drawn by chance: ")
    assert len(drawn) > 1


def test_a_missing_class_needs_no_labels(tmp_path: Path) -> None:
    labels = np.repeat([0, 1, 2], [60, 60, 6])
    one, other = write(tmp_path / "one.npz", labels), write(tmp_path / "other.npz", labels)
    made = prepare(config(one, other, {"missing_classes": ["2"]}), 0)
    assert np.bincount(made.student.student_label).tolist() == [5, 5]


def test_noise_gives_a_missing_class_no_label() -> None:
    made = prepare(digits({"missing_classes": 3, "label_noise": 0.9}), 0)
    assert len(set(made.student.student_label.tolist())) == 7


def test_caps() -> None:
    plain = prepare(digits(), 3)
    capped = prepare(digits({"max_unlabelled": 100}, max_teacher=200, max_test=50), 3)
    for small, large, count in (
        (capped.teacher.student, plain.teacher.student, 200),
        (capped.student.unlabelled, plain.student.unlabelled, 100),
        (capped.student.test, plain.student.test, 50),
    ):
        assert small is not None and large is not None and len(small) == count
        rows = {tuple(row) for row in large.tolist()}
        assert all(tuple(row) in rows for row in small.tolist())
    assert np.ptp(np.bincount(capped.student.test_label)) <= 1
    assert np.ptp(np.bincount(capped.teacher.student_label)) <= 2
    assert same(capped.student.student, plain.student.student)
    assert same(capped.student.validation, plain.student.validation)
    loose = prepare(digits({"max_unlabelled": 10**6}, max_teacher=10**6, max_test=10**6), 3)
    assert same(loose.student.unlabelled, plain.student.unlabelled)


def parts(made: Prepared) -> dict[str, np.ndarray]:
    """The row numbers (first column) of all parts."""
    own, data = made.teacher, made.student
    assert own.validation is not None and data.validation is not None and data.test is not None
    assert data.unlabelled is not None
    train = np.concatenate([data.student[:, 0], data.unlabelled[:, 0]])
    found = [own.student[:, 0], own.validation[:, 0], train, data.validation[:, 0], data.test[:, 0]]
    names = ("teacher", "teacher_validation", "train", "validation", "test")
    return {n: np.asarray(f).astype(int) for n, f in zip(names, found, strict=True)}


@pytest.mark.parametrize("together", [True, False])
def test_held_out_groups(tmp_path: Path, together: bool) -> None:
    student = write(tmp_path / "one.npz", LABELS, groups=GROUPS)
    teacher = student if together else write(tmp_path / "other.npz", LABELS, offset=10_000)
    made = prepare(config(teacher, student, test_groups=["s2", "s7"]), 0)
    found = parts(made)
    assert set(GROUPS[found["test"]]) == {"s2", "s7"} and len(found["test"]) == 48
    used = ("teacher", "teacher_validation", "train", "validation", "test")
    mine = used if together else used[2:]
    members = [set(GROUPS[found[name]]) for name in mine]
    assert sum(map(len, members)) == len(set.union(*members)) == 10  # whole, and all of them
    assert made.notes == ()
    drawn = prepare(config(teacher, student, test_groups=3), 1)
    named = drawn.notes[0].removeprefix("test groups, drawn by chance: ").split(", ")
    assert set(GROUPS[parts(drawn)["test"]]) == set(named) and len(named) == 3


def test_held_out_groups_come_before_an_official_test(tmp_path: Path) -> None:
    official = np.arange(240) % 5 == 0  # divides every group
    student = write(tmp_path / "one.npz", LABELS, groups=GROUPS, test=official)
    teacher = write(tmp_path / "other.npz", LABELS, offset=10_000)
    found = parts(prepare(config(teacher, student, test_groups=["s0"]), 0))
    assert set(GROUPS[found["test"]]) == {"s0"} and len(found["test"]) == 24
    assert not set(GROUPS[found["train"]]) & set(GROUPS[found["validation"]])


def test_held_out_speakers(data_root: Path) -> None:
    speech = {"dataset": "spoken_digits", "labels_per_class": 3}
    chosen = {"teacher": {"dataset": "digits_pixels"}, "student": speech, "root": str(data_root)}
    made = prepare(from_mapping(DataConfig, {**chosen, "test_groups": ["theo", "lucas"]}), 0)
    assert made.student.test is not None and len(made.student.test) == 1000
    assert made.student.validation is not None and len(made.student.validation) == 500


def test_data_sets_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    entry = DATASETS["digits"]
    counting = type(entry)(
        entry.summary,
        entry.origin,
        entry.views,
        lambda root, views, progress: reads.append(views) or entry.read(root, views, progress),
    )
    monkeypatch.setitem(DATASETS, "digits", counting)
    sides._cached.cache_clear()
    first, again = prepare(digits(), 0), prepare(digits(), 0)
    prepare(digits({"view": "shape"}), 0)
    assert reads == [["pixels"], ["shape"]]
    assert same(first.student.test, again.student.test)
    sides._cached.cache_clear()


def test_files_are_read_anew(tmp_path: Path) -> None:
    one, other = write(tmp_path / "one.npz", LABELS), write(tmp_path / "other.npz", LABELS)
    before = prepare(config(one, other), 0).student.test
    write(tmp_path / "other.npz", LABELS, offset=5)
    after = prepare(config(one, other), 0).student.test
    assert before is not None and after is not None
    assert torch.equal(before[:, 0] + 5, after[:, 0])
