"""Knowledge distillation through soft labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ucmkd.losses._common import OptionModule, reduce
from ucmkd.losses.label import check_logit_pair
from ucmkd.ops import _check


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 4.0,
    reduction: str = "mean",
    detach_teacher: bool = True,
    check_finite: bool = True,
) -> Tensor:
    r"""Hinton's loss :math:`\frac{T^2}{n}\sum_i \mathrm{KL}(p^T_{i}\,\|\,p^S_{i})` at T.

    The factor :math:`T^2` keeps the gradient's size when T changes. Rows are pairs: sample i of
    the student is sample i of the teacher.

    Args:
        student_logits: ``(n, C)``.
        teacher_logits: ``(n, C)``.
        temperature: T > 0.
        reduction: Over the samples: ``"mean"``, ``"sum"`` or ``"none"``.
        detach_teacher: No gradient to the teacher's logits.
        check_finite: Name NaN or infinite logits (not inside ``torch.compile``, ``vmap``).

    Returns:
        A 0-d float32 (or float64) tensor, or ``(n,)`` with ``reduction="none"``.

    Raises:
        TypeError: Logits of the wrong kind.
        ValueError: Shapes that do not fit, a temperature that is not positive, NaN or infinite
            logits.

    Source: Hinton, Vinyals, Dean 2015 (arXiv 1503.02531).
    """
    _check.one_of(reduction, ("mean", "sum", "none"), "reduction")
    check_logit_pair(student_logits, teacher_logits)
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)):
        raise TypeError(f"temperature must be a number; got {type(temperature).__name__}")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be > 0; got {temperature}")
    if check_finite and not torch.compiler.is_compiling():
        _check.finite(student_logits, "student_logits")
        _check.finite(teacher_logits, "teacher_logits")
    dtype = _check.compute_dtype(student_logits, teacher_logits)
    if detach_teacher:
        teacher_logits = teacher_logits.detach()
    log_student = F.log_softmax(student_logits.to(dtype) / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher_logits.to(dtype) / temperature, dim=-1)
    divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(-1)
    return reduce(temperature**2 * divergence, reduction)


class KDLoss(OptionModule):
    """:func:`kd_loss` as a module."""

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        reduction: str = "mean",
        detach_teacher: bool = True,
        check_finite: bool = True,
    ) -> None:
        super().__init__(
            temperature=temperature, reduction=reduction, detach_teacher=detach_teacher,
            check_finite=check_finite,
        )  # fmt: skip

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """The loss; arguments as in the function."""
        return kd_loss(student_logits, teacher_logits, **self.options())
