"""A teacher whose channels are masked: which ones, what a method sees of it, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ucmkd.batches import TrainingData
from ucmkd.config import ConfigError, Recipe, from_mapping, to_mapping
from ucmkd.distill import distill
from ucmkd.focus import FocusedTeacher, check_focus, focused
from ucmkd.models import Student
from ucmkd.preparation import InputTransform, Prepared
from ucmkd.rehearsal import check_method
from ucmkd.study.resolve import Resolved
from ucmkd.taught import taught
from ucmkd.teacher import freeze

SHARED, OWN = 4, 4


class Identity(Student):
    """A teacher whose features are its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.width = SHARED + OWN
        self.head = nn.Linear(self.width, 2)

    def encoder(self, inputs: Tensor) -> Tensor:
        return inputs


def views(seed: int = 0) -> Prepared:
    """Eight decisive channels of the teacher, the first four of them the student's as well."""
    g = torch.Generator().manual_seed(seed)

    def draw(n: int) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.randn(n, SHARED + OWN, generator=g)
        return x, x[:, :SHARED].clone(), (x.sum(dim=1) > 0).long()

    own, labelled, pairs, rest = draw(400), draw(60), draw(300), draw(40)
    return Prepared(
        TrainingData(2, own[0], own[2], rest[0], rest[2]),
        TrainingData(2, labelled[1], labelled[2], rest[1], rest[2], paired=pairs[1]),
        pairs[0],
        InputTransform(None, None),
        ("no", "yes"),
    )


def recipe(**teacher: Any) -> Recipe:
    plain: dict[str, Any] = {
        "data": {"pairs": -1},
        "teacher": {"steps": 150, "lr": 0.01, "weight_decay": 0.0, **teacher},
        "student": {"hidden": 16, "width": 8},
        "method": {"name": "vanilla_kd"},
    }
    made: Recipe = from_mapping(Recipe, plain)
    return made


@pytest.fixture
def teacher() -> Student:
    torch.manual_seed(0)
    made = Identity()
    freeze(made)
    return made


def test_the_channels_that_the_student_sees_are_kept(teacher: Student) -> None:
    found = focused(recipe(focus=0.5), views(), teacher)
    assert isinstance(found, FocusedTeacher)
    assert found.mask.tolist() == [1.0] * SHARED + [0.0] * OWN
    data = taught(views(), found)
    assert data.teacher_feature is not None and data.paired_teacher_logits is not None
    assert data.teacher_feature[:, SHARED:].abs().max() == 0
    # The head is fitted again on what is left: half of the variance of the sign's argument.
    label = views().teacher.student_label
    assert data.teacher_logits is not None
    accuracy = float((data.teacher_logits.argmax(1) == label).float().mean())
    assert 0.68 < accuracy < 0.85
    torch.testing.assert_close(found.head(data.teacher_feature), data.teacher_logits)
    assert not any(p.requires_grad for p in found.parameters()) and not found.training


def test_the_same_again(teacher: Student) -> None:
    first, second = (focused(recipe(focus=0.5), views(), teacher) for _ in range(2))
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_control_keeps_as_many_channels_by_chance(teacher: Student) -> None:
    masks = []
    for seed in range(6):
        made = recipe(focus=0.25, focus_channels="chance")
        found = focused(from_mapping(Recipe, {**to_mapping(made), "seed": seed}), views(), teacher)
        assert isinstance(found, FocusedTeacher)
        assert found.mask.sum() == 6
        masks.append(tuple(found.mask.tolist()))
    assert len(set(masks)) > 2


def test_no_focus_is_the_teacher_itself(teacher: Student) -> None:
    assert focused(recipe(), views(), teacher) is teacher


def test_a_run_with_a_focused_teacher_resumes(tmp_path: Path) -> None:
    """Digits to digits, in seconds; a method that needs no pairs gets the mask as well."""
    plain: dict[str, Any] = {
        "data": {
            "teacher": {"dataset": "digits", "view": "pixels"},
            "student": {
                "dataset": "digits", "view": "shape", "labels_per_class": 4, "unlabelled": True,
            },
            "pairs": 100,
        },
        "teacher": {"steps": 20, "focus": 0.5},
        "training": {"steps": 4, "diagnose_every": 0, "eval_every": 4},
        "method": {"name": "feature_kd"},
    }  # fmt: skip
    made = from_mapping(Recipe, {**plain, "out_dir": str(tmp_path / "run")})
    first = distill(made)
    (tmp_path / "run" / "metrics.json").unlink()
    (tmp_path / "run" / "checkpoint.pt").unlink()
    for old in (tmp_path / "run").glob("checkpoint.previous.pt"):
        old.unlink()
    again = distill(made, resume=True)
    assert again.test == first.test


def test_results_of_studies_stay_known() -> None:
    """A configuration without focus has the digest that it had before there was one."""
    plain, chance, half = (
        Resolved(recipe(**changes), {})
        for changes in ({}, {"focus_channels": "chance"}, {"focus": 0.5})
    )
    assert "focus" not in plain.mapping()["teacher"]
    assert plain.digest == chance.digest != half.digest
    assert half.mapping()["teacher"]["focus"] == 0.5


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"focus must be in \[0, 1\), got 1"):
        recipe(focus=1.0)
    without = from_mapping(Recipe, {**to_mapping(recipe(focus=0.5)), "data": {"pairs": 0}})
    with pytest.raises(ConfigError, match=r"teacher.focus = 0.5 needs pairs.*data.pairs = 0"):
        check_focus(without)
    named = from_mapping(
        Recipe, {**to_mapping(without), "method": {"name": "feature_kd", "options": {}}}
    )
    with pytest.raises(ConfigError, match="without pairs every method runs with focus 0"):
        check_method(named)
    with pytest.raises(ValueError, match=r"mask must have shape \(8,\), got \(3,\)"):
        FocusedTeacher(Identity(), torch.ones(3), nn.Linear(8, 2))
