"""Joint alignment between no pairs and all: anchors, groups, banks, partial transport."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.methods_common import (
    D_T,
    C,
    double,  # noqa: F401
    joint_parts,
    make,
    make_batch,
    make_student,
    plan_of,
)

from ucmkd.methods.correspondence import correspondence
from ucmkd.methods.joint_cost import joint_cost
from ucmkd.methods.planned import planned
from ucmkd.methods.profile import profile_cost

SHARP: dict[str, Any] = {"tol": 1e-10, "max_iter": 5000}
EQUAL: dict[str, Any] = {**SHARP, "class_prior": None}  # all teacher samples weigh the same


def test_correspondence_written_out() -> None:
    known = correspondence(
        3, 3, pairs=2, row_group=torch.tensor([7, -1, 4]), column_group=torch.tensor([4, 7, -1])
    )
    # Rows: group 7, unknown, group 4, pair, pair; columns: group 4, group 7, unknown, pair, pair.
    expected = [
        [1, 0, 0, 1, 1],
        [0, 0, 0, 1, 1],
        [0, 1, 0, 1, 1],
        [1, 1, 1, 0, 1],
        [1, 1, 1, 1, 0],
    ]
    assert known.penalty().tolist() == expected


@pytest.mark.parametrize("group", [[5, 5, 9], [-1, -1, -1], [0, 1, 2]])
def test_correspondence_of_one_set_with_itself(group: list[int]) -> None:
    member = torch.tensor(group)
    penalty = correspondence(3, 3, row_group=member, column_group=member).penalty()
    differ = (member[:, None] != member) & (member[:, None] >= 0) & (member >= 0)
    assert torch.equal(penalty.bool(), differ)
    assert bool((correspondence(2, 4).penalty() == 0).all())


def test_correspondence_refuses_half_of_the_groups() -> None:
    with pytest.raises(ValueError, match="column_group must be given too"):
        correspondence(2, 2, row_group=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"row_group must have shape \(3,\), got \(2,\)"):
        both = torch.tensor([0, 1])
        correspondence(3, 2, row_group=both, column_group=both)


def test_the_anchored_term_is_its_definition() -> None:
    batch, anchor = make_batch(), 4.0
    method = make("joint_alignment", anchor=anchor, **EQUAL)
    value = method.losses(batch)["joint"]
    # The definition: one transport of 8 + 4 student and 10 + 4 teacher samples.
    whole = replace(
        batch,
        unlabelled=torch.cat((batch.unlabelled, batch.paired)),
        unlabelled_teacher_feature=torch.cat(
            (batch.unlabelled_teacher_feature, batch.paired_teacher_feature)
        ),
    )
    q = torch.cat((batch.unlabelled_teacher_logits, batch.paired_teacher_logits)).softmax(-1)
    cost, _, _ = joint_parts(method, whole, q)
    penalty = torch.zeros(12, 14)
    penalty[8:], penalty[:, 10:] = 1, 1
    penalty[8:, 10:] -= torch.eye(4)
    shifted = (cost - cost.min()).detach()
    a = torch.full((12,), 1 / 12)
    b = torch.cat((torch.full((10,), 8 / 12 / 10), torch.full((4,), 1 / 12)))
    plan = plan_of(shifted + anchor * shifted.mean() * penalty, 0.1 * shifted.mean(), a, b)
    expected = (plan * cost).sum()
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    parameters = method.trainable()
    torch.testing.assert_close(
        torch.autograd.grad(value, parameters, allow_unused=True),
        torch.autograd.grad(expected, parameters, allow_unused=True),
        rtol=1e-5, atol=1e-7,
    )  # fmt: skip
    # The partners keep each other.
    assert float(plan[8:, 10:].diagonal().sum()) > 0.99 * 4 / 12


def test_groups_keep_to_themselves() -> None:
    batch = make_batch()
    row, column = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), torch.tensor([0] * 5 + [1] * 5)
    grouped = replace(batch, unlabelled_group=row, unlabelled_teacher_group=column, paired=None)
    method = make("joint_alignment", anchor=50.0, **SHARP)
    joined = method.losses(grouped)["joint"]
    halves = 0.0
    x, logits = method.student.outputs(batch.unlabelled)
    q = batch.unlabelled_teacher_logits.softmax(-1)
    cost = joint_cost(method.projector(x), logits, batch.unlabelled_teacher_feature, q)
    shifted = cost - cost.min()
    unit = 0.1 * shifted.detach().mean()
    for i, j in ((slice(0, 4), slice(0, 5)), (slice(4, 8), slice(5, 10))):
        plan = plan_of(shifted[i, j].detach(), unit, torch.full((4,), 1 / 8), torch.full((5,), 0.1))
        halves = halves + (plan * cost[i, j]).sum()
    torch.testing.assert_close(joined, halves, rtol=1e-5, atol=1e-6)
    free = make("joint_alignment", method.student, anchor=0.0, **SHARP)
    free.projector.load_state_dict(method.projector.state_dict())
    assert abs(float((free.losses(grouped)["joint"] - joined).detach())) > 1e-5


def test_a_short_reach_leaves_the_far_class_alone() -> None:
    cost = torch.tensor([[0.0, 0.2, 9.0], [0.2, 0.0, 9.0]], requires_grad=True)
    whole, part = planned(cost, **SHARP), planned(cost, reach=0.05, **SHARP)
    torch.testing.assert_close(whole.plan.sum(0), torch.full((3,), 1 / 3))
    assert float(part.plan[:, 2].sum()) < 1e-3 < 0.3 < float(part.plan[:, :2].sum())
    assert float(part.value.detach()) < float(whole.value.detach())


def test_penalties_steer_the_plan_and_stay_out_of_the_value() -> None:
    cost = torch.rand(4, 4)
    forbidden = 1 - torch.eye(4)
    found = planned(cost, penalty=1e3 * forbidden, **SHARP)
    torch.testing.assert_close(found.plan, torch.eye(4) / 4, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.value, cost.diagonal().mean())


def test_the_bank_warm_starts_itself_and_keeps_its_result() -> None:
    batch = make_batch()
    method = make("joint_alignment", bank=True, **SHARP)
    assert method.whole_teacher and method.start is None
    cold = method.losses(batch)["joint"]
    assert method.start is not None and method.start.shape == (10,)
    warm = method.losses(batch)["joint"]
    torch.testing.assert_close(warm, cold, rtol=1e-7, atol=1e-9)
    # A warm start needs fewer iterations than a cold one.
    short = make("joint_alignment", method.student, bank=True, anchor=0.0, tol=1e-10, max_iter=1)
    short.projector.load_state_dict(method.projector.state_dict())
    exact = make("joint_alignment", method.student, anchor=0.0, **SHARP)
    exact.projector.load_state_dict(method.projector.state_dict())
    truth = exact.losses(batch)["joint"]
    first = abs(float((short.losses(batch)["joint"] - truth).detach()))
    for _ in range(5):
        last = abs(float((short.losses(batch)["joint"] - truth).detach()))
    assert last < 0.1 * first
    stored = method.state_dict()
    other = make("joint_alignment", make_student(), bank=True, **SHARP)
    other.load_state_dict(stored)
    assert torch.equal(other.start, method.start)


def test_head_initialisation_copies_the_teachers_head() -> None:
    student = make_student(width=D_T)
    method = make("joint_alignment", student, head_init=True)
    assert torch.equal(method.student.head.weight, method.teacher_head.weight)
    x = torch.randn(5, D_T)
    wrong = make("joint_alignment", make_student(width=D_T), head_init=True, placebo=True)
    torch.testing.assert_close(wrong.student.head(x), wrong.head_logits(x))
    with pytest.raises(ValueError, match="head_init=True needs linear heads of one shape"):
        make("joint_alignment", make_student(width=D_T + 1), head_init=True)
    assert method.student.head.out_features == C


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_planned_costs_of_16_bit(dtype: torch.dtype) -> None:
    cost = torch.rand(6, 3, dtype=torch.float32)
    mass = torch.tensor([0.45, 0.35, 0.2])
    narrow = planned(cost.to(dtype).requires_grad_(), column_weight=mass.to(dtype), **SHARP)
    wide = planned(cost.to(dtype).double(), column_weight=mass.to(dtype).double(), **SHARP)
    torch.testing.assert_close(narrow.plan.double(), wide.plan, rtol=0, atol=1e-3)
    narrow.value.backward()


def test_profile_cost_written_out() -> None:
    """Sample by sample, with a class that no labelled sample has."""
    x, labelled, z = torch.randn(3, 4), torch.randn(4, 4), torch.randn(5, 6)
    label, q = torch.tensor([0, 1, 1, 0]), torch.randn(5, 3).softmax(-1)
    centre, middle = torch.cat((labelled, x)).mean(0), z.mean(0)
    own = [labelled[label == c].mean(0) - centre for c in (0, 1)]
    other = [(q[:, c, None] * (z - middle)).sum(0) / q[:, c].sum() for c in (0, 1)]

    def profile(point: torch.Tensor, means: list[torch.Tensor]) -> torch.Tensor:
        cosine = torch.stack([point @ m / point.norm() / m.norm() for m in means])
        return (cosine / 0.2).exp() / (cosine / 0.2).exp().sum()

    found = profile_cost(x, labelled, label, z, q)
    for i in range(3):
        for j in range(5):
            s, r = profile(x[i] - centre, own), profile(z[j] - middle, other)
            expected = (r * (r / s).log()).sum()
            torch.testing.assert_close(found[i, j], expected)
    # One cloud against itself, rotated and scaled: no map is needed to find the partners.
    turn = torch.linalg.qr(torch.randn(4, 4)).Q
    hot = torch.eye(3)[label]
    same = profile_cost(labelled, labelled, label, 7 * labelled @ turn, hot)
    torch.testing.assert_close(same.diagonal(), torch.zeros(4), rtol=0, atol=1e-12)
    assert bool((same > -1e-12).all())


def test_profiles_and_softer_labels_enter_the_cost() -> None:
    batch = replace(make_batch(), paired=None)
    method = make("joint_alignment", profile_weight=0.7, teacher_temperature=3.0, **EQUAL)
    (value,) = (method.losses(batch)["joint"],)
    q = (batch.unlabelled_teacher_logits / 3).softmax(-1)
    cost, _, a = joint_parts(method, batch, q)
    features = method.student.encoder(torch.cat((batch.student, batch.unlabelled)))
    profile = profile_cost(
        features[6:], features[:6], batch.student_label, batch.unlabelled_teacher_feature, q
    )
    cost = cost + 0.7 * profile / profile.detach().mean()
    shifted = (cost - cost.min()).detach()
    plan = plan_of(shifted, 0.1 * shifted.mean(), a, torch.full((10,), 0.1))
    torch.testing.assert_close(value, (plan * cost).sum(), rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match="teacher_temperature must be"):
        make("joint_alignment", teacher_temperature=0.0)
