"""The flow of the solution procedure (FSP): how one layer's maps become another's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ucmkd.losses._common import OptionModule, full_precision, wide
from ucmkd.losses._maps import ready_maps


def flow_matrix(first: Tensor, second: Tensor) -> Tensor:
    """``(n, c_1, c_2)``: products of two layers' channels, averaged over the places.

    Args:
        first: Maps ``(n, c_1, h, w)``.
        second: Maps ``(n, c_2, h', w')`` of the same samples; the larger of the two is brought to
            the smaller's size by max-pooling.
    """
    size = [min(a, b) for a, b in zip(first.shape[2:], second.shape[2:], strict=True)]
    a, b = (F.adaptive_max_pool2d(wide(maps), size).flatten(2) for maps in (first, second))
    with full_precision(a):
        return a @ b.mT / a.shape[-1]


def fsp_loss(
    student_first: Tensor,
    student_second: Tensor,
    teacher_first: Tensor,
    teacher_second: Tensor,
    *,
    detach_teacher: bool = True,
    check_finite: bool = True,
) -> Tensor:
    r"""FSP: between two layers of it the student shall do what the teacher does.

    .. math:: \frac1n\sum_i \|G^S_i - G^T_i\|_F^2, \qquad
        G_{icd} = \frac1{hw}\sum_{xy} A_{icxy} B_{idxy}

    with A and B the maps of an earlier and of a later layer (:func:`flow_matrix`). Student and
    teacher must have the same numbers of channels in both; their heights and widths may differ.

    Args:
        student_first: Maps ``(n, c_1, ·, ·)`` of the student's earlier layer.
        student_second: Maps ``(n, c_2, ·, ·)`` of its later layer.
        teacher_first: Maps ``(n, c_1, ·, ·)`` of the teacher on the same samples.
        teacher_second: Maps ``(n, c_2, ·, ·)``.
        detach_teacher: No gradient to the teacher's maps.
        check_finite: Name NaN or infinite maps (not inside ``torch.compile``, ``vmap``).

    Returns:
        A 0-d float32 (or float64) tensor.

    Raises:
        TypeError: No floating tensors.
        ValueError: Not four dimensions, other samples, other numbers of channels, NaN or infinity.

    Source: Yim et al., CVPR 2017, equations 1 and 2 with all λ equal to 1. A reconstruction: the
    authors have published no code.
    """
    given = {
        "student_first": student_first,
        "student_second": student_second,
        "teacher_first": teacher_first,
        "teacher_second": teacher_second,
    }
    maps = ready_maps(given, check_finite)
    student, teacher = flow_matrix(*maps[:2]), flow_matrix(*maps[2:])
    if student.shape != teacher.shape:
        raise ValueError(
            "student and teacher must have the same numbers of channels in both layers; got "
            f"{tuple(student.shape[1:])} and {tuple(teacher.shape[1:])}"
        )
    teacher = teacher.detach() if detach_teacher else teacher
    return (student - teacher).square().sum((1, 2)).mean()


class FSPLoss(OptionModule):
    """:func:`fsp_loss` as a module."""

    def __init__(self, *, detach_teacher: bool = True, check_finite: bool = True) -> None:
        super().__init__(detach_teacher=detach_teacher, check_finite=check_finite)

    def forward(
        self,
        student_first: Tensor,
        student_second: Tensor,
        teacher_first: Tensor,
        teacher_second: Tensor,
    ) -> Tensor:
        """The loss; arguments as in the function."""
        return fsp_loss(
            student_first, student_second, teacher_first, teacher_second, **self.options()
        )
