"""Data that do not fit together: one clear error, or a decision that is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scenarios_common import config, digits, write
from ucmkd.cli import main
from ucmkd.config import ConfigError, DataConfig, from_mapping
from ucmkd.preparation import prepare

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], 60))
QUICK = ["--teacher.steps", "5", "--training.steps", "2", "--hardware.accelerator", "cpu"]


def named(labels: np.ndarray, *names: str) -> np.ndarray:
    return np.array(names)[labels]


def test_classes_that_differ_are_cut_to_the_common_ones(tmp_path: Path) -> None:
    teacher = write(tmp_path / "t.npz", named(LABELS, "ape", "bee", "cat", "dog"))
    student = write(tmp_path / "s.npz", named(LABELS, "dog", "cat", "bee", "elk"), offset=1000)
    made = prepare(config(teacher, student), 0)
    assert made.class_names == ("bee", "cat", "dog") and made.student.num_classes == 3
    (note,) = made.notes
    assert note == (
        "classes: 3 are common to teacher and student, by name (bee, cat, dog); left out: the "
        "teacher's 'ape' (60 samples), the student's 'elk' (60 samples)"
    )
    # Label k means the same thing on both sides (column 1 holds the file's own class number).
    own = np.sort(["ape", "bee", "cat", "dog"])[made.teacher.student[:, 1].int()]
    assert (own == np.array(made.class_names)[made.teacher.student_label]).all()
    other = np.sort(["dog", "cat", "bee", "elk"])[made.student.student[:, 1].int()]
    assert (other == np.array(made.class_names)[made.student.student_label]).all()
    assert made.student.unlabelled is not None
    assert not (made.student.unlabelled[:, 1] == 3).any()  # no elk is left in the pool


def test_classes_in_another_order(tmp_path: Path) -> None:
    names = np.array(["up", "down", "left", "right"])
    teacher = write(tmp_path / "t.npz", LABELS, class_names=names)
    student = write(tmp_path / "s.npz", LABELS, offset=1000, class_names=names[::-1])
    made = prepare(config(teacher, student), 0)
    assert made.class_names == ("right", "left", "down", "up")
    assert made.notes == ("classes: matched by name, in the student's order",)
    assert np.array_equal(3 - made.teacher.student[:, 1], made.teacher.student_label)
    assert np.array_equal(made.student.student[:, 1], made.student.student_label)


def test_a_class_name_without_samples_is_no_class(tmp_path: Path) -> None:
    names = np.array(["a", "b", "c", "d", "never"])
    teacher = write(tmp_path / "t.npz", LABELS, class_names=names)
    made = prepare(config(teacher, teacher), 0)
    assert made.class_names == ("a", "b", "c", "d") and "'never' (0 samples)" in made.notes[0]


def test_too_few_classes_in_common(tmp_path: Path) -> None:
    teacher = write(tmp_path / "t.npz", named(LABELS, "a", "b", "c", "d"))
    student = write(tmp_path / "s.npz", named(LABELS, "d", "e", "f", "g"))
    with pytest.raises(
        ConfigError, match=r"at least two classes in common, by name; .* a, b, c, d"
    ):
        prepare(config(teacher, student), 0)
    twice = write(tmp_path / "w.npz", LABELS, class_names=np.array(["a", "b", "b", "d"]))
    with pytest.raises(ConfigError, match="has two classes of the name 'b'"):
        prepare(config(twice, student), 0)


def test_a_class_with_one_sample(tmp_path: Path) -> None:
    labels = np.append(LABELS, 4)
    plenty = write(tmp_path / "p.npz", np.append(LABELS, [4] * 60))
    single = write(tmp_path / "s.npz", labels, offset=1000)
    with pytest.raises(
        ConfigError, match="at most 1, the training samples of the student's class '4'"
    ):
        prepare(config(plenty, single), 0)
    made = prepare(config(plenty, single, {"missing_classes": ["4"]}), 0)
    said = [note.partition(":")[0] for note in made.notes]
    assert said == [
        "no label of the student of class '4'",
        "no validation sample of the student of class '4'",
        "no test sample of the student of class '4'",
    ]
    only = prepare(config(single, plenty), 0)  # the teacher's one sample is used for training
    assert np.bincount(only.teacher.student_label)[4] == 1 and only.notes == ()
    both = prepare(config(single, single), 0)  # of one data set, it is the teacher's
    assert "no label of the student of class '4'" in both.notes[0]


def test_a_part_without_some_class(tmp_path: Path) -> None:
    groups = np.array([f"s{k}" for k in np.arange(240) // 24])
    labels = LABELS.copy()
    labels[(groups == "s0") & (labels == 3)] = 2
    student = write(tmp_path / "s.npz", labels, groups=groups)
    made = prepare(config("digits_pixels", student, test_groups=["s0"]), 0)
    assert any(note.startswith("no test sample of the student of class '3'") for note in made.notes)


@pytest.mark.parametrize("values", [[0, 1, 4], [-1, 0, 1]])
def test_labels_out_of_range(tmp_path: Path, values: list[int]) -> None:
    labels = np.repeat(values, 60)
    names = np.array(["a", "b", "c"])
    path = write(tmp_path / "t.npz", labels, class_names=names)
    with pytest.raises(ValueError, match="labels must lie in 0…2"):
        prepare(config(path, path), 0)


def test_an_empty_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.repeat([0, 1], 10)
    path, student = write(tmp_path / "t.npz", LABELS % 2), write(tmp_path / "s.npz", labels, 1000)
    made = prepare(config(path, student, {"labels_per_class": 6}), 0)
    assert made.student.unlabelled is None
    monkeypatch.chdir(tmp_path)
    words = ["distill", "npz_example", *QUICK, "--data.teacher.dataset", path]
    words += ["--data.student.dataset", student, "--data.student.labels-per-class", "6"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert (
        "needs unlabelled samples, and none are left beside data.student.labels_per_class = 6"
        in error
    )


def test_teacher_weights_that_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A teacher of four classes where the two sides have three in common."""
    monkeypatch.chdir(tmp_path)
    teacher = write(tmp_path / "t.npz", named(LABELS, "a", "b", "c", "d"))
    student = write(tmp_path / "s.npz", named(LABELS, "a", "b", "c", "d"), offset=1000)
    fewer = write(tmp_path / "f.npz", named(LABELS, "a", "b", "c", "x"), offset=2000)
    words = ["distill", "npz_example", *QUICK, "--data.teacher.dataset", teacher]
    assert main([*words, "--data.student.dataset", student, "--out-dir", "run"]) == 0
    words += ["--data.student.dataset", fewer, "--out-dir", "other"]
    words += ["--teacher.weights", "run/teacher.safetensors"]
    capsys.readouterr()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "run/teacher.safetensors does not fit the model (wrong shape: " in error
    assert "(4, 64) instead of (3, 64)" in error


