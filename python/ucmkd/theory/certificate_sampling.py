r"""From the samples to the populations: what to add to a bound, at a chosen probability.

McDiarmid's inequality: a statistic of independent samples, of which sample i can move it by at most
:math:`c_i`, falls short of its mean by more than :math:`\sqrt{\tfrac12\log(1/\delta)\sum_i c_i^2}`
with a probability of at most δ. It suffices here because the mean of the sampled distance is at
least the distance, :math:`E\,W_1(\hat\alpha,\hat\beta) \ge W_1(\alpha,\beta)` (it is convex): only
the deviation from the mean has to be paid, whatever the dimension.
"""

from __future__ import annotations

import math

from torch import Tensor


def wasserstein_deviation(diameter: float, n: int, m: int, delta: float) -> float:
    r""":math:`W_1 \le \hat W_1 + D\sqrt{\tfrac12\log(1/\delta)(1/n+1/m)}` with probability 1 - δ.

    Args:
        diameter: D of the support of both distributions.
        n: Samples of the first.
        m: Samples of the second.
        delta: In (0, 1).
    """
    return diameter * math.sqrt(0.5 * math.log(1 / delta) * (1 / n + 1 / m))


def mmd_deviation(n: int, m: int, delta: float) -> float:
    r"""The same for :math:`\mathrm{MMD}_b` with a kernel in [0, 1].

    :math:`2(\sqrt{1/m}+\sqrt{1/n}) + \sqrt{2\log(2/\delta)(m+n)/(mn)}`.

    Source: Gretton et al. 2012 (JMLR 13), Theorem 7.
    """
    return 2 * (math.sqrt(1 / m) + math.sqrt(1 / n)) + math.sqrt(
        2 * math.log(2 / delta) * (m + n) / (m * n)
    )


def plug_in_deviation(
    *, lipschitz: float, diameter: float, loss_bound: float, num_classes: int,
    n: int, m: int, delta: float,
) -> float:  # fmt: skip
    r"""For :math:`\hat E_T H + \tau\hat W_1 + \widehat{LA}`, nats.

    A student sample moves it by at most :math:`(\tau D + M + 1/e)/n`, as
    :math:`-\log p_S \in [0, M]` and :math:`p\log p \in [-1/e, 0]`; a teacher sample by
    :math:`(\tau D + \min(\log K, \tau D))/m`.

    Args:
        lipschitz: τ.
        diameter: D.
        loss_bound: M, the largest cross-entropy that the student can have.
        num_classes: K.
        n: Student samples.
        m: Teacher samples.
        delta: In (0, 1).
    """
    far = lipschitz * diameter
    student = (far + loss_bound + 1 / math.e) ** 2 / n
    teacher = (far + min(math.log(num_classes), far)) ** 2 / m
    return math.sqrt(0.5 * math.log(1 / delta) * (student + teacher))


def class_deviation(
    lipschitz: Tensor, student_counts: Tensor, teacher_counts: Tensor, diameter: float, delta: float
) -> float:
    r"""For :math:`\sum_y \pi_y(\hat E_{T,y}[-\log p_y] + L_y \hat W_{1,y})`, nats, π the student's.

    The class frequencies are taken as given. In class y a student sample moves it by at most
    :math:`L_y D/n`, a teacher sample by :math:`2\pi_y L_y D/m_y` (the loss varies by
    :math:`L_y D`). Infinite where a class of the student has no teacher sample.

    Args:
        lipschitz: :math:`L_y` ``(K,)``.
        student_counts: :math:`n_y` ``(K,)``.
        teacher_counts: :math:`m_y` ``(K,)``.
        diameter: D.
        delta: In (0, 1).
    """
    present = student_counts > 0
    if bool((teacher_counts[present] == 0).any()):
        return math.inf
    far, own = lipschitz[present] * diameter, student_counts[present].double()
    n = own.sum()
    student = (own * (far / n) ** 2).sum()
    teacher = ((2 * own / n * far) ** 2 / teacher_counts[present].double()).sum()
    return math.sqrt(0.5 * math.log(1 / delta) * float(student + teacher))


def kernel_deviation(
    *, norm: float, loss_bound: float, num_classes: int, n: int, m: int, delta: float
) -> float:
    r"""For :math:`\hat E_T H + \|f\|\mathrm{MMD}_b + \hat E|H-f| + \widehat{LA}`, nats; f given.

    δ/2 for :func:`mmd_deviation` and δ/2 for the rest, where :math:`|H-f|` lies in
    :math:`[0, \log K + \|f\|]`.
    """
    residual = math.log(num_classes) + norm
    student = (residual + loss_bound + 1 / math.e) ** 2 / n
    teacher = (residual + math.log(num_classes)) ** 2 / m
    rest = math.sqrt(0.5 * math.log(2 / delta) * (student + teacher))
    return norm * mmd_deviation(n, m, delta / 2) + rest
