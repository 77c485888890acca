"""The baselines without a teacher, against hand-worked numbers and simulations."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from methods_common import COUNTS, PRIOR, C, double, make, make_batch, make_student  # noqa: F401
from ucmkd.methods import create
from ucmkd.methods.imbalance import (
    class_balance_weights,
    logit_adjusted_cross_entropy,
    weighted_cross_entropy,
)
from ucmkd.models import HookedModel
from ucmkd.priors import estimate_prior_bbse, estimate_prior_em


def test_class_balance_weights_by_hand() -> None:
    inverse = class_balance_weights(COUNTS)  # 1/3, 1/2, 1, times 3 / (11/6)
    torch.testing.assert_close(inverse, torch.tensor([6 / 11, 9 / 11, 18 / 11]))
    # β = .5: 1 - β^n is 7/8, 3/4, 1/2, so the weights are as 8/7, 4/3, 2, of sum 94/21.
    effective = class_balance_weights(COUNTS, weighting="effective", beta=0.5)
    torch.testing.assert_close(effective, torch.tensor([8 / 7, 4 / 3, 2.0]) * 63 / 94)
    none = class_balance_weights(COUNTS, weighting="effective", beta=0.0)
    torch.testing.assert_close(none, torch.ones(3))
    limit = class_balance_weights(COUNTS, weighting="effective", beta=1 - 1e-9)
    torch.testing.assert_close(limit, inverse, rtol=1e-7, atol=0)
    absent = class_balance_weights(torch.tensor([4, 0, 1]))  # as 1/4 to 1, of mean 1 over two
    torch.testing.assert_close(absent, torch.tensor([0.4, 0.0, 1.6]))


def test_weighted_ce_is_its_definition() -> None:
    batch, method = make_batch(), make("weighted_ce", label_smoothing=0.2)
    logits = method.student(batch.student)
    weight = [6 / 11, 9 / 11, 18 / 11]
    total = torch.zeros(())
    for row, y in zip(logits, batch.student_label.tolist(), strict=True):
        log_p = row - row.exp().sum().log()
        total = total - weight[y] * (0.8 * log_p[y] + 0.2 * log_p.mean())
    torch.testing.assert_close(method.losses(batch)["ce"], total / 6)
    plain = weighted_cross_entropy(logits, batch.student_label, torch.ones(C))
    torch.testing.assert_close(plain, F.cross_entropy(logits, batch.student_label))
    torch.testing.assert_close(method.predict(batch.student), logits)


def test_logit_adjustment_is_its_definition() -> None:
    batch, method = make_batch(), make("logit_adjustment", tau=1.5)
    logits = method.student(batch.student)
    prior = [1 / 2, 1 / 3, 1 / 6]
    total = 0.0
    for row, y in zip(logits.tolist(), batch.student_label.tolist(), strict=True):
        scores = [prior[c] ** 1.5 * math.exp(row[c]) for c in range(C)]
        total -= math.log(scores[y] / sum(scores)) / 6
    assert method.losses(batch)["ce"].item() == pytest.approx(total, rel=1e-12)
    torch.testing.assert_close(method.predict(batch.student), logits)  # without the adjustment
    plain = logit_adjusted_cross_entropy(logits, batch.student_label, torch.tensor(prior), tau=0.0)
    torch.testing.assert_close(plain, F.cross_entropy(logits, batch.student_label))
    absent = make("logit_adjustment", label_counts=torch.tensor([5, 0, 4]))
    assert bool(absent.losses(batch)["ce"].isfinite())
    torch.testing.assert_close(absent.label_prior, torch.tensor([0.5, 0.1, 0.4]))


def test_label_counts_are_needed_and_checked() -> None:
    for name in ("weighted_ce", "logit_adjustment", "prior_correction"):
        with pytest.raises(ValueError, match=f"{name} needs label_counts"):
            make(name, label_counts=None)
    assert make("ce").label_counts is None  # kept only where it is needed
    for wrong, kind in (
        (torch.tensor([0.5, 0.5, 0.0]), TypeError),
        ("many", TypeError),
        (torch.tensor([1, 2]), ValueError),
        (torch.tensor([1, -1, 2]), ValueError),
        (torch.zeros(3, dtype=torch.long), ValueError),
    ):
        with pytest.raises(kind, match="label_counts must be 3 whole numbers"):
            make("ce", label_counts=wrong)
    for option in ({"weighting": "sqrt"}, {"beta": 1.0}, {"beta": -0.1}):
        with pytest.raises(ValueError, match=next(iter(option))):
            make("weighted_ce", **option)
    with pytest.raises(ValueError, match="tau"):
        make("logit_adjustment", tau=-1.0)


# Priors ----------------------------------------------------------------------------------------


def gaussian_logits(n: int, prior: list[float], trained: list[float]) -> tuple:
    """Samples of three Gaussians with frequencies ``prior``; exact posteriors for ``trained``."""
    centre = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    label = torch.multinomial(torch.tensor(prior), n, replacement=True)
    x = centre[label] + torch.randn(n, 2)
    return -(x[:, None] - centre).square().sum(-1) / 2 + torch.tensor(trained).log(), label


def test_em_finds_the_true_prior() -> None:
    truth, trained = [0.1, 0.3, 0.6], [0.5, 0.3, 0.2]
    logits, _ = gaussian_logits(20_000, truth, trained)
    found = estimate_prior_em(logits, torch.tensor(trained))
    # The error of a frequency with known classes is about .0035; overlap doubles it.
    torch.testing.assert_close(found, torch.tensor(truth), rtol=0, atol=0.02)
    naive = torch.bincount(logits.argmax(1), minlength=3) / len(logits)
    assert (naive - torch.tensor(truth)).abs().max() > 0.05  # what it corrects
    torch.testing.assert_close(found.sum(), torch.ones(()))
    # A shift of a row's logits, or a scale of the prior, changes nothing.
    shifted = estimate_prior_em(logits + torch.randn(len(logits), 1), 7 * torch.tensor(trained))
    torch.testing.assert_close(shifted, found)


def test_em_is_the_maximum_of_the_likelihood() -> None:
    """Two classes: the likelihood in q is one-dimensional; compare with a fine grid."""
    logits, prior = torch.randn(50, 2) * 2 + torch.tensor([1.0, 0.0]), torch.tensor([0.7, 0.3])
    found = estimate_prior_em(logits, prior, tol=1e-12, max_iter=100_000)
    p = logits.softmax(1) / prior
    grid = torch.linspace(0, 1, 100_001)
    likelihood = (grid[:, None] * p[:, 0] + (1 - grid[:, None]) * p[:, 1]).log().sum(1)
    assert found[0].item() == pytest.approx(grid[likelihood.argmax()].item(), abs=2e-5)
    one = estimate_prior_em(logits, prior, max_iter=1)  # one step: the mean posterior
    torch.testing.assert_close(one, logits.softmax(1).mean(0))


def test_bbse_finds_the_true_prior() -> None:
    truth, trained = [0.1, 0.3, 0.6], [0.5, 0.3, 0.2]
    held_out, label = gaussian_logits(20_000, trained, trained)
    confusion = torch.zeros(3, 3)
    confusion.index_put_((label, held_out.argmax(1)), torch.ones(len(label)), accumulate=True)
    logits, _ = gaussian_logits(20_000, truth, trained)
    found = estimate_prior_bbse(confusion, logits.argmax(1))
    torch.testing.assert_close(found, torch.tensor(truth), rtol=0, atol=0.02)


def test_bbse_by_hand() -> None:
    # P(predicted 0 | 0) = .8, P(predicted 0 | 1) = .4; 60 % predicted 0: .8 q + .4 (1 - q) = .6.
    confusion = torch.tensor([[8, 2], [4, 6]])
    found = estimate_prior_bbse(confusion, torch.tensor([0] * 6 + [1] * 4))
    torch.testing.assert_close(found, torch.tensor([0.5, 0.5]))
    # 90 % predicted 0 would need q = 1.25 and -.25: cut at 0.
    found = estimate_prior_bbse(confusion, torch.tensor([0] * 9 + [1]))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0]))


def test_estimators_name_bad_arguments() -> None:
    good = torch.randn(4, 3)
    for arguments, message in (
        ((good[0], PRIOR), "logits must have shape"),
        ((good * float("nan"), PRIOR), "logits must be finite"),
        ((good, PRIOR[:2]), "labelled_prior must have shape"),
        ((good, torch.tensor([0.5, 0.5, 0.0])), "labelled_prior must be finite and positive"),
    ):
        with pytest.raises(ValueError, match=message):
            estimate_prior_em(*arguments)
    with pytest.raises(ValueError, match="max_iter"):
        estimate_prior_em(good, PRIOR, max_iter=0)
    with pytest.raises(TypeError, match="logits"):
        estimate_prior_em(good.long(), PRIOR)
    label, eye = torch.tensor([0, 1]), torch.eye(2)
    for confusion, predictions, message in (
        (torch.ones(2, 3), label, r"confusion must have shape \(C, C\)"),
        (torch.ones(2, 2), label, "confusion must be invertible, got rank 1"),
        (torch.tensor([[1.0, 0], [0, 0]]), label, r"got none of \[1\]"),
        (-eye, label, "not negative"),
        (eye, label + 1, "predictions must lie in 0..1"),
        (eye, label[:0], "not empty"),
    ):
        with pytest.raises(ValueError, match=message):
            estimate_prior_bbse(confusion, predictions)
    with pytest.raises(TypeError, match="predictions must be integers"):
        estimate_prior_bbse(eye, label.double())


# Prior correction ------------------------------------------------------------------------------


def test_prior_correction_with_a_given_prior() -> None:
    batch = make_batch()
    counts = torch.tensor([1 / 2, 1 / 3, 1 / 6])
    for prior, q in (
        ("teacher", PRIOR),
        ("uniform", torch.full((C,), 1 / C)),
        ([1.0, 1.0, 2.0], torch.tensor([0.25, 0.25, 0.5])),
    ):
        method = make("prior_correction", prior=prior)
        assert not method.needs_unlabelled and not method.requires
        expected = method.student(batch.student) + q.log() - counts.log()
        torch.testing.assert_close(method.predict(batch.student), expected)
    smoothed = make("prior_correction", prior="uniform", label_smoothing=0.3)
    expected = smoothed.student(batch.student) - (3 * (0.7 * counts + 0.1)).log()
    torch.testing.assert_close(smoothed.predict(batch.student), expected)
    with pytest.raises(ValueError, match="prior must be one of"):
        make("prior_correction", prior="students")
    with pytest.raises(ValueError, match="class_prior"):
        make("prior_correction", prior="teacher", class_prior=None)
    with pytest.raises(ValueError, match="memory"):
        make("prior_correction", memory=0)


def test_prior_correction_remembers_the_last_logits() -> None:
    method, batch = make("prior_correction", memory=12), make_batch()
    before = method.predict(batch.student)
    torch.testing.assert_close(before, method.student(batch.student))  # nothing seen: no change
    inputs = [torch.randn(8, batch.student.shape[1]) for _ in range(3)]
    for unlabelled in inputs:
        method.losses(replace(batch, unlabelled=unlabelled))
    last = method.student(torch.cat(inputs))[-12:]
    kept = method.pool.memory[method.pool.memory[:, 0].argsort()]
    torch.testing.assert_close(kept, last[last[:, 0].argsort()])
    prior = COUNTS / COUNTS.sum()
    q = estimate_prior_em(last, prior)
    expected = method.student(batch.student) + q.clamp_min(1e-6).log() - prior.log()
    torch.testing.assert_close(method.predict(batch.student), expected)
    method.eval()
    method.losses(batch)  # in eval mode nothing is remembered
    assert int(method.pool.seen) == 24
    few = make("prior_correction", memory=3)
    few.losses(batch)  # a batch larger than the memory: its last samples
    torch.testing.assert_close(few.pool.memory, few.student(batch.unlabelled)[-3:])


def test_prior_correction_helps_where_the_pool_is_shifted() -> None:
    """Balanced labels, a skewed pool: corrected predictions are better, with no teacher at all."""
    student = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 3))
    model = HookedModel(student, "0", torch.ones(2, 2))
    method = create(
        "prior_correction", model, num_classes=3, label_counts=torch.full((3,), 100), memory=4000
    )
    centre = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    label = torch.arange(300) % 3
    skewed = torch.multinomial(torch.tensor([0.85, 0.1, 0.05]), 4000, replacement=True)
    pool = centre[skewed] + torch.randn(4000, 2)
    batch = replace(make_batch(), student=centre[label] + torch.randn(300, 2), student_label=label)
    batch = replace(batch, unlabelled=pool, teacher_feature=None, paired_teacher_feature=None)
    batch = replace(batch, unlabelled_teacher_feature=None)
    optimiser = torch.optim.Adam(method.trainable(), lr=0.05)
    for step in range(150):
        optimiser.zero_grad()
        method.backward(batch, step)
        optimiser.step()
    plain = (method.student(pool).argmax(1) == skewed).double().mean()
    corrected = (method.predict(pool).argmax(1) == skewed).double().mean()
    assert corrected > plain + 0.05


# What is deployed ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["ce", "prior_only", "prior_correction", "norm", "pkdot", "discom_kd"]
)
def test_deployed_student_predicts_the_same(name: str) -> None:
    batch = make_batch()
    network = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3), nn.Tanh())
    for student in (make_student(), HookedModel(network, "1", torch.ones(2, 5))):
        method = make(name, student)
        method.losses(batch)
        before = {k: v.clone() for k, v in student.state_dict().items()}
        model = method.deployed()
        torch.testing.assert_close(model(batch.student), method.predict(batch.student))
        feature, logits = model.outputs(batch.student)
        torch.testing.assert_close(model.head(feature), logits)
        assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())
    same = make(name).deployed().state_dict().keys() == make_student().state_dict().keys()
    assert same == (name not in ("pkdot", "discom_kd"))  # they keep a network of their own
