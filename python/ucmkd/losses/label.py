"""LA, the label alignment of UCMKD."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ucmkd.losses._common import OptionModule, reduce
from ucmkd.ops import _check
from ucmkd.ops._plain import mapped, tracked


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


#: How κ enters the gradient.
KAPPA = ("detached", "attached", "clipped")

#: Limits of a clipped κ: half of the largest value it can have.
CLIP = (0.0, 0.5)

Clip = float | Sequence[float]


def clip_range(value: Clip) -> tuple[float, float]:
    """``kappa_clip`` as (lo, hi): a number is hi, with lo = 0."""
    pair: Any = (0.0, value) if isinstance(value, Real) else value
    numbers = isinstance(pair, tuple | list) and len(pair) == 2
    if not numbers or any(isinstance(v, bool) or not isinstance(v, Real) for v in pair):
        raise TypeError(f"kappa_clip must be a number hi or a pair (lo, hi); got {value!r}")
    low, high = float(pair[0]), float(pair[1])
    if not 0 <= low <= high < float("inf"):
        raise ValueError(f"kappa_clip must hold 0 <= lo <= hi, finite; got {value!r}")
    return low, high


def _transport_kernel(log_p: Tensor, kappa: str | Tensor, clip: Clip) -> Tensor:
    """κ ``(n,)`` for the teacher's log-probabilities of the true classes."""
    if isinstance(kappa, Tensor):
        return kappa.to(log_p.dtype)
    if kappa == "attached":
        return log_p.exp()
    value = log_p.detach().exp()
    return value.clamp(*clip_range(clip)) if kappa == "clipped" else value


def label_align(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    kappa: str | Tensor = "detached",
    kappa_clip: Clip = CLIP,
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
        kappa: ``"detached"``: a constant in the gradient. ``"attached"``: differentiated too, so
            that the second term is :math:`p \log p` of the teacher's probability.
            ``"clipped"``: detached and limited to ``kappa_clip``. Or κ itself ``(n,)``, estimated
            elsewhere; it is used as it is, with its graph.
        kappa_clip: (lo, hi), or hi alone for (0, hi). The estimate lies in [0, 1], so hi < 1 is
            what limits the push. With lo > 0 the loss has no lower bound: :math:`\log p_T` falls
            for ever where the teacher gives the true class nothing.
        reduction: Over the samples: ``"mean"``, ``"sum"`` or ``"none"``.
        check_finite: Name NaN or infinite logits (not inside ``torch.compile``, ``vmap``).

    Returns:
        A 0-d float32 (or float64) tensor, or ``(n,)`` with ``reduction="none"``.

    Raises:
        TypeError: Logits or target of the wrong kind.
        ValueError: Shapes that do not fit, classes outside ``[0, C)``, NaN or infinite logits,
            another word for ``kappa``, limits that are negative or in the wrong order.

    Source: Tran et al. 2026 (arXiv 2606.10504), Definition 2.5 and Appendix D.
    """
    _check.one_of(reduction, ("mean", "sum", "none"), "reduction")
    check_logit_pair(student_logits, teacher_logits)
    n, classes = student_logits.shape
    if not isinstance(kappa, Tensor):
        _check.one_of(kappa, KAPPA, "kappa")
    elif not kappa.is_floating_point() or tuple(kappa.shape) != (n,):
        raise ValueError(
            f"kappa must be a word or floating values ({n},); got {tuple(kappa.shape)} of "
            f"{kappa.dtype}"
        )
    clip_range(kappa_clip)
    if not isinstance(target, Tensor) or target.is_floating_point():
        kind = target.dtype if isinstance(target, Tensor) else type(target).__name__
        raise TypeError(f"target must be an integer torch.Tensor; got {kind}")
    if tuple(target.shape) != (n,):
        raise ValueError(f"target must have shape ({n},); got {tuple(target.shape)}")
    _check.same_device(student_logits, target, "student_logits", "target")
    if not torch.compiler.is_compiling() and not mapped():
        if int(target.min()) < 0 or int(target.max()) >= classes:
            raise ValueError(
                f"target must lie in [0, {classes}); got {int(target.min())} to {int(target.max())}"
            )
        if check_finite:
            _check.finite(student_logits, "student_logits")
            _check.finite(teacher_logits, "teacher_logits")
    dtype = _check.compute_dtype(student_logits, teacher_logits)
    (target,) = tracked(target)
    own = F.cross_entropy(student_logits.to(dtype), target.long(), reduction="none")
    theirs = -F.cross_entropy(teacher_logits.to(dtype), target.long(), reduction="none")
    kernel = _transport_kernel(theirs, kappa, kappa_clip)
    return reduce(own + kernel * theirs, reduction)


class LabelAlign(OptionModule):
    """:func:`label_align` as a module."""

    def __init__(
        self,
        *,
        kappa: str | Tensor = "detached",
        kappa_clip: Clip = CLIP,
        reduction: str = "mean",
        check_finite: bool = True,
    ) -> None:
        super().__init__(
            kappa=kappa, kappa_clip=kappa_clip, reduction=reduction, check_finite=check_finite
        )

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
        """The loss; arguments as in the function."""
        return label_align(student_logits, teacher_logits, target, **self.options())
