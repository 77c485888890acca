"""Alignment by moments: covariances (Deep CORAL) and central moments (CMD)."""

from __future__ import annotations

import math
from numbers import Integral, Real

import torch
from torch import Tensor

from ucmkd.losses._common import REDUCTIONS, OptionModule, full_precision, reduce
from ucmkd.ops import _check
from ucmkd.ops._mass import centred, probabilities


def coral_align(
    student: Tensor,
    teacher: Tensor,
    *,
    student_weight: Tensor | None = None,
    teacher_weight: Tensor | None = None,
    reduction: str = "mean",
    detach_teacher: bool = True,
    check_finite: bool = True,
) -> Tensor:
    r"""Deep CORAL: the squared distance of the covariances of student and teacher features.

    .. math::
        \frac{1}{4d^2}\,\|C_S - C_T\|_F^2,\qquad
        C = \frac{\sum_i a_i (x_i-\mu)(x_i-\mu)^\top}{1 - \sum_i a_i^2},\quad
        \mu = \sum_i a_i x_i,\ \sum_i a_i = 1 .

    C is unbiased (the divisor is n - 1 for equal weights); that of a single sample is 0. Means
    play no part: it is 0 iff the covariances are equal.

    Args:
        student: Features ``(n, d)`` or ``(B, n, d)``.
        teacher: Features ``(m, d)`` or ``(B, m, d)``.
        student_weight: Masses ``(n,)`` or ``(B, n)``, default equal; normalised to the sum 1. A
            zero weight is a mask.
        teacher_weight: Masses of the teacher's samples.
        reduction: Over the batch ``B``: ``"mean"``, ``"sum"`` or ``"none"``.
        detach_teacher: No gradient to the teacher side.
        check_finite: Name NaN or infinite features (not inside ``torch.compile``, ``vmap``).

    Returns:
        A 0-d tensor, or ``(B,)`` with ``reduction="none"`` and batched features; differentiable
        any number of times.

    Raises:
        TypeError: Features or weights of the wrong kind.
        ValueError: Shapes, values or names that are not accepted; NaN or infinite features.

    Source: Sun & Saenko 2016 (arXiv 1607.01719), eq. 1-3.
    """
    clouds = _Clouds(
        student, teacher, student_weight, teacher_weight, reduction, detach_teacher, check_finite
    )
    with full_precision(student):
        gap = _covariance(*clouds.x) - _covariance(*clouds.y)
        value = gap.square().sum((-1, -2)) / (4 * gap.shape[-1] ** 2)
    return clouds.reduce(value)


def cmd_align(
    student: Tensor,
    teacher: Tensor,
    *,
    moments: int = 5,
    bounds: tuple[float, float] | None = None,
    student_weight: Tensor | None = None,
    teacher_weight: Tensor | None = None,
    reduction: str = "mean",
    detach_teacher: bool = True,
    check_finite: bool = True,
) -> Tensor:
    r"""Central moment discrepancy between student and teacher features.

    .. math::
        \mathrm{CMD}_K = \frac{\|\mu_S - \mu_T\|_2}{b-a}
          + \sum_{k=2}^{K} \frac{\|M_k(S) - M_k(T)\|_2}{(b-a)^k},\qquad
        M_k(S) = \sum_i a_i\,(x_i-\mu_S)^k \ \text{(per feature)} .

    Norms, not squares: at equal moments the loss has a kink, where the gradient of that term is
    taken as 0. Only marginals count, not correlations.

    Args:
        student: Features ``(n, d)`` or ``(B, n, d)``.
        teacher: Features ``(m, d)`` or ``(B, m, d)``.
        moments: K, the highest moment.
        bounds: ``(a, b)``, a < b: the interval that all features lie in (``(0, 1)`` after a
            sigmoid, ``(-1, 1)`` after tanh); None for ``b - a = 1``. Unbounded features, such as
            those of a ReLU, should be standardised first: high moments of wide features swamp
            the rest.
        student_weight: Masses ``(n,)`` or ``(B, n)``, default equal; normalised to the sum 1. A
            zero weight is a mask.
        teacher_weight: Masses of the teacher's samples.
        reduction: Over the batch ``B``: ``"mean"``, ``"sum"`` or ``"none"``.
        detach_teacher: No gradient to the teacher side.
        check_finite: Name NaN or infinite features (not inside ``torch.compile``, ``vmap``).

    Returns:
        A 0-d tensor, or ``(B,)`` with ``reduction="none"`` and batched features.

    Raises:
        TypeError: Features or weights of the wrong kind.
        ValueError: Shapes, values or names that are not accepted; NaN or infinite features.

    Source: Zellinger et al. 2017 (arXiv 1702.08811), Definitions 1 and 2.
    """
    if isinstance(moments, bool) or not isinstance(moments, Integral) or moments < 1:
        raise ValueError(f"moments must be an integer >= 1; got {moments!r}")
    width = _width(bounds)
    clouds = _Clouds(
        student, teacher, student_weight, teacher_weight, reduction, detach_teacher, check_finite
    )
    with full_precision(student):
        (x, a, centre_x), (y, b, centre_y) = clouds.x, clouds.y
        a, b = a.to(x.dtype).unsqueeze(-1), b.to(x.dtype).unsqueeze(-1)
        mean_x, mean_y = (a * x).sum(1, keepdim=True), (b * y).sum(1, keepdim=True)
        # The centres are far from zero where the features are; their difference comes first.
        value = _norm((centre_x - centre_y + (mean_x - mean_y)).squeeze(1) / width)
        x, y = (x - mean_x) / width, (y - mean_y) / width
        power_x, power_y = x, y
        for _ in range(2, moments + 1):
            power_x, power_y = power_x * x, power_y * y
            value = value + _norm((a * power_x).sum(1) - (b * power_y).sum(1))
    return clouds.reduce(value)


