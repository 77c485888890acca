"""Mistakes in a method's arguments are found when it is made, and named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from methods_common import D_T, C, double, make, make_batch, make_student  # noqa: F401
from ucmkd import reference
from ucmkd.methods import METHODS, checks, create, options
from ucmkd.models import HookedModel

NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "option", "value", "kind"),
    [
        ("joint_alignment", "weight", "abc", TypeError),
        ("joint_alignment", "weight", True, TypeError),
        ("joint_alignment", "weight", float("inf"), ValueError),
        ("joint_alignment", "ramp_steps", None, TypeError),
        ("joint_alignment", "ramp_steps", 1.5, TypeError),
        ("joint_alignment", "temperature", 0, ValueError),
        ("joint_alignment", "pair_weight", NAN, ValueError),
        ("joint_alignment", "prior", 3.0, TypeError),
        ("joint_alignment", "tol", -1.0, ValueError),
        ("ce", "label_smoothing", "x", TypeError),
        ("ce", "label_smoothing", NAN, ValueError),
        ("ce", "placebo", "yes", TypeError),
        ("ce", "placebo_seed", 0.5, TypeError),
        ("ucmkd", "inner_lr", "x", TypeError),
        ("ucmkd", "variant", "bilevel", ValueError),
        ("ucmkd", "kappa", "held", ValueError),
        ("ucmkd", "outer", "third_order", ValueError),
        ("ucmkd", "inner_optimizer", "adam", ValueError),
        ("ucmkd", "inner_weight_decay", -0.1, ValueError),
        ("ucmkd", "la_detach_teacher", "no", TypeError),
        ("ucmkd", "alignment", "coral", ValueError),
        ("ucmkd", "bandwidth", "silverman", ValueError),
        ("ucmkd", "bandwidth", 0.0, ValueError),
        ("ucmkd", "projector", "cut", ValueError),
        ("ucmkd", "epsilon_scale", "median", ValueError),
        ("ucmkd", "paired", 1, TypeError),
        ("ucmkd", "fa_steps", 1.0, TypeError),
        ("ucmkd", "la_weight", -1, ValueError),
        ("vanilla_kd", "temperature", "warm", TypeError),
        ("vanilla_kd", "prior_correction", 1, TypeError),
        ("feature_kd", "max_iter", 1.5, TypeError),
        ("feature_kd", "max_iter", 0, ValueError),
        ("feature_kd", "cost", "euclid", ValueError),
        ("feature_kd", "cost", 2, ValueError),
        ("feature_kd", "epsilon", 0.0, ValueError),
        ("feature_kd", "epsilon_scale", "median", ValueError),
        ("feature_kd", "tol", None, TypeError),
        ("label_aware", "label_cost", "1", TypeError),
        ("self_labelling", "epsilon", "small", TypeError),
        ("self_labelling", "max_iter", True, TypeError),
    ],
)
def test_wrong_options(name: str, option: str, value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=rf"{option} must be .*got {value!r}"):
        make(name, **{option: value})


def test_every_number_and_flag_is_checked() -> None:
    """No option of any method takes an object of another type silently."""
    for name in METHODS:
        for option in options(name):
            with pytest.raises((TypeError, ValueError), match=option):
                make(name, **{option: object()})


def test_good_values_pass() -> None:
    assert make("feature_kd", weight=np.float32(0.5), max_iter=np.int64(3)).weight == 0.5
    assert checks.COSTS == reference.COSTS
    for cost in checks.COSTS:
        make("ucmkd", cost=cost, epsilon_scale=None, epsilon=1)


def test_near_names_only_where_near() -> None:
    with pytest.raises(ValueError, match="did you mean 'euclidean'"):
        make("feature_kd", cost="euclidian")
    with pytest.raises(ValueError) as error:
        create("xyzzy", make_student(), num_classes=C)
    assert "did you mean" not in str(error.value) and "joint_alignment" in str(error.value)
    with pytest.raises(TypeError) as wrong:
        make("ce", xyzzy=1)
    assert "did you mean" not in str(wrong.value) and "label_smoothing" in str(wrong.value)
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3))
    with pytest.raises(ValueError, match=r"layer 'xyzzy' is not in Sequential \(it has 0, 1\)"):
        HookedModel(network, "xyzzy", torch.ones(2, 2))


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"num_classes": C + 1}, ValueError, "num_classes is 4, but the student's head has 3"),
        ({"num_classes": 3.0}, TypeError, "num_classes must be an integer"),
        ({"teacher_head": lambda x: x}, TypeError, r"teacher_head must be .*got function"),
        ({"teacher_head": nn.Linear(D_T, C + 1)}, ValueError, "teacher_head must map .* 7 to 4"),
        ({"teacher_head": nn.Linear(5, C)}, ValueError, "teacher_head must map .* 5 to 3"),
        ({"teacher_width": 0}, ValueError, "teacher_width must be"),
        ({"teacher_width": "wide"}, TypeError, "teacher_width must be"),
        ({"class_prior": "uniform"}, TypeError, "class_prior must be 3 numbers"),
    ],
)
def test_what_the_trainer_supplies_is_checked(
    arguments: dict, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        make("ucmkd", **arguments)


@pytest.mark.parametrize("name", ["joint_alignment", "self_labelling"])
def test_a_wrong_prior_is_called_by_its_own_name(name: str) -> None:
    with pytest.raises(ValueError, match=r"^prior must have shape \(3,\), got \(2,\)"):
        make(name, prior=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"^prior must be finite"):
        make(name, prior=[1.0, -2.0, 1.0])
    with pytest.raises(ValueError, match=r"^class_prior must have shape"):
        make(name, class_prior=torch.ones(2))


def test_a_single_sample_has_no_batch_statistics() -> None:
    batch, method = make_batch(), make("discom_kd")
    few = replace(batch, student=batch.student[:1], student_label=batch.student_label[:1])
    with pytest.raises(ValueError, match=r"discom_kd needs at least 2 .* got 1 of the student and"):
        method.losses(few)
    assert method.eval().losses(few)["ce"].isfinite()


def test_number_of_classes_is_required() -> None:
    with pytest.raises(TypeError, match="ce needs num_classes"):
        create("ce", make_student())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher_feature": torch.zeros(6, D_T + 1)}, r"^teacher_feature must have shape \(n, 7"),
        ({"unlabelled_teacher_feature": torch.zeros(10, 2)}, "unlabelled_teacher_feature must"),
        ({"teacher_logits": torch.zeros(6, C + 1)}, r"^teacher_logits must .* got \(6, 4\)"),
        ({"paired_teacher_logits": torch.zeros(4, 2)}, "paired_teacher_logits must"),
        ({"student_label": torch.tensor([0, 1, 2, 3, 0, 0])}, "student_label must lie in 0..2"),
        ({"teacher_label": torch.tensor([-1, 1, 2, 1, 0, 0])}, "teacher_label must lie in 0..2"),
        ({"paired_label": torch.zeros(4)}, "paired_label must be integers"),
    ],
)
@pytest.mark.parametrize("name", ["joint_alignment", "ucmkd", "label_aware"])
def test_shapes_of_a_batch(name: str, change: dict, message: str) -> None:
    method = make(name)
    with pytest.raises(ValueError, match=message):
        method.losses(replace(make_batch(), **change))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("rows", [1, 3])
def test_rows_of_a_batch_agree(name: str, rows: int) -> None:
    """A single row would be broadcast, three would fail somewhere in torch."""
    method, batch = make(name), make_batch()
    groups = {
        "student_label": "student and student_label",
        "teacher_label": "teacher_feature and teacher_label",
        "teacher_input": "teacher_feature and teacher_input",
        "unlabelled_teacher_logits": "unlabelled_teacher_feature and unlabelled_teacher_logits",
        "paired_teacher_feature": "paired and paired_teacher_feature",
        "paired_teacher_logits": "paired and paired_teacher_logits",
        "paired_label": "paired and paired_label",
    }
    for field, both in groups.items():
        change = {field: getattr(batch, field)[:rows]}
        with pytest.raises(ValueError, match=f"^{both} must have the same number .* and {rows}$"):
            method.losses(replace(batch, **change))
    with pytest.raises(ValueError, match=r"unlabelled and unlabelled_group must .* got 8 and 2"):
        method.losses(replace(batch, unlabelled_group=torch.zeros(2, dtype=torch.int64)))
    assert method.losses(batch)["ce"].isfinite()


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.bool])
@pytest.mark.parametrize("name", ["ce", "weighted_ce", "joint_alignment", "class_soft_labels"])
def test_labels_are_int64(name: str, kind: torch.dtype) -> None:
    batch, method = make_batch(), make(name)
    for field in ("student_label", "teacher_label", "unlabelled_teacher_label", "paired_label"):
        change = {field: getattr(batch, field).to(kind)}
        with pytest.raises(ValueError, match=rf"^{field} must be integers \(int64\).*got.*{kind}"):
            method.losses(replace(batch, **change))


def test_logits_of_a_student_that_cannot_be_inspected() -> None:
    student = make_student()
    student.head = nn.Sequential(nn.Linear(4, C + 1))
    with pytest.raises(ValueError, match=r"the student's logits must have shape \(n, 3\)"):
        make("ce", student).losses(make_batch())
    head = nn.Sequential(nn.Linear(D_T, C + 1))
    with pytest.raises(ValueError, match="the logits of teacher_head must have shape"):
        make("ucmkd", teacher_head=head).losses(make_batch())
