"""The constants of the certificate: derivatives by hand, by autograd and by search."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ucmkd.theory.certificate import entropy
from ucmkd.theory.certificate_lipschitz import (
    class_lipschitz,
    entropy_ceiling,
    entropy_constant,
    entropy_lipschitz,
)

pytestmark = pytest.mark.usefixtures("one_thread")  # many small problems

TABLE = {2: 0.3166, 3: 0.4125, 6: 0.5652, 8: 0.6281, 10: 0.6771, 28: 0.9087, 50: 1.0429}


def gradient_norm(logits: Tensor) -> Tensor:
    """‖p ∘ (log p + H)‖₂ of logits (..., K), literally."""
    log_p = logits.log_softmax(-1)
    h = -(log_p.exp() * log_p).sum(-1, keepdim=True)
    return (log_p.exp() * (log_p + h)).norm(dim=-1)


def test_entropy_gradient_is_the_formula() -> None:
    logits = torch.randn(50, 7, dtype=torch.float64).mul_(3).requires_grad_()
    entropy(logits).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad.norm(dim=-1), gradient_norm(logits.detach()))


@pytest.mark.parametrize("num_classes", TABLE)
def test_constant_of_the_table(num_classes: int) -> None:
    assert entropy_constant(num_classes) == pytest.approx(TABLE[num_classes], abs=5e-5)


def test_constant_of_two_classes_by_hand() -> None:
    # ∂H/∂l₁ = -p(1-p) logit p = -∂H/∂l₂; the best p is on a fine grid.
    p = torch.linspace(0.5, 1, 200_001, dtype=torch.float64)[1:-1]
    best = float((math.sqrt(2) * p * (1 - p) * torch.logit(p)).max())
    assert entropy_constant(2) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("num_classes", [2, 3, 4, 6, 10, 28])
def test_no_probabilities_do_better(num_classes: int) -> None:
    """Ascent from 200 starts of every sharpness: the best reaches the constant, none passes it."""
    scale = torch.logspace(-1, 1.2, 200, dtype=torch.float64)[:, None]
    logits = (scale * torch.randn(200, num_classes, dtype=torch.float64)).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(250):
        optimizer.zero_grad()
        (-gradient_norm(logits).sum()).backward()
        optimizer.step()
    found = float(gradient_norm(logits.detach()).max())
    assert found <= entropy_constant(num_classes) * (1 + 1e-9)
    assert found >= entropy_constant(num_classes) * (1 - 1e-3)


@pytest.mark.parametrize("num_classes", [3, 5, 9, 40])
def test_two_level_family_and_the_proven_ceiling(num_classes: int) -> None:
    """Every split of the classes into two levels, on a grid; and what is proven lies just above."""
    q = torch.linspace(0, 1, 4001, dtype=torch.float64)[1:-1]
    best = 0.0
    for large in range(1, num_classes):
        p = torch.cat([
            (q / large)[:, None].expand(-1, large),
            ((1 - q) / (num_classes - large))[:, None].expand(-1, num_classes - large),
        ], 1)  # fmt: skip
        best = max(best, float(gradient_norm(p.log()).max()))
    constant = entropy_constant(num_classes)
    assert best <= constant * (1 + 1e-9) and best == pytest.approx(constant, rel=1e-5)
    assert constant <= entropy_ceiling(num_classes) <= 1.02 * constant


def test_ceiling_bounds_any_probabilities() -> None:
    logits = 4 * torch.randn(20_000, 6, dtype=torch.float64)
    assert float(gradient_norm(logits).max()) <= entropy_ceiling(6)


def test_entropy_lipschitz_by_pairs() -> None:
    """|H(z) - H(z')| ≤ τ ‖z - z'‖ for near and far pairs; nearly equal in the worst direction."""
    weight = torch.randn(5, 3, dtype=torch.float64) + 2
    tau = entropy_lipschitz(weight)
    z = 2 * torch.randn(4000, 3, dtype=torch.float64)
    step = torch.randn(4000, 3, dtype=torch.float64) * torch.logspace(-6, 1, 4000)[:, None]
    change = (entropy(z @ weight.T) - entropy((z + step) @ weight.T)).abs()
    assert bool((change <= tau * step.norm(dim=1) + 1e-15).all())
    # What every class shares changes nothing.
    shared = weight + 100 * torch.randn(1, 3, dtype=torch.float64)
    assert entropy_lipschitz(shared) == pytest.approx(tau, rel=1e-9)
    # K = 2, d = 1: τ = |w₁ - w₂| max p(1-p) logit p.
    z = torch.linspace(-4, 4, 100_001, dtype=torch.float64)[:, None]
    two = torch.tensor([[1.5], [-0.5]], dtype=torch.float64)
    slope = entropy(z @ two.T).diff().abs().max() / (z[1] - z[0])
    assert entropy_lipschitz(two) == pytest.approx(float(slope), rel=1e-6)


def test_class_lipschitz_by_hand_and_by_pairs() -> None:
    weight = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    # Distances of the rows: 0-1 5, 0-2 1, 1-2 √18.
    assert class_lipschitz(weight).tolist() == pytest.approx([5, 5, math.sqrt(18)])
    per_class, weight = class_lipschitz(weight), weight.double()
    z = 3 * torch.randn(3000, 2, dtype=torch.float64)
    step = torch.randn(3000, 2, dtype=torch.float64)
    loss = [-(x @ weight.T).log_softmax(1) for x in (z, z + step)]
    change = (loss[0] - loss[1]).abs() / step.norm(dim=1, keepdim=True)
    assert bool((change <= per_class + 1e-12).all())
    # Far out towards class 1, the loss of class 0 grows at its full rate.
    far = torch.tensor([[30.0, 40.0]], dtype=torch.float64)
    steps = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    rate = -((far + steps) @ weight.T).log_softmax(1) + (far @ weight.T).log_softmax(1)
    assert float(rate[0, 0]) == pytest.approx(5)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [(1, ValueError, "at least 2, got 1"), (2.0, TypeError, "an integer, got float")],
)
def test_bad_number_of_classes(value, kind, message) -> None:
    with pytest.raises(kind, match=f"num_classes must be {message}"):
        entropy_constant(value)
