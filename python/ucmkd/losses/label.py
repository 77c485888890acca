"""LA, the label alignment of UCMKD."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ucmkd.losses._common import OptionModule, reduce
from ucmkd.ops import _check


def check_logits(value: Tensor, name: str) -> None:
    """Logits ``(n, C)``, floating, not empty."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a floating torch.Tensor; got {kind}")
    if value.dim() != 2 or 0 in value.shape:
        raise ValueError(f"{name} must have shape (n, C), not empty; got {tuple(value.shape)}")


def check_logit_pair(student_logits: Tensor, teacher_logits: Tensor) -> None:
    """Two logit matrices of one shape and device."""
    check_logits(student_logits, "student_logits")
    check_logits(teacher_logits, "teacher_logits")
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            "student_logits and teacher_logits must have one shape (n, C); got "
            f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        )
    _check.same_device(student_logits, teacher_logits, "student_logits", "teacher_logits")


def label_align(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    detach_kappa: bool = True,
    reduction: str = "mean",
    check_finite: bool = True,
) -> Tensor:
    r"""LA: :math:`\frac1n\sum_i -\log p_S(y_i|z_i) + \kappa_i \log p_T(y_i|z_i)`.

    :math:`\kappa_i = p_T(y_i|z_i)` is the label transport kernel estimated without pairs (the
    student's conditional taken as a Dirac at :math:`y_i`). The gradient flows through both terms;
    κ → 0 gives plain cross-entropy. The second term pushes the student *away* from the teacher's
    score of the true class, so small steps are advised.

    Args:
        student_logits: ``(n, C)``.
        teacher_logits: ``(n, C)``, the frozen teacher *head* applied to the *student's*
            (projected) features, with their graph: no gradient is stopped here but κ's.
        target: Classes ``(n,)``, integer.
        detach_kappa: Treat κ as a constant.
        reduction: Over the samples: ``"mean"``, ``"sum"`` or ``"none"``.
        check_finite: Name NaN or infinite logits (skipped inside ``torch.compile``).

    Returns:
        A 0-d float32 (or float64) tensor, or ``(n,)`` with ``reduction="none"``.

    Raises:
        TypeError: Logits or target of the wrong kind.
        ValueError: Shapes that do not fit, classes outside ``[0, C)``, NaN or infinite logits.

    Source: Tran et al. 2026 (arXiv 2606.10504), Definition 2.5 and Appendix D.
    """
    _check.one_of(reduction, ("mean", "sum", "none"), "reduction")
    check_logit_pair(student_logits, teacher_logits)
    n, classes = student_logits.shape
    if not isinstance(target, Tensor) or target.is_floating_point():
        kind = target.dtype if isinstance(target, Tensor) else type(target).__name__
        raise TypeError(f"target must be an integer torch.Tensor; got {kind}")
    if tuple(target.shape) != (n,):
        raise ValueError(f"target must have shape ({n},); got {tuple(target.shape)}")
    _check.same_device(student_logits, target, "student_logits", "target")
    if not torch.compiler.is_compiling():
        if int(target.min()) < 0 or int(target.max()) >= classes:
            raise ValueError(
                f"target must lie in [0, {classes}); got {int(target.min())} to {int(target.max())}"
            )
        if check_finite:
            _check.finite(student_logits, "student_logits")
            _check.finite(teacher_logits, "teacher_logits")
    dtype = _check.compute_dtype(student_logits, teacher_logits)
    own = F.cross_entropy(student_logits.to(dtype), target.long(), reduction="none")
    theirs = -F.cross_entropy(teacher_logits.to(dtype), target.long(), reduction="none")
    kappa = theirs.exp()
    if detach_kappa:
        kappa = kappa.detach()
    return reduce(own + kappa * theirs, reduction)


class LabelAlign(OptionModule):
    """:func:`label_align` as a module."""

    def __init__(
        self, *, detach_kappa: bool = True, reduction: str = "mean", check_finite: bool = True
    ) -> None:
        super().__init__(detach_kappa=detach_kappa, reduction=reduction, check_finite=check_finite)

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
        """The loss; arguments as in the function."""
        return label_align(student_logits, teacher_logits, target, **self.options())
