r"""Gradient descent on the contrastive losses, in the coordinates of the theorems.

With h_r(u) = ReLU⟨w_r, u⟩, similarity ``S_ij = (1/m) Σ_r Σ_tokens h_r(x_i) sg(g_r(x̃_j))`` and
stop-gradient sg, the loss of sample i is ``-log(e^{S⁺_i/τ} / (e^{S⁺_i/τ} + Σ_j e^{S_ij/τ}))`` over
the j of another label (equations 4, 6 and 9). Single-modal learning has g = h, its positive the
augmentation of i and its negatives other samples; multi-modal learning has a second encoder, the
other modality of i as positive and of others as negatives, and adds the loss with the roles
exchanged.

Weights move within the span of the signal and the noise of the training samples,
``w_r = w_r⁰ + γ_r μ/‖μ‖² + Σ_i ρ_ri ξ_i/‖ξ_i‖²`` (equations 11 and 14), so that only the n + 1
coefficients of a neuron are kept, exactly, and d enters through inner products taken once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .model import Array, Sample, TwoTokens


class Seen(NamedTuple):
    """``⟨w_r, ·⟩`` before the ReLU: of the signal ``(m,)`` and of noises ``(m, n)``."""

    signal: Array
    noise: Array


class Encoder:
    """One layer of ReLU neurons by its coefficients.

    Args:
        weights: Before training, ``(m, d)``.
        axis: Coordinate of the signal.
        size: Its norm.
        noise: ξ of the training samples, ``(n, d)``.
        also: More points ``(n, d)`` to look at in every step.
    """

    def __init__(
        self, weights: Array, axis: int, size: float, noise: Array, also: Array | None = None
    ) -> None:
        signal = np.zeros((1, noise.shape[1]))
        signal[0, axis] = size
        self.start, self.basis = weights, np.concatenate((signal, noise))
        points = self.basis if also is None else np.concatenate((self.basis, also))
        self.coefficients = np.zeros((len(weights), len(self.basis)))
        self._value, self._gram = weights @ points.T, self.basis @ points.T

    @property
    def seen(self) -> Seen:
        """On the training samples."""
        n = len(self.basis) - 1
        return Seen(self._value[:, 0], self._value[:, 1 : n + 1])

    @property
    def seen_also(self) -> Seen:
        """On the further points."""
        return Seen(self._value[:, 0], self._value[:, len(self.basis) :])

    def move(self, change: Array) -> None:
        """Add ``change (m, n + 1)`` to the coefficients of signal and noises."""
        self.coefficients += change
        self._value += change @ self._gram

    def at(self, points: Array) -> Array:
        """``⟨w_r, point⟩`` as ``(m, k)`` of points ``(k, d)``."""
        return self.start @ points.T + self.coefficients @ (self.basis @ points.T)

    def learnt(self) -> tuple[Array, Array]:
        """γ ``(m,)`` and ρ ``(m, n)``: signal learning and noise memorization."""
        scaled = self.coefficients * (self.basis**2).sum(axis=1)
        return scaled[:, 0], scaled[:, 1:]


def features(seen: Seen, labels: Array) -> Array:
    """``h_r([yμ, ξ])`` summed over the two tokens, ``(n, m)``."""
    return np.asarray((_relu(np.outer(seen.signal, labels)) + _relu(seen.noise)).T)


def half(own: Seen, other: Seen, positive: Seen, labels: Array, tau: float) -> tuple[float, Array]:
    """The loss of one direction and the descent direction of its encoder.

    Args:
        own: Of the encoder that receives the gradient.
        other: Of the encoder behind the stop-gradient, on the negatives.
        positive: The same on the positives.
        labels: ±1, ``(n,)``.
        tau: τ.

    Returns:
        The mean loss and ``-∂L/∂w_r`` as coefficients ``(m, n + 1)`` of ``μ, ξ_1, …, ξ_n``
        (equations 7 and 10).
    """
    m, n = own.noise.shape
    side = np.outer(own.signal, labels)
    negative, close = [
        (_relu(np.outer(seen.signal, labels)), _relu(seen.noise)) for seen in (other, positive)
    ]
    similarity = (_relu(side).T @ negative[0] + _relu(own.noise).T @ negative[1]) / (m * tau)
    matched = (_relu(side) * close[0] + _relu(own.noise) * close[1]).sum(axis=0) / (m * tau)
    similarity[labels[:, None] == labels] = -np.inf
    top = np.maximum(matched, similarity.max(axis=1))
    share = np.exp(similarity - top[:, None])
    matched_share = np.exp(matched - top)
    total = matched_share + share.sum(axis=1)
    loss = float((np.log(total) - (matched - top)).mean())
    share /= total[:, None]
    pull = share.sum(axis=1)  # 1 - ℓ'_i, without cancellation
    scale = 1.0 / (n * m * tau)
    of_signal = pull * close[0] - negative[0] @ share.T
    of_noise = pull * close[1] - negative[1] @ share.T
    change = np.empty((m, n + 1))
    change[:, 0] = scale * ((side > 0) * of_signal * labels).sum(axis=1)
    change[:, 1:] = scale * (own.noise > 0) * of_noise
    return loss, change


@dataclass(frozen=True)
class Learned:
    """A trained first encoder and how it came about.

    Attributes:
        encoder: Of the first modality.
        loss: Before each step and at the end, ``(steps + 1,)``.
        signal: Largest |γ_r| at the same times.
        noise: Largest ρ_ri at the same times.
    """

    encoder: Encoder
    loss: Array
    signal: Array
    noise: Array


def learn(model: TwoTokens, sample: Sample, *, multimodal: bool) -> Learned:
    """Full-batch gradient descent; with the second modality or with augmentations.

    Args:
        model: The setting.
        sample: One draw of it.
        multimodal: Which of the two losses.
    """
    own = Encoder(sample.weights, 0, model.signal, sample.noise, sample.augmented)
    second = model.signal * model.advantage
    other = Encoder(sample.other_weights, 1, second, sample.other_noise)
    record = np.empty((3, model.steps + 1))
    for step in range(model.steps + 1):
        a, labels, tau = own.seen, sample.labels, model.tau
        if multimodal:
            b = other.seen
            loss, change = half(a, b, b, labels, tau)
            back, other_change = half(b, a, a, labels, tau)
            loss += back
        else:
            loss, change = half(a, a, own.seen_also, labels, tau)
        gamma, rho = own.learnt()
        record[:, step] = loss, np.abs(gamma).max(), rho.max()
        if step == model.steps:
            break
        own.move(model.rate * change)
        if multimodal:
            other.move(model.rate * other_change)
    return Learned(own, *record)


def _relu(x: Array) -> Array:
    return np.maximum(x, 0.0)
