"""Attention transfer: where in the maps the teacher is active."""

from __future__ import annotations

from torch import Tensor

from ucmkd.losses._common import OptionModule, unit_rows
from ucmkd.losses._maps import ready_maps


def attention_loss(
    student: Tensor, teacher: Tensor, *, detach_teacher: bool = True, check_finite: bool = True
) -> Tensor:
    r"""AT: the student shall look where the teacher looks.

    .. math:: \frac1{n h w}\sum_i \Big\|\frac{q^S_i}{\|q^S_i\|_2} -
        \frac{q^T_i}{\|q^T_i\|_2}\Big\|_2^2, \qquad q_i = \sum_c A_{ic}^2 \in \mathbb{R}^{hw}

    The numbers of channels may differ, height and width may not. The paper's equation 2 has the
    norm in the place of the mean square, which is what its code (``szagoruyko/attention-transfer``)
    computes and its weight, β/2 with β = 1000, belongs to.

    Args:
        student: Maps ``(n, c_S, h, w)``.
        teacher: Maps ``(n, c_T, h, w)`` of the same samples.
        detach_teacher: No gradient to the teacher's maps.
        check_finite: Name NaN or infinite maps (not inside ``torch.compile``, ``vmap``).

    Returns:
        A 0-d float32 (or float64) tensor.

    Raises:
        TypeError: No floating tensors.
        ValueError: Not four dimensions, other samples, other heights or widths, NaN or infinity.

    Source: Zagoruyko and Komodakis 2017 (arXiv 1612.03928), equations 1 and 2 with p = 2.
    """
    s, t = ready_maps({"student": student, "teacher": teacher}, check_finite)
    if s.shape[2:] != t.shape[2:]:
        raise ValueError(
            "student and teacher must have maps of one height and width; got "
            f"{tuple(s.shape[2:])} and {tuple(t.shape[2:])}"
        )
    t = t.detach() if detach_teacher else t
    s, t = (unit_rows(maps.square().sum(1).flatten(1)) for maps in (s, t))
    return (s - t).square().mean()


class AttentionLoss(OptionModule):
    """:func:`attention_loss` as a module."""

    def __init__(self, *, detach_teacher: bool = True, check_finite: bool = True) -> None:
        super().__init__(detach_teacher=detach_teacher, check_finite=check_finite)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss; arguments as in the function."""
        return attention_loss(student, teacher, **self.options())
