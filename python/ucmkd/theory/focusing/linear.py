r"""The linear classifiers of the Gaussian study, as one-logit models.

A classifier with two outputs and softmax has P(y=1) = σ(u) of the difference u of its logits; a
gradient step on both outputs moves u by twice the step, so that what is kept is u with twice the
learning rate. The students minimise ``CE(y, p) + KL(q ‖ p)/2``, where the half is the mean over the
two entries that PyTorch's ``KLDivLoss`` takes by default in the released code.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .data import Array


class Linear(NamedTuple):
    """``u = x·weight + bias``.

    Attributes:
        weight: ``(d,)``.
        bias: A number.
    """

    weight: Array
    bias: float

    def logit(self, x: Array) -> Array:
        """u ``(n,)`` of ``x (n, d)``."""
        return np.asarray(x @ self.weight + self.bias)

    def accuracy(self, x: Array, labels: Array) -> float:
        """Share of labels 0 or 1 that are told."""
        return float(((self.logit(x) > 0) == (labels > 0.5)).mean())


def start(width: int, rng: np.random.Generator) -> Linear:
    """As PyTorch starts a linear layer: the difference of two draws from U(±1/√d)."""
    bound = width**-0.5
    first, second = rng.uniform(-bound, bound, (2, width + 1))
    difference = first - second
    return Linear(difference[:-1], float(difference[-1]))


def fit(
    x: Array,
    labels: Array,
    rng: np.random.Generator,
    *,
    answer: Array | None = None,
    weight: float = 1.0,
    steps: int = 1000,
    rate: float = 0.1,
) -> Linear:
    """Full-batch gradient descent on cross-entropy, and on KL to a teacher where there is one.

    Args:
        x: ``(n, d)``.
        labels: 0 or 1, ``(n,)``.
        rng: Of the initial weights.
        answer: The teacher's probabilities of 1, ``(n,)``.
        weight: Of the KL term (of its mean over both entries).
        steps: Of gradient descent.
        rate: Learning rate of the two-output classifier.
    """
    own, bias = start(x.shape[1], rng)
    for _ in range(steps):
        found = sigmoid(x @ own + bias)
        slope = found - labels
        if answer is not None:
            slope = slope + 0.5 * weight * (found - answer)
        own = own - 2 * rate / len(x) * (slope @ x)
        bias -= 2 * rate * float(slope.mean())
    return Linear(own, bias)


def fit_together(
    teacher: Array,
    student: Array,
    labels: Array,
    rng: np.random.Generator,
    *,
    steps: int = 1000,
    rate: float = 0.01,
    momentum: float = 0.9,
) -> tuple[Linear, Linear]:
    """Both classifiers at once, each by cross-entropy, and their outputs near each other.

    Algorithm 1 of the paper, first part: ``CE + CE + MSE(o_t, o_s)`` of the two-entry outputs. Both
    entries are kept here as difference u and sum v; the MSE is ``((u_t-u_s)² + (v_t-v_s)²)/4``, so
    that the difference decouples from the sum.

    Args:
        teacher: ``(n, d_t)``.
        student: ``(n, d_s)``.
        labels: 0 or 1, ``(n,)``.
        rng: Of the initial weights.
        steps: Of gradient descent with momentum.
        rate: Learning rate of the two-output classifiers.
        momentum: Heavy ball.
    """
    inputs = [np.concatenate((x, np.ones((len(x), 1))), axis=1) for x in (teacher, student)]
    own = [np.append(*start(x.shape[1], rng)) for x in (teacher, student)]
    speed = [np.zeros_like(w) for w in own]
    for _ in range(steps):
        logits = [x @ w for x, w in zip(inputs, own, strict=True)]
        apart = logits[0] - logits[1]
        for k, sign in enumerate((1.0, -1.0)):
            # ∂/∂u of CE is p - y, of the MSE (u_t - u_s)/2.
            slope = sigmoid(logits[k]) - labels + 0.5 * sign * apart
            speed[k] = momentum * speed[k] + 2 / len(labels) * (slope @ inputs[k])
            own[k] = own[k] - rate * speed[k]
    return Linear(own[0][:-1], float(own[0][-1])), Linear(own[1][:-1], float(own[1][-1]))


def sigmoid(u: Array) -> Array:
    """1/(1 + e^-u) without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * u)))