class _Clouds:
    """The checked arguments: for each side centred points ``(B, n, d)``, masses, centre."""

    def __init__(
        self,
        student: Tensor,
        teacher: Tensor,
        student_weight: Tensor | None,
        teacher_weight: Tensor | None,
        reduction: str,
        detach_teacher: bool,
        check_finite: bool,
    ) -> None:
        _check.one_of(reduction, REDUCTIONS, "reduction")
        _check.pair(student, teacher, "student", "teacher")
        if check_finite and not torch.compiler.is_compiling():
            _check.finite(student, "student")
            _check.finite(teacher, "teacher")
        if detach_teacher:
            teacher = teacher.detach()
            if isinstance(teacher_weight, Tensor):
                teacher_weight = teacher_weight.detach()
        self.reduction, self.single = reduction, student.dim() == 2
        dtype = _check.compute_dtype(student, teacher)

        def side(points: Tensor, weight: Tensor | None, name: str) -> tuple[Tensor, Tensor, Tensor]:
            points = points.unsqueeze(0) if self.single else points
            shape = (points.shape[0], points.shape[1])
            mass = probabilities(_check.weight(weight, shape, name, points), points)
            relative, centre = centred(points.to(dtype), mass)
            return relative, mass, centre

        self.x = side(student, student_weight, "student_weight")
        self.y = side(teacher, teacher_weight, "teacher_weight")

    def reduce(self, value: Tensor) -> Tensor:
        return reduce(value.squeeze(0) if self.single else value, self.reduction)


def _covariance(points: Tensor, mass: Tensor, _: Tensor) -> Tensor:
    """Unbiased covariance ``(B, d, d)``; 0 where one sample has all the mass."""
    # 1 - sum(mass^2), and exactly 0 when one sample has all of it.
    pairs = (mass * (1 - mass)).sum(-1)
    some = pairs > 0
    factor = torch.where(some, 1 / torch.where(some, pairs, 1.0), 0.0)
    weight = mass.to(points.dtype).unsqueeze(-1)
    deviation = points - (weight * points).sum(1, keepdim=True)
    scaled = (mass * factor.unsqueeze(-1)).to(points.dtype).unsqueeze(-1)
    return (scaled * deviation).mT @ deviation


def _norm(difference: Tensor) -> Tensor:
    """Euclidean norm ``(B,)`` of ``(B, d)``, with all derivatives 0 at 0, without overflow."""
    largest = difference.detach().abs().amax(-1, keepdim=True)
    some = largest > 0
    scaled = difference / torch.where(some, largest, 1.0)
    square = torch.where(some, scaled.square().sum(-1, keepdim=True), 1.0)
    return (largest * square.sqrt()).squeeze(-1)


def _width(bounds: tuple[float, float] | None) -> float:
    if bounds is None:
        return 1.0
    accepted = "bounds must be None or a pair of finite numbers (a, b) with a < b"
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise ValueError(f"{accepted}; got {bounds!r}")
    low, high = bounds
    if not all(isinstance(v, Real) and math.isfinite(v) for v in (low, high)) or not low < high:
        raise ValueError(f"{accepted}; got {bounds!r}")
    return float(high - low)


class CoralAlign(OptionModule):
    """:func:`coral_align` as a module; weights are given at the call."""

    def __init__(
        self, *, reduction: str = "mean", detach_teacher: bool = True, check_finite: bool = True
    ) -> None:
        super().__init__(
            reduction=reduction, detach_teacher=detach_teacher, check_finite=check_finite
        )

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        *,
        student_weight: Tensor | None = None,
        teacher_weight: Tensor | None = None,
    ) -> Tensor:
        """The loss; arguments as in the function."""
        return coral_align(
            student, teacher, student_weight=student_weight, teacher_weight=teacher_weight,
            **self.options(),
        )  # fmt: skip


class CMDAlign(OptionModule):
    """:func:`cmd_align` as a module; weights are given at the call."""

    def __init__(
        self,
        *,
        moments: int = 5,
        bounds: tuple[float, float] | None = None,
        reduction: str = "mean",
        detach_teacher: bool = True,
        check_finite: bool = True,
    ) -> None:
        super().__init__(
            moments=moments, bounds=bounds, reduction=reduction, detach_teacher=detach_teacher,
            check_finite=check_finite,
        )  # fmt: skip

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        *,
        student_weight: Tensor | None = None,
        teacher_weight: Tensor | None = None,
    ) -> Tensor:
        """The loss; arguments as in the function."""
        return cmd_align(
            student, teacher, student_weight=student_weight, teacher_weight=teacher_weight,
            **self.options(),
        )  # fmt: skip
