"""Methods: each against its formula, written out."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from methods_common import PRIOR, C, joint_parts, make, make_batch, make_student, plan_of
from methods_common import double as _double  # noqa: F401 (a fixture for every test)
from ucmkd.losses import feature_align, kd_loss
from ucmkd.methods import Batch
from ucmkd.methods.cross_entropy import logit_adjustment
from ucmkd.methods.feature_kd import check_class_counts
from ucmkd.methods.joint_cost import joint_cost, normalised_distance
from ucmkd.methods.planned import planned_cost
from ucmkd.methods.self_labelling import self_label_loss


def test_feature_kd_formula() -> None:
    method, batch = make("feature_kd", weight=0.3), make_batch()
    features, logits = method.student.outputs(batch.student)
    terms = method.losses(batch)
    torch.testing.assert_close(terms["ce"], F.cross_entropy(logits, batch.student_label))
    fa = feature_align(
        method.projector(features), batch.teacher_feature, cost="euclidean", epsilon=0.1,
        epsilon_scale="mean", max_iter=100,
    )  # fmt: skip
    torch.testing.assert_close(terms["fa"], fa)
    torch.testing.assert_close(method.total(terms, 0), terms["ce"] + 0.3 * fa)


def test_label_aware_plan_stays_within_classes() -> None:
    """With a large label cost FA is the mean of the per-class transports."""
    batch = make_batch()
    method = make("label_aware", label_cost=100.0, tol=1e-9, max_iter=2000)
    features = method.projector(method.student.encoder(batch.student))
    distance = torch.cdist(features, batch.teacher_feature)
    epsilon = 0.1 * distance.mean().detach()
    expected = torch.zeros(())
    for c in range(C):
        rows, columns = batch.student_label == c, batch.teacher_label == c
        cost, k = distance[rows][:, columns], int(rows.sum())
        uniform = torch.full((k,), 1 / k)
        plan = plan_of(cost.detach(), epsilon, uniform, uniform)
        entropy = (plan * (plan * k * k).log()).sum()
        # Within a class the plan's KL to the product of the whole has - log(class mass) more.
        mass = k / len(batch.student)
        kl = entropy - torch.tensor(mass).log()
        expected = expected + mass * ((plan * cost).sum() + epsilon * kl)
    torch.testing.assert_close(method.losses(batch)["fa"], expected, rtol=1e-5, atol=1e-6)


def test_label_aware_wants_matched_classes() -> None:
    method, batch = make("label_aware"), make_batch()
    wrong = Batch(
        batch.student, batch.student_label, batch.teacher_feature, batch.teacher_logits,
        torch.tensor([0, 0, 1, 1, 2, 2]),
    )  # fmt: skip
    with pytest.raises(ValueError, match="class 0 has 3 of 6 student samples but 2 of 6"):
        method.losses(wrong)
    doubled = torch.cat((batch.student_label, batch.student_label))
    check_class_counts(batch.student_label, doubled, C)  # the proportions count


def test_label_aware_leaves_out_classes_that_the_teacher_lacks() -> None:
    """As the same loss on the student samples of the other classes, times their share."""
    method, batch = make("label_aware", tol=1e-9, max_iter=2000), make_batch()
    label = torch.tensor([0, 0, 1, 1, 1, 1])  # no 2, and other proportions than the student's
    partial = replace(batch, teacher_label=label)
    kept = batch.student_label < 2
    weight = torch.tensor([3 / 5 / 2] * 2 + [2 / 5 / 4] * 4)
    features = method.projector(method.student.encoder(batch.student))
    expected = feature_align(
        features[kept], batch.teacher_feature, student_label=batch.student_label[kept],
        teacher_label=label, teacher_weight=weight, **method.align,
    )  # fmt: skip
    torch.testing.assert_close(method.losses(partial)["fa"], kept.double().mean() * expected)
    alone = replace(batch, student_label=torch.full((6,), 2), teacher_label=label)
    term = method.losses(alone)["fa"]
    assert term.item() == 0.0
    gradients = torch.autograd.grad(term, list(method.student.encoder.parameters()))
    assert all(gradient.eq(0).all() for gradient in gradients)


def test_vanilla_kd_formula() -> None:
    batch = make_batch()
    method = make("vanilla_kd", weight=2.0, temperature=3.0)
    terms = method.losses(batch)
    student, teacher = method.student(batch.paired), batch.paired_teacher_logits
    torch.testing.assert_close(terms["kd"], kd_loss(student, teacher, temperature=3.0))
    p, q = (teacher / 3).softmax(-1), (student / 3).softmax(-1)
    torch.testing.assert_close(terms["kd"], 9 * (p * (p / q).log()).sum(-1).mean())
    torch.testing.assert_close(terms["pair_ce"], F.cross_entropy(student, batch.paired_label))
    total = terms["ce"] + 2.0 * terms["kd"] + terms["pair_ce"]
    torch.testing.assert_close(method.total(terms, 0), total)
    corrected = make("vanilla_kd", method.student, prior_correction=True).losses(batch)
    expected = kd_loss(student, teacher - PRIOR.log(), temperature=2.0)
    torch.testing.assert_close(corrected["kd"], expected)


def test_prior_only_shifts_logits() -> None:
    method, batch = make("prior_only"), make_batch()
    method.train()
    method.backward(batch, 0)
    method.eval()
    frequency = torch.tensor([3.0, 2.0, 1.0]) / 6
    expected = method.student(batch.student) + PRIOR.log() - frequency.log()
    torch.testing.assert_close(method.predict(batch.student), expected)
    method.losses(batch)  # in eval mode nothing is counted
    assert method.label_count.tolist() == [3, 2, 1]
    method.label_count.copy_(torch.tensor([6, 0, 2]))  # a class without labels: as the rarest
    expected = method.student(batch.student) + PRIOR.log() - torch.tensor([0.6, 0.2, 0.2]).log()
    torch.testing.assert_close(method.predict(batch.student), expected)
    logits = torch.randn(2, C)
    assert torch.equal(logit_adjustment(logits, PRIOR, PRIOR), logits)


@pytest.mark.parametrize("prior", ["teacher", "uniform", [0.2, 0.2, 0.6], None])
def test_joint_alignment_is_its_definition(prior: Any) -> None:
    batch = make_batch()
    # Without known frequencies all samples weigh the same.
    known = {"class_prior": None} if prior is None else {"prior": prior}
    method = make("joint_alignment", **known, anchor=0.0, tol=1e-10, max_iter=5000)
    cost, epsilon, a = joint_parts(method, batch, batch.unlabelled_teacher_logits.softmax(-1))
    b = torch.full((10,), 0.1)
    if prior is not None:
        given = {"uniform": torch.full((C,), 1 / 3), "teacher": PRIOR}
        mass = given[prior] if isinstance(prior, str) else torch.tensor(prior)
        b = (mass / torch.tensor([5.0, 3.0, 2.0]))[batch.unlabelled_teacher_label]
    plan = plan_of((cost - cost.min()).detach(), epsilon, a, b)
    torch.testing.assert_close(plan.sum(0), b)
    expected = (plan * cost).sum()
    value = method.losses(batch)["joint"]
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    parameters = method.trainable()
    torch.testing.assert_close(
        torch.autograd.grad(value, parameters, allow_unused=True),
        torch.autograd.grad(expected, parameters, allow_unused=True),
        rtol=1e-5, atol=1e-7,
    )  # fmt: skip


def test_joint_alignment_options() -> None:
    batch = make_batch()
    labels_only = make("joint_alignment", feature_weight=0.0)
    assert "unlabelled_teacher_feature" not in labels_only.requires
    assert "pair_feature" not in labels_only.losses(batch)
    no_pairs = make("joint_alignment", pair_weight=0.0)
    assert not no_pairs.uses_pairs and set(no_pairs.losses(batch)) == {"ce", "joint"}
    method = make("joint_alignment", weight=2.0, ramp_steps=100)
    assert [method.weights(s)["joint"] for s in (0, 50, 100, 900)] == [0.0, 1.0, 2.0, 2.0]
    terms = method.losses(batch)
    x = method.projector(method.student.encoder(batch.paired))
    gap = F.normalize(x, dim=-1) - F.normalize(batch.paired_teacher_feature, dim=-1)
    torch.testing.assert_close(terms["pair_feature"], gap.norm(dim=-1).mean())
    smoothed = F.cross_entropy(
        method.student(batch.student), batch.student_label, label_smoothing=0.1
    )
    torch.testing.assert_close(terms["ce"], smoothed)


def test_joint_cost_where_points_coincide() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    distance = normalised_distance(x, x.detach())
    distance.sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())
    assert bool((distance.diagonal() <= 1e-6).all())
    same = torch.zeros(3, C, requires_grad=True)  # every cost equal: no scale to speak of
    cost = joint_cost(x, same, None, torch.full((3, C), 1 / C), feature_weight=0.0)
    value = planned_cost(cost)
    value.backward()
    torch.testing.assert_close(value, torch.tensor(3.0).log())
    assert same.grad is not None and bool(same.grad.isfinite().all())


def test_self_labelling_formula() -> None:
    logits = torch.randn(8, C, requires_grad=True)
    cost = -logits.log_softmax(-1)
    shifted = (cost - cost.min()).detach()
    plan = plan_of(shifted, 0.1 * shifted.mean(), torch.full((8,), 1 / 8), PRIOR)
    expected = (8 * plan * cost).sum(-1).mean()
    value = self_label_loss(logits, PRIOR, tol=1e-10, max_iter=5000)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-8)
    (gradient,) = torch.autograd.grad(value, logits)
    # The gradient of a cross-entropy with targets 8 P: (softmax - target) / 8.
    torch.testing.assert_close(gradient, (logits.softmax(-1) - 8 * plan) / 8, rtol=1e-5, atol=1e-7)


def test_planned_cost_names_a_diverged_student() -> None:
    with pytest.raises(ValueError, match="NaN"):
        planned_cost(torch.tensor([[0.0, float("nan")]]))


def test_a_control_with_pairs_estimates_the_prior_like_the_control_without() -> None:
    """The pairs change the weights, not what the pool is seen to hold."""
    options = {"prior": "estimated", "estimate_steps": 3, "weight": 0.0}
    student, batch = make_student(), make_batch()
    batch = replace(batch, unlabelled=batch.student[:2].repeat(4, 1))
    masses = []
    for name in ("self_labelling", "self_labelling_with_pairs"):
        method = make(name, student, **options).train()
        for step in range(4):
            method.losses(batch, step)
        assert method.pool_prior.seen > 0
        masses.append(method.mass)
    torch.testing.assert_close(*masses)
    assert (masses[0] - 1 / C).abs().max() > 1e-3
