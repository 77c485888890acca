"""Boundary supporting samples: the search by hand on linear teachers, the loss by its formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ucmkd.losses import BSSLoss, bss_loss
from ucmkd.losses.boundary import base_samples, boundary_samples, draw_targets


def linear(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    net = nn.Linear(len(weight[0]), len(weight)).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor(weight))
        net.bias.copy_(torch.tensor(bias))
    return net


def test_steps_by_hand() -> None:
    """L(x) = 3x + 4y of norm 5: a step of η = 0.1 takes off η (L + ε) 5 = (L + ε)/2 of the lead."""
    teacher = linear([[3.0, 4.0], [0.0, 0.0]], [0.0, 0.0])
    start = torch.tensor([[1.0, 1.0]], dtype=torch.float64)  # L = 7
    target = torch.tensor([1])
    found = boundary_samples(teacher, start, target, step=0.1, max_iter=2, margin=0.0)
    # 7 → 3.5 → 1.75, along (0.6, 0.8) from (1, 1).
    assert found.logits[0, 0].item() == pytest.approx(1.75)
    gone = (7 - 1.75) / 5
    assert found.inputs[0].tolist() == pytest.approx([1 - 0.6 * gone, 1 - 0.8 * gone])
    assert not found.crossed.item()
    # With ε = 2: 7 → 7 - 4.5 = 2.5 → 2.5 - 2.25 = 0.25 → 0.25 - 1.125 < 0, and there it ends.
    found = boundary_samples(teacher, start, target, step=0.1, max_iter=10, margin=2.0)
    assert found.crossed.item() and found.logits[0, 0].item() == pytest.approx(-0.875)


def test_search_is_its_formula() -> None:
    """A literal loop over samples and steps, with derivatives by differences."""
    torch.manual_seed(3)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    inputs = torch.rand(7, 2, 3, dtype=torch.float64)
    base = teacher(inputs).argmax(1)
    target = (base + torch.tensor([1, 2, 3, 1, 2, 3, 1])) % 4
    options = dict(step=0.3, max_iter=5, margin=0.05, low=0.0, high=1.0)
    found = boundary_samples(teacher, inputs, target, **options)

    def logits(x: list[float]) -> list[float]:
        with torch.no_grad():
            return teacher(torch.tensor(x, dtype=torch.float64).reshape(1, 2, 3))[0].tolist()

    for i in range(7):
        x, b, k = inputs[i].flatten().tolist(), int(base[i]), int(target[i])
        for _ in range(5):
            z = logits(x)
            if z.index(max(z)) != b:
                break
            slope = []
            for d in range(6):
                up, down = list(x), list(x)
                up[d], down[d] = x[d] + 1e-6, x[d] - 1e-6
                u, v = logits(up), logits(down)
                slope.append(((u[b] - u[k]) - (v[b] - v[k])) / 2e-6)
            norm = math.sqrt(sum(s * s for s in slope))
            length = 0.3 * (z[b] - z[k] + 0.05)
            x = [min(max(v - length * s / norm, 0.0), 1.0) for v, s in zip(x, slope, strict=True)]
        assert found.inputs[i].flatten().tolist() == pytest.approx(x, abs=1e-7)
        z = logits(x)
        assert found.logits[i].tolist() == pytest.approx(z, abs=1e-6)
        assert bool(found.crossed[i]) == (z.index(max(z)) != b)
    assert int(found.crossed.sum()) > 0


def test_search_leaves_the_teacher_alone() -> None:
    teacher = linear([[1.0], [-1.0]], [0.0, 0.0])
    with torch.no_grad():
        found = boundary_samples(teacher, torch.ones(1, 1).double(), torch.tensor([1]))
    assert teacher.weight.grad is None and not found.inputs.requires_grad
    # A teacher whose logits do not depend on the input: no direction, nothing moves.
    flat = linear([[0.0], [0.0]], [1.0, 0.0])
    stuck = boundary_samples(flat, torch.ones(1, 1).double(), torch.tensor([1]))
    assert stuck.inputs.item() == 1.0 and not stuck.crossed.item()


def test_samples_to_start_from() -> None:
    teacher = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.5, 0.25, 0.25], [0.9, 0.1, 0.0]])
    student = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.7, 0.1], [0.3, 0.1, 0.6]])
    label = torch.tensor([0, 0, 0, 0])
    # The second is wrong. Gaps beside the label: 0; .45² + .15² = .225; 0 + .36.
    logs = (student + 1e-9).log(), (teacher + 1e-9).log()
    assert base_samples(*logs, label, 3).tolist() == [3, 2, 0]
    assert base_samples(*logs, label, 1).tolist() == [3]
    assert base_samples(*logs, torch.tensor([2, 0, 1, 1]), 9).tolist() == []


def test_targets_follow_the_teacher() -> None:
    logits = torch.tensor([0.7, 0.2, 0.1, 1e-12]).log().expand(4000, 4)
    found = draw_targets(logits, torch.Generator().manual_seed(0)).bincount(minlength=4) / 4000
    assert found[0] == 0 and found[3] == 0
    assert found[1].item() == pytest.approx(2 / 3, abs=0.03)
    # However sure the teacher is, another class is drawn.
    assert draw_targets(torch.tensor([[900.0, 0.0, -900.0]])).item() == 1


def test_loss_by_hand() -> None:
    student = torch.tensor([[0.0, 0.0], [1.0, 5.0], [2.0, 0.0]], dtype=torch.float64)
    teacher = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    crossed = torch.tensor([True, False, True])

    def divergence(p: float, q: float) -> float:
        return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))

    one = divergence(0.75, 0.5)
    three = divergence(0.5, 1 / (1 + math.exp(-2)))
    found = bss_loss(student, teacher, crossed=crossed, temperature=1.0)
    assert found.item() == pytest.approx((one + three) / 2)
    p, q = 1 / (1 + 3 ** (-1 / 3)), 0.5
    only = torch.tensor([True, False, False])
    value = bss_loss(student, teacher, crossed=only)
    assert value.item() == pytest.approx(9 * divergence(p, q))
    assert BSSLoss()(student, teacher, only).item() == value.item()
    student.requires_grad_()
    nothing = bss_loss(student, teacher, crossed=torch.zeros(3, dtype=torch.bool))
    nothing.backward()
    assert nothing.item() == 0 and student.grad is not None and not student.grad.any()
    assert torch.autograd.gradcheck(lambda s: bss_loss(s, teacher, crossed=crossed), student)


TWO = linear([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]).float()


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"inputs": [1.0]}, TypeError, "inputs must be a floating torch.Tensor; got list"),
        ({"inputs": torch.ones(3)}, ValueError, r"inputs must have shape \(n, ...\)"),
        ({"target": torch.ones(3)}, ValueError, r"target must be int64 of shape \(3,\)"),
        ({"target": torch.tensor([1, 1, 0])}, ValueError, "the same for 1 of 3 samples"),
        ({"target": torch.tensor([1, 1, 7])}, ValueError, r"lie in 0\.\.1; got 1 to 7"),
        ({"step": 0.0}, ValueError, "step must be > 0; got 0.0"),
        ({"max_iter": 0}, ValueError, "max_iter must be at least 1; got 0"),
        ({"margin": -1.0}, ValueError, "margin must be >= 0; got -1.0"),
        ({"low": 1.0, "high": 0.0}, ValueError, "low must be below high; got 1.0 and 0.0"),
        ({"teacher": lambda x: x[:, 0]}, ValueError, r"must return logits \(3, C\)"),
    ],
)
def test_bad_searches_are_named(change: dict, kind: type[Exception], message: str) -> None:
    call: dict = {
        "teacher": TWO,
        "inputs": torch.tensor([[1.0, 0.0]]).repeat(3, 1),
        "target": torch.ones(3, dtype=torch.int64),
        **change,
    }
    with pytest.raises(kind, match=message):
        boundary_samples(call.pop("teacher"), call.pop("inputs"), call.pop("target"), **call)


def test_bad_losses_are_named() -> None:
    z = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"crossed must be bool of shape \(2,\); got torch.int64"):
        bss_loss(z, z, crossed=torch.ones(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="one shape"):
        bss_loss(z, z[:, :2])
    with pytest.raises(ValueError, match="C >= 2"):
        draw_targets(z[:, :1])
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        base_samples(z, z, torch.zeros(2, dtype=torch.int64), 0)