def test_notes_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["digits_offline", *QUICK, "--method.name", "ce", "--data.student.missing-classes"]
    assert main(["distill", *words, "8", "9", "--data.student.label-noise", "0.5"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "label noise: 20 of the student's 40 labels are wrong" in shown
    assert "no label of the student of class '8', '9'" in shown


@pytest.mark.parametrize(
    ("side", "more", "message"),
    [
        ({"label_noise": 1.0}, {}, r"student\.label_noise must be in \[0, 1\), got 1\.0"),
        ({"label_noise": -0.1}, {}, "label_noise must be in"),
        ({"label_noise": "some"}, {}, "label_noise must be a finite number"),
        ({"missing_classes": 0}, {}, "missing_classes must be a positive count, a list of"),
        ({"missing_classes": []}, {}, "missing_classes must be a positive count"),
        ({"missing_classes": ["1", "1"]}, {}, "a list of distinct class names"),
        ({"missing_classes": [1, 2]}, {}, "an integer or a list of texts or null, got"),
        ({"missing_classes": "1"}, {}, "an integer or a list of texts or null, got '1'"),
        ({"max_unlabelled": 0}, {}, "max_unlabelled must be a positive integer or null"),
        ({"max_unlabelled": 5, "unlabelled": False}, {}, "null unless unlabelled is true"),
        ({}, {"max_teacher": -1}, "max_teacher must be a positive integer or null, got -1"),
        ({}, {"max_test": 0}, "max_test must be a positive integer or null"),
        ({}, {"test_groups": 0}, "test_groups must be a positive count, a list of distinct group"),
        ({}, {"mismatch": "severe"}, "mismatch must be one of 'mild', 'moderate', 'hard' or null"),
        ({}, {"correspondence": "class"}, "correspondence must be one of 'group' or null"),
    ],
)
def test_options_out_of_range(side: dict[str, Any], more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(DataConfig, {"student": side, **more})


@pytest.mark.parametrize(
    ("side", "more", "message"),
    [
        ({"missing_classes": 9}, {}, "must be at most 8, two of the 10 classes keep their labels"),
        ({"missing_classes": ["11"]}, {}, "there is no class '11'; did you mean '1'"),
        ({"missing_classes": list("012345678")}, {}, "at least two classes are needed, found 9;"),
        ({}, {"test_groups": 1}, "data.test_groups must be null: 'digits' has no groups; got 1"),
    ],
)
def test_options_that_the_data_do_not_allow(
    side: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(digits(side, **more), 0)


def test_groups_that_cannot_be_held_out(tmp_path: Path) -> None:
    groups = np.array([f"subject {k}" for k in np.arange(240) // 60])
    student = write(tmp_path / "s.npz", LABELS, groups=groups)
    for wanted, message in (
        (["subject 1", "subjet 2"], "has no group 'subjet 2'; did you mean 'subject 2'"),
        (3, "must leave at least 2 of the 4 groups for training and validation, got 3"),
        (["subject 0", "subject 1", "subject 2"], "must leave at least 2 of the 4 groups"),
    ):
        with pytest.raises(ConfigError, match=message):
            prepare(config("digits_pixels", student, test_groups=wanted), 0)
    with pytest.raises(ConfigError, match=r"data\.test_groups = 2: groups: "):  # too few for four
        prepare(config(student, student, test_groups=2), 0)
