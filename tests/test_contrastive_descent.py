"""Gradient descent on the two-token model: hand-worked values, automatic differentiation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from ucmkd.theory.contrastive import TwoTokens, compare, draw, learn
from ucmkd.theory.contrastive.descent import Seen, half
from ucmkd.theory.contrastive.model import Sample

SMALL: dict[str, Any] = {"dimension": 12, "samples": 7, "neurons": 5, "signal": 1.5, "initial": 0.3}


def test_half_by_hand() -> None:
    # One neuron, labels (1, -1). Own: ⟨w, μ⟩ = 2, ⟨w, ξ⟩ = (1, -2); other: signal 3, noises (4, 5).
    # τ = 2: S⁺ = ((2·3 + 1·4)/2, 0) = (5, 0); S_12 = (2·0 + 1·5)/2 = 2.5, S_21 = 0.
    own = Seen(np.array([2.0]), np.array([[1.0, -2.0]]))
    other = Seen(np.array([3.0]), np.array([[4.0, 5.0]]))
    loss, change = half(own, other, other, np.array([1.0, -1.0]), 2.0)
    pull = 1 / (1 + math.exp(2.5))
    assert loss == pytest.approx((math.log1p(math.exp(-2.5)) + math.log(2)) / 2)
    # Only the first sample has active tokens: signal pull·(3 - 0), noise pull·(4 - 5); 1/(nmτ) = ¼.
    assert change == pytest.approx(np.array([[pull * 3 / 4, -pull / 4, 0.0]]))


def test_half_in_extremes() -> None:
    """Similarities of ±10⁴ neither overflow nor lose the gradient."""
    own = Seen(np.array([100.0]), np.array([[0.5, 0.5]]))
    for sign in (1.0, -1.0):
        other = Seen(np.array([sign * 100.0]), np.array([[1.0, 1.0]]))
        loss, change = half(own, other, other, np.array([1.0, -1.0]), 1.0)
        assert np.isfinite(change).all()
        # Sample 1: S⁺ - S_12 = ±10⁴. Sample 2 has no signal of its own: both similarities are .5.
        assert loss == pytest.approx((math.log(2) + (0.0 if sign > 0 else 1e4)) / 2)


def _literal(model: TwoTokens, sample: Sample, multimodal: bool) -> tuple[torch.Tensor, float]:
    """The losses as printed, on whole weight matrices, by automatic differentiation."""
    own, other = (torch.tensor(w) for w in (sample.weights, sample.other_weights))
    signal, second = torch.zeros(2, model.dimension, dtype=torch.float64)
    signal[0], second[1] = model.signal, model.signal * model.advantage
    labels = [int(y) for y in sample.labels]

    def tokens(direction: torch.Tensor, noise: np.ndarray) -> list[list[torch.Tensor]]:
        return [[y * direction, torch.tensor(row)] for y, row in zip(labels, noise, strict=True)]

    x, hat = tokens(signal, sample.noise), tokens(signal, sample.augmented)
    tilde = tokens(second, sample.other_noise)

    def loss_of(w: torch.Tensor, a: Any, v: torch.Tensor, close: Any, far: Any) -> torch.Tensor:
        def similarity(p: list[torch.Tensor], q: list[torch.Tensor]) -> torch.Tensor:
            parts = [(w @ s).relu() @ (v @ t).relu().detach() for s, t in zip(p, q, strict=True)]
            return sum(parts, torch.zeros((), dtype=torch.float64)) / model.neurons / model.tau

        total = torch.zeros((), dtype=torch.float64)
        for i in range(len(labels)):
            matched = similarity(a[i], close[i]).exp()
            negatives = [
                similarity(a[i], far[j]).exp() for j in range(len(labels)) if labels[j] != labels[i]
            ]
            total = total - (matched / (matched + sum(negatives))).log()
        return total / len(labels)

    for _ in range(model.steps):
        w, v = own.clone().requires_grad_(), other.clone().requires_grad_()
        if multimodal:
            loss = loss_of(w, x, v, tilde, tilde) + loss_of(v, tilde, w, x, x)
            grads = torch.autograd.grad(loss, (w, v))
            other = other - model.rate * grads[1]
        else:
            loss = loss_of(w, x, w, hat, x)
            grads = torch.autograd.grad(loss, (w,))
        own = own - model.rate * grads[0]
        last = float(loss.detach())
    return own, last


@pytest.mark.parametrize("multimodal", [False, True])
@pytest.mark.parametrize("temperature", [None, 1.0])
def test_descent_against_automatic_differentiation(
    multimodal: bool, temperature: float | None
) -> None:
    model = TwoTokens(**SMALL, steps=25, rate=0.05, augmentation=0.2, temperature=temperature)
    sample = draw(model, 1)
    found = learn(model, sample, multimodal=multimodal)
    expected, last = _literal(model, sample, multimodal)
    weights = found.encoder.at(np.eye(model.dimension))
    np.testing.assert_allclose(weights, expected.numpy(), rtol=1e-9, atol=1e-12)
    assert found.loss[-2] == pytest.approx(last, rel=1e-10)
    # γ and ρ put the weights together again.
    gamma, rho = found.encoder.learnt()
    direction = np.eye(model.dimension)[0] / model.signal
    noises = sample.noise / (sample.noise**2).sum(axis=1, keepdims=True)
    again = sample.weights + np.outer(gamma, direction) + rho @ noises
    np.testing.assert_allclose(again, weights, rtol=1e-9, atol=1e-12)
    assert found.signal[-1] == np.abs(gamma).max() and found.noise[-1] == rho.max()


def test_one_step_by_the_printed_update() -> None:
    """Equation 10 for the signal, term by term, from weights that are the basis vectors."""
    model = TwoTokens(dimension=3, samples=2, neurons=1, steps=1, rate=0.1, signal=2.0)
    sample = Sample(
        labels=np.array([1.0, -1.0]),
        noise=np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
        augmented=np.zeros((2, 3)),
        other_noise=np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 2.0]]),
        weights=np.array([[0.5, 1.0, -1.0]]),
        other_weights=np.array([[1.0, 0.5, -1.0]]),
    )
    # ⟨w, μ⟩ = 1, ⟨w, ξ⟩ = (1, -1); ⟨w̃, μ̃⟩ = 6·.5 = 3, ⟨w̃, ξ̃⟩ = (1, -2). τ = 1/m = 1.
    # S⁺_1 = 1·3 + 1·1 = 4, S_12 = 0: 1 - ℓ'_1 = 1/(1 + e⁴). Sample 2: no active token.
    # γ gains (η/nm)(1 - ℓ'_1) g(μ̃)·‖μ‖² = .05·pull·3·4, ρ_1 gains .05·pull·1·‖ξ_1‖².
    pull = 1 / (1 + math.exp(4))
    gamma, rho = learn(model, sample, multimodal=True).encoder.learnt()
    assert gamma == pytest.approx([0.05 * pull * 12])
    assert rho == pytest.approx(np.array([[0.05 * pull, 0.0]]))


def test_published_setting() -> None:
    """Loss near zero for both; unseen data at chance for single-modal, told apart for multi."""
    model = TwoTokens()
    assert model.balance == pytest.approx(1.25)
    found = compare(model, seed=1)
    assert 0.42 < found["single"].training_head < 0.58
    assert found["multi"].training_head > 0.95
    assert found["multi"].outside_head > found["single"].outside_head + 0.1


def test_losses_fall_and_the_noise_wins_only_alone() -> None:
    model = TwoTokens(dimension=400, samples=20, neurons=20)
    sample = draw(model, 0)
    single, multi = (learn(model, sample, multimodal=multimodal) for multimodal in (False, True))
    for found in (single, multi):
        assert found.loss[-1] < 0.05 * found.loss[0]
        assert len(found.loss) == model.steps + 1
    assert multi.signal[-1] > 2 * single.signal[-1]
    assert multi.noise[-1] < single.noise[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dimension": 1}, "dimension must be at least 2, got 1"),
        ({"samples": 1}, "samples must be at least 2"),
        ({"signal": 0.0}, "signal must be a positive number"),
        ({"advantage": -1.0}, "advantage must be a positive number"),
        ({"temperature": 0.0}, "temperature must be a positive number"),
        ({"augmentation": -0.1}, "augmentation must be a number, zero or more"),
    ],
)
def test_bad_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TwoTokens(**changes)


def test_everyone_has_a_negative() -> None:
    for seed in range(20):
        assert set(draw(TwoTokens(**{**SMALL, "samples": 2}), seed).labels) == {-1.0, 1.0}
