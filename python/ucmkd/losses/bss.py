"""Distillation through boundary supporting samples (BSS)."""

from __future__ import annotations

import torch
from torch import Tensor

from ucmkd.losses._common import OptionModule
from ucmkd.losses.kd import kd_loss


def bss_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    crossed: Tensor | None = None,
    temperature: float = 3.0,
    detach_teacher: bool = True,
    check_finite: bool = True,
) -> Tensor:
    r"""Soft labels at the teacher's decision boundary.

    .. math:: \frac{T^2}{|B|}\sum_{i\in B} \mathrm{KL}(p^T_i\,\|\,p^S_i)

    of the logits at the samples that :func:`ucmkd.losses.boundary.boundary_samples` finds; B are
    those that crossed. Both networks take the same input, so that this is no loss across
    modalities. The paper adds it, with a weight that falls from 2 to 0 over the first three
    quarters of the training, to cross-entropy and :func:`ucmkd.losses.kd_loss`; there both have no
    factor :math:`T^2`.

    Args:
        student_logits: ``(n, C)`` of the student at the moved samples.
        teacher_logits: ``(n, C)`` of the teacher there.
        crossed: ``(n,)`` bool, the samples that count; None: all. Without any the loss is 0.
        temperature: T > 0.
        detach_teacher: No gradient to the teacher's logits.
        check_finite: Name NaN or infinite logits (skipped inside ``torch.compile``).

    Returns:
        A 0-d float32 (or float64) tensor.

    Raises:
        TypeError: Logits of the wrong kind.
        ValueError: Shapes that do not fit, a temperature that is not positive, NaN or infinite
            logits.

    Source: Heo, Lee, Yun and Choi, AAAI 2019 (arXiv 1805.05532).
    """
    each = kd_loss(
        student_logits, teacher_logits, temperature=temperature, reduction="none",
        detach_teacher=detach_teacher, check_finite=check_finite,
    )  # fmt: skip
    if crossed is None:
        return each.mean()
    if crossed.shape != each.shape or crossed.dtype != torch.bool:
        raise ValueError(
            f"crossed must be bool of shape {tuple(each.shape)}; "
            f"got {crossed.dtype} of {tuple(crossed.shape)}"
        )
    return torch.where(crossed, each, 0.0).sum() / crossed.sum().clamp_min(1)


class BSSLoss(OptionModule):
    """:func:`bss_loss` as a module."""

    def __init__(
        self, *, temperature: float = 3.0, detach_teacher: bool = True, check_finite: bool = True
    ) -> None:
        super().__init__(
            temperature=temperature, detach_teacher=detach_teacher, check_finite=check_finite
        )

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, crossed: Tensor | None = None
    ) -> Tensor:
        """The loss; arguments as in the function."""
        return bss_loss(student_logits, teacher_logits, crossed=crossed, **self.options())
