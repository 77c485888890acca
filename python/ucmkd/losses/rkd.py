"""Relational knowledge distillation: distances and angles between samples."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ucmkd.losses._common import OptionModule, full_precision
from ucmkd.ops import _check


def _apart(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Differences ``(n, n, d)``, their lengths with 1 for 0, and which lengths are not 0."""
    difference = points[None] - points[:, None]
    square = difference.square().sum(-1)
    apart = square > 0
    # The root has no slope at 0, and a direction none where points coincide.
    return difference, torch.where(apart, square, 1.0).sqrt(), apart


def _relative_distances(points: Tensor) -> Tensor:
    """Distances ``(n, n)`` over their mean, that over the pairs that do not coincide."""
    _, length, apart = _apart(points)
    distance = torch.where(apart, length, 0.0)
    mean = distance.sum() / apart.sum().clamp_min(1)
    return distance / torch.where(mean > 0, mean, 1.0)


def _cosines(points: Tensor) -> Tensor:
    """Entry (i, j, k): the cosine of the angle at point i between points j and k."""
    difference, length, _ = _apart(points)
    toward = difference / length[..., None]
    with full_precision(toward):
        return toward @ toward.mT


def rkd_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
    detach_teacher: bool = True,
    check_finite: bool = True,
) -> Tensor:
    r"""RKD: the student's samples shall lie to each other as the teacher's do.

    .. math:: \frac{\lambda_D}{n^2}\sum_{ij} h\!\left(\frac{\|s_i-s_j\|}{\mu_S} -
        \frac{\|t_i-t_j\|}{\mu_T}\right) + \frac{\lambda_A}{n^3}\sum_{ijk}
        h(\cos\angle s_j s_i s_k - \cos\angle t_j t_i t_k)

    with h the Huber loss (½x² up to 1, then |x| - ½) and μ the mean distance of points that do
    not coincide. Means are over all pairs and triples, the trivial ones included, as in the
    authors' code. Rows are pairs; the widths may differ, so that no projector is needed. Time and
    memory of the angles are O(n²(n + d)).

    Args:
        student: Features ``(n, d_S)``.
        teacher: Features ``(n, d_T)`` of the same samples.
        distance_weight: λ_D ≥ 0.
        angle_weight: λ_A ≥ 0; 0 saves the angles' cost.
        detach_teacher: No gradient to the teacher's features.
        check_finite: Name NaN or infinite features (not inside ``torch.compile``, ``vmap``).

    Returns:
        A 0-d float32 (or float64) tensor; 0 for a single sample.

    Raises:
        TypeError: Features or a weight of the wrong kind.
        ValueError: Features that are not ``(n, d)`` with one n, a negative weight, NaN or
            infinite features.

    Source: Park et al. 2019 (arXiv 1904.05068), equations 4 to 9.
    """
    for name, points in (("student", student), ("teacher", teacher)):
        _check.points(points, name)
        if points.dim() != 2:
            raise ValueError(f"{name} must have shape (n, d); got {tuple(points.shape)}")
    if len(student) != len(teacher):
        raise ValueError(
            "student and teacher must be features of the same samples; got "
            f"{len(student)} and {len(teacher)} rows"
        )
    _check.same_device(student, teacher, "student", "teacher")
    for name, weight in (("distance_weight", distance_weight), ("angle_weight", angle_weight)):
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise TypeError(f"{name} must be a number; got {type(weight).__name__}")
        if not 0 <= weight < float("inf"):
            raise ValueError(f"{name} must be >= 0; got {weight}")
    if check_finite and not torch.compiler.is_compiling():
        _check.finite(student, "student")
        _check.finite(teacher, "teacher")
    dtype = _check.compute_dtype(student, teacher)
    teacher = teacher.detach() if detach_teacher else teacher
    student, teacher = student.to(dtype), teacher.to(dtype)
    total = student.new_zeros(())
    if distance_weight:
        gap = F.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher))
        total = total + distance_weight * gap
    if angle_weight:
        total = total + angle_weight * F.smooth_l1_loss(_cosines(student), _cosines(teacher))
    return total


class RKDLoss(OptionModule):
    """:func:`rkd_loss` as a module."""

    def __init__(
        self,
        *,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        detach_teacher: bool = True,
        check_finite: bool = True,
    ) -> None:
        super().__init__(
            distance_weight=distance_weight, angle_weight=angle_weight,
            detach_teacher=detach_teacher, check_finite=check_finite,
        )  # fmt: skip

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss; arguments as in the function."""
        return rkd_loss(student, teacher, **self.options())
