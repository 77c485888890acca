"""Sides of several modalities: joined views, a teacher that is shown its inputs, whole runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ucmkd import data
from ucmkd.config import ConfigError, Recipe, from_mapping
from ucmkd.config_data import TeacherDataConfig
from ucmkd.data import Views
from ucmkd.distill import distill
from ucmkd.methods.modalities import alone
from ucmkd.models import MLP
from ucmkd.preparation import InputTransform, prepare
from ucmkd.rehearsal import rehearse
from ucmkd.runlog import read_log
from ucmkd.study import StudyConfig, StudyRun, run_study, write_report
from ucmkd.teacher_inputs import TeacherInputs, shown


def recipe(name: str, **options: Any) -> Recipe:
    """Digits by pixels and shape, in seconds."""
    student = "pixels" if name == "amid" else "pixels+shape"
    plain = {
        "data": {
            "teacher": {"dataset": "digits", "view": "pixels+shape", "columns": 20},
            "student": {
                "dataset": "digits", "view": student, "columns": 20, "labels_per_class": 4,
                "unlabelled": True,
            },
            "pairs": -1,
        },
        "teacher": {"hidden": 16, "width": 8, "steps": 60, "dropout": 0.0},
        "student": {"hidden": 16, "width": 8},
        "training": {"steps": 8, "eval_every": 4, "log_every": 4, "diagnose_every": 4},
        "method": {"name": name, "options": options},
    }  # fmt: skip
    made: Recipe = from_mapping(Recipe, plain)
    return made


def test_joined_views_by_hand() -> None:
    first, second = np.arange(6, dtype=np.float32).reshape(3, 2), np.ones((3, 2, 2), np.float32)
    views = Views(
        "x", {"a": first, "b": second}, np.array([0, 1, 0]), ("n", "y"), np.array(["p", "q", "r"])
    )
    found = views.join(["b", "a"])
    assert found.name == "x/b+a" and found.modalities == {"b": 4, "a": 2}
    assert found.inputs.tolist() == [[1, 1, 1, 1, *row] for row in first.tolist()]
    assert found.labels.tolist() == [0, 1, 0] and views.view("a").modalities is None
    with pytest.raises(ValueError, match=r"must differ, got .*'a', 'a'"):
        views.join(["a", "a"])
    with pytest.raises(ValueError, match="unknown view of x 'c'"):
        views.join(["a", "c"])


def test_columns_are_chosen_of_each_modality() -> None:
    train = np.zeros((4, 5), np.float32)
    train[0] = [1, 9, 5, 100, 200]
    config = TeacherDataConfig(columns=2, standardise=False)
    found = InputTransform.fit(config, train, "data.teacher", {"a": 3, "b": 2})
    assert found.columns is not None and found.columns.tolist() == [1, 2, 3, 4]
    assert found.modalities == {"a": 2, "b": 2}
    wide = replace(config, columns=3)
    assert InputTransform.fit(wide, train, "data.teacher", {"a": 3, "b": 2}).modalities == {
        "a": 3, "b": 2,
    }  # fmt: skip
    every = InputTransform.fit(replace(config, columns=None), train, "x", {"a": 3, "b": 2})
    assert found(train).tolist() == every(train)[:, 1:].tolist()


def test_both_sides_know_their_modalities() -> None:
    made = prepare(recipe("amid").data, 0)
    assert made.student.modalities is None
    assert made.student.teacher_modalities == {"pixels": 20, "shape": 20}
    assert made.teacher_test is not None and made.student.test is not None
    assert made.teacher_test.shape == (len(made.student.test), 40)
    raw = data.load("digits")
    assert prepare(recipe("msd").data, 0).student.modalities == {"pixels": 20, "shape": 20}
    assert isinstance(raw, Views)
    # The test samples are the same ones on both sides: the pixels agree up to their scale.
    pixels = prepare(recipe("msd").data, 0).teacher_test
    assert pixels is not None and torch.equal(pixels[:], made.teacher_test[:])


def test_a_teacher_is_shown_as_its_method_wants() -> None:
    made = prepare(recipe("msd").data, 0)
    teacher = MLP(40, num_classes=10).eval()
    cut = shown(recipe("msd"), teacher, made.teacher)
    assert isinstance(cut, TeacherInputs) and cut.width == 40 and not cut.training
    x = torch.randn(3, 40)
    features, logits = cut.outputs(x)
    assert torch.equal(features, x) and torch.equal(logits, teacher(x))
    assert shown(recipe("vanilla_kd"), teacher, made.teacher) is teacher
    images = replace(
        made.teacher,
        student=torch.zeros(len(made.teacher.student), 2, 20),
        validation=None,
        validation_label=None,
    )
    with pytest.raises(ConfigError, match=r"'msd' needs the teacher's inputs.*2, 20\).*vanilla_kd"):
        shown(recipe("msd"), teacher, images)


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_one_modality_is_refused_before_any_training(side: str) -> None:
    made = recipe("msd")
    config = replace(getattr(made.data, side), view="pixels")
    made = replace(made, data=replace(made.data, **{side: config}))
    name = "teacher_modalities" if side == "teacher" else "modalities"
    with pytest.raises(
        ConfigError,
        match=rf"'msd': msd needs {name},.*rna\+meth.*got None.*vanilla_kd.*soft_labels",
    ):
        rehearse(made, prepare(made.data, 0))


@pytest.mark.parametrize(
    ("name", "options", "diagnosis"),
    [("msd", {"weighting": "meta"}, "modality_weight/shape"), ("amid", {}, "gradient/cosine")],
)
def test_a_run_logs_and_resumes(
    name: str, options: dict[str, str], diagnosis: str, tmp_path: Path
) -> None:
    made, folder = recipe(name, **options), tmp_path
    whole = distill(replace(made, out_dir=str(folder / "whole")))
    records = read_log(folder / "whole" / "log.jsonl")
    assert [r["step"] for r in records] == [4, 8]
    assert all(diagnosis in r["diagnostics"] for r in records)
    assert set(records[0]["loss"]) >= {"ce"}
    assert whole.uncertified == "the teacher's head is not linear"

    class Killed(Exception):
        pass

    def kill(record: dict[str, Any]) -> None:
        if record["step"] == 8:
            raise Killed

    cut = replace(made, out_dir=str(folder / "cut"))
    with pytest.raises(Killed):
        distill(cut, callbacks=[kill])
    again = distill(cut, resume=True)
    assert again.test == whole.test and again.validation == whole.validation


def test_a_study_tells_of_single_modalities_and_of_the_teacher(tmp_path: Path) -> None:
    plain = {
        "name": "both",
        "seeds": {"fresh": [0, 1]},
        "defaults": {
            "teacher": {"hidden": 16, "width": 8, "steps": 60, "dropout": 0.0},
            "training": {"steps": 8, "diagnose_every": 0},
        },
        "scenarios": {
            "digits": {
                "data": {
                    "teacher": {"dataset": "digits", "view": "pixels+shape"},
                    "student": {
                        "dataset": "digits", "view": "pixels+shape", "labels_per_class": 4,
                    },
                    "pairs": -1,
                }
            }
        },
        "methods": {
            "msd": {"method": {"name": "msd"}},
            "amid": {"method": {"name": "amid"}},
        },
    }  # fmt: skip
    study = from_mapping(StudyConfig, plain)
    attempt = StudyRun.open(study, tmp_path)
    run_study(attempt, workers=0)
    assert not attempt.failures
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {(row["method"], row["control"]) for row in rows} == {
        ("msd", None), ("amid", None),
    }  # fmt: skip
    for row in rows:
        assert set(row["accuracy_alone"]) == {"pixels", "shape"}
        assert ("teacher_test_after" in row) == (row["method"] == "amid")
    (summary,) = write_report(attempt)
    line = summary.line("amid")
    after = [100 * row["teacher_test_after"] for row in rows if row["method"] == "amid"]
    before = [100 * row["teacher_test_before"] for row in rows if row["method"] == "amid"]
    assert line.along is not None and line.along.n == 2
    assert line.along.mean == pytest.approx(np.mean(after) - np.mean(before))
    assert line.along_before == pytest.approx(np.mean(before)) and np.mean(before) > 25
    shape = [100 * row["accuracy_alone"]["shape"] for row in rows if row["method"] == "amid"]
    assert line.alone["shape"].mean == pytest.approx(np.mean(shape))
    text = (tmp_path / "summary.md").read_text()
    assert "### digits: with one modality" in text and "shape alone" in text
    assert "### digits: teachers trained along" in text and summary.teachers == {}


def test_a_masked_test_is_that_of_the_deployed_student() -> None:
    """The mask is zero in the standardised columns: their mean over the training samples."""
    made = prepare(recipe("msd").data, 0)
    assert isinstance(made.student.test, torch.Tensor) and made.student.modalities is not None
    masked = alone(made.student.test, made.student.modalities)
    assert not masked[0][:, 20:].any() and not masked[1][:, :20].any()
    assert torch.equal(masked.sum(0), made.student.test)
