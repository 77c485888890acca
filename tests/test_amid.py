"""AMID: its bound, its critic and its game by hand, and a method that is their sum."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from methods_common import D_T, C, double, make, make_batch, teacher_of  # noqa: F401
from ucmkd.methods.adversary import Adversary, guess_loss, judge_loss
from ucmkd.methods.amid import Critic, information_bound


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_bound_by_loops() -> None:
    u = torch.randn(4, 4)
    total = 0.0
    for i in range(4):
        for j in range(4):
            h = sigmoid(u[i, j].item() - math.log(3))
            total += math.log(h if i == j else 1 - h) / 4
    assert information_bound(u).item() == pytest.approx(total + math.log(3), rel=1e-12)


def test_bound_by_hand() -> None:
    # Two samples, N = 1. All scores 0: h = 1/2 everywhere, log 1/2 + log 1/2.
    assert information_bound(torch.zeros(2, 2)).item() == pytest.approx(-2 * math.log(2))
    # Perfectly told: log N of p = 5 samples is all that they can show.
    told = 60 * (2 * torch.eye(5) - 1)
    assert information_bound(told).item() == pytest.approx(math.log(4), abs=1e-12)
    assert information_bound(torch.ones(1, 1)).item() == 0.0


def test_bound_is_largest_at_the_density_ratio() -> None:
    """Four equally likely values, X = Y: the ratio is 4 where equal, 0 elsewhere; I = log 4."""
    scores = torch.full((4, 4), -30.0)
    scores.fill_diagonal_(math.log(4))
    found = information_bound(scores).item()
    # h at the diagonal 4 / (4 + 3): log 3 + log 4/7, below log 4 by log 7/3.
    assert found == pytest.approx(math.log(4) - math.log(7 / 3), abs=1e-9)
    assert found < math.log(4)


def test_critic_by_hand() -> None:
    critic = Critic(2, 1, 2, 0.5)
    with torch.no_grad():
        critic.first.weight.copy_(torch.eye(2))
        critic.second.weight.copy_(torch.tensor([[1.0], [0.0]]))
        for layer in (critic.first, critic.second):
            layer.bias.zero_()
        critic.offset.fill_(0.25)
    found = critic(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[5.0], [-1.0]]))
    # Cosines with (1, 0) and (-1, 0), over 1/2, plus 1/4.
    torch.testing.assert_close(found, torch.tensor([[1.45, -0.95], [0.25, 0.25]]))


def test_game_by_hand() -> None:
    real, fake = torch.tensor([0.0, math.log(3)]), torch.tensor([math.log(3)])
    # D(real) = 1/2 and 3/4, D(fake) = 3/4.
    expected = -(math.log(0.5) + math.log(0.75)) / 2 - math.log(0.25)
    assert judge_loss(real, fake).item() == pytest.approx(expected)
    assert guess_loss(fake).item() == pytest.approx(-math.log(0.75))


def test_each_player_has_its_own_loss() -> None:
    game, s, t = Adversary(3, 2, 4), torch.randn(5, 3), torch.randn(5, 2)
    s.requires_grad_(), t.requires_grad_()
    guess, judge = game.losses(s, t)
    by_guess = torch.autograd.grad(guess, [s, *game.parameters()], allow_unused=True)
    by_judge = torch.autograd.grad(judge, [s, t, *game.parameters()], allow_unused=True)
    own = len(list(game.guesser.parameters()))
    assert all(g is not None for g in by_guess[: 1 + own])
    assert all(g is None for g in by_guess[1 + own :])
    assert all(g is None for g in by_judge[: 2 + own])
    assert all(g is not None for g in by_judge[2 + own :])
    seen = game.judge(torch.cat((s, game.guesser(s)), dim=1))[:, 0]
    torch.testing.assert_close(guess, -torch.sigmoid(seen).log().mean())


def network(module: nn.Module, x: Tensor) -> Tensor:
    """Two hidden layers with ReLU, written out; features."""
    for layer in (m for m in module.encoder if isinstance(m, nn.Linear)):
        x = (x @ layer.weight.T + layer.bias).clamp_min(0)
    return x


def test_method_is_the_sum_of_its_terms() -> None:
    method, batch = make("amid", weight=2.0, auxiliary_weight=3.0, dropout=0.0), make_batch()
    terms = method.losses(batch)
    s = network(method.student, batch.paired)
    t = network(method.teacher, batch.paired_teacher_feature)
    rows = torch.cat((batch.teacher_feature, batch.paired_teacher_feature))
    both = network(method.teacher, rows), network(method.auxiliary, rows[:, 4:])
    for name, pair in (("student_teacher", (s, t)), ("teacher_auxiliary", both)):
        critic = getattr(method, name)
        x, y = (layer(z) for layer, z in zip((critic.first, critic.second), pair, strict=True))
        p = len(x)
        total = torch.zeros(())
        for i in range(p):
            for j in range(p):
                u = x[i] @ y[j] / x[i].norm() / y[j].norm() / 0.1 + critic.offset - math.log(p - 1)
                h = torch.sigmoid(u)
                total = total + (h if i == j else 1 - h).log() / p
        torch.testing.assert_close(terms[name], -(total + math.log(p - 1)))
    for name, z, head in (
        ("teacher_ce", both[0][:6], method.teacher.head),
        ("auxiliary_ce", both[1][:6], method.auxiliary.head),
    ):
        known = head(z).log_softmax(-1)[torch.arange(6), batch.teacher_label]
        torch.testing.assert_close(terms[name], -known.mean())
    total = terms["ce"] + terms["pair_ce"] + terms["teacher_ce"] + terms["auxiliary_ce"]
    total = total + terms["judge"] + 2 * terms["student_teacher"] + 3 * terms["teacher_auxiliary"]
    torch.testing.assert_close(method.total(terms, 0), total + 0.1 * terms["adversary"])


def test_the_callers_teacher_stays() -> None:
    given = teacher_of("amid")
    method = make("amid", **given)
    before = {k: v.clone() for k, v in given["teacher_head"].state_dict().items()}
    optimiser = torch.optim.SGD(method.trainable(), lr=0.1)
    method.backward(make_batch(), 0)
    optimiser.step()
    for key, value in given["teacher_head"].state_dict().items():
        assert torch.equal(value, before[key])
    moved = method.joint_teacher().state_dict()
    assert any(not torch.equal(moved[key], before[key]) for key in before)
    assert make("dml").joint_teacher() is None


def test_a_placebo_learns_permuted_classes() -> None:
    plain, batch = make("amid", dropout=0.0), make_batch()
    placebo = make("amid", dropout=0.0, placebo=True)
    placebo.load_state_dict(plain.state_dict(), strict=False)
    one, two = plain.losses(batch), placebo.losses(batch)
    changed = {name for name in one if not torch.equal(one[name], two[name])}
    assert changed == {"teacher_ce", "auxiliary_ce"}


def test_refusals() -> None:
    with pytest.raises(
        ValueError, match=r"amid needs teacher_modalities.*rna\+meth.*got None.*dml"
    ):
        make("amid", teacher_modalities=None)
    with pytest.raises(ValueError, match=rf"positive columns, {D_T} columns in all, got .*'b': 4"):
        make("amid", teacher_modalities={"a": 4, "b": 4})
    with pytest.raises(TypeError, match=r"as a ucmkd.models.Student, got Linear"):
        make("amid", teacher_head=nn.Linear(D_T, C))
