"""Decoupled knowledge distillation: the target class and the others apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ucmkd.losses._common import OptionModule, reduce
from ucmkd.losses.label import check_logit_pair
from ucmkd.ops import _check
from ucmkd.ops._plain import mapped, tracked


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    reduction: str = "mean",
    detach_teacher: bool = True,
    check_finite: bool = True,
) -> Tensor:
    r"""DKD: :math:`\frac{T^2}{n}\sum_i \alpha\,\mathrm{TCKD}_i + \beta\,\mathrm{NCKD}_i`.

    With :math:`y` the target and :math:`p` the softmax at temperature T,
    :math:`\mathrm{TCKD} = \mathrm{KL}\bigl((p^T_y, 1-p^T_y)\,\|\,(p^S_y, 1-p^S_y)\bigr)` and
    :math:`\mathrm{NCKD} = \mathrm{KL}(\hat p^T\|\hat p^S)`, :math:`\hat p` the softmax over the
    classes other than the target. Hinton's loss is TCKD + :math:`(1-p^T_y)` NCKD; here the
    second weight no longer vanishes where the teacher is sure. With two classes NCKD is 0.
    Computed from log-probabilities throughout, so that a sure model does not underflow.

    Args:
        student_logits: ``(n, C)``, C ≥ 2.
        teacher_logits: ``(n, C)`` of the same samples.
        target: Classes ``(n,)``, integer.
        alpha: α ≥ 0.
        beta: β ≥ 0.
        temperature: T > 0.
        reduction: Over the samples: ``"mean"``, ``"sum"`` or ``"none"``.
        detach_teacher: No gradient to the teacher's logits.
        check_finite: Name NaN or infinite logits (not inside ``torch.compile``, ``vmap``).

    Returns:
        A 0-d float32 (or float64) tensor, or ``(n,)`` with ``reduction="none"``.

    Raises:
        TypeError: Logits, target or a number of the wrong kind.
        ValueError: Shapes that do not fit, classes outside ``[0, C)``, numbers out of range, NaN
            or infinite logits.

    Source: Zhao et al. 2022 (arXiv 2203.08679), equation 7; T² and the defaults from their code.
    """
    _check.one_of(reduction, ("mean", "sum", "none"), "reduction")
    check_logit_pair(student_logits, teacher_logits)
    n, classes = student_logits.shape
    if classes < 2:
        raise ValueError("student_logits must have two classes or more; got 1")
    if not isinstance(target, Tensor) or target.is_floating_point():
        kind = target.dtype if isinstance(target, Tensor) else type(target).__name__
        raise TypeError(f"target must be an integer torch.Tensor; got {kind}")
    if tuple(target.shape) != (n,):
        raise ValueError(f"target must have shape ({n},); got {tuple(target.shape)}")
    _check.same_device(student_logits, target, "student_logits", "target")
    for name, value, strict in (
        ("alpha", alpha, False), ("beta", beta, False), ("temperature", temperature, True),
    ):  # fmt: skip
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number; got {type(value).__name__}")
        if not 0 <= value < float("inf") or (strict and value == 0):
            raise ValueError(f"{name} must be {'> 0' if strict else '>= 0'}; got {value}")
    if not torch.compiler.is_compiling() and not mapped():
        # On a GPU a class out of range is found by the gather below; to look would be to wait.
        if target.device.type == "cpu" and (int(target.min()) < 0 or int(target.max()) >= classes):
            raise ValueError(
                f"target must lie in [0, {classes}); got {int(target.min())} to {int(target.max())}"
            )
        if check_finite:
            _check.finite(student_logits, "student_logits")
            _check.finite(teacher_logits, "teacher_logits")
    dtype = _check.compute_dtype(student_logits, teacher_logits)
    if detach_teacher:
        teacher_logits = teacher_logits.detach()
    (target,) = tracked(target)
    s_target, s_rest, s_others = _parts(student_logits.to(dtype) / temperature, target)
    t_target, t_rest, t_others = _parts(teacher_logits.to(dtype) / temperature, target)
    tckd = t_target.exp() * (t_target - s_target) + t_rest.exp() * (t_rest - s_rest)
    nckd = (t_others.exp() * (t_others - s_others)).sum(-1)
    return reduce(temperature**2 * (alpha * tckd + beta * nckd), reduction)


def _parts(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``log p_y`` and ``log (1 - p_y)``, each (n,), and log-probabilities of the others."""
    n, classes = logits.shape
    # The other classes, in order: column j, or j + 1 from the target on.
    column = torch.arange(classes - 1, device=logits.device).expand(n, -1)
    column = column + (column >= target.long()[:, None])
    others = logits.gather(1, column)
    own = logits.gather(1, target.long()[:, None])[:, 0]
    rest, whole = others.logsumexp(-1), logits.logsumexp(-1)
    return own - whole, rest - whole, F.log_softmax(others, dim=-1)


class DKDLoss(OptionModule):
    """:func:`dkd_loss` as a module."""

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        reduction: str = "mean",
        detach_teacher: bool = True,
        check_finite: bool = True,
    ) -> None:
        super().__init__(
            alpha=alpha, beta=beta, temperature=temperature, reduction=reduction,
            detach_teacher=detach_teacher, check_finite=check_finite,
        )  # fmt: skip

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
        """The loss; arguments as in the function."""
        return dkd_loss(student_logits, teacher_logits, target, **self.options())
