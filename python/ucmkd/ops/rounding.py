"""Rounding of a plan onto given marginals."""

from __future__ import annotations

import torch
from torch import Tensor

from ucmkd.ops import _check


def round_plan(
    plan: Tensor, x_weight: Tensor | None = None, y_weight: Tensor | None = None
) -> Tensor:
    r"""The plan moved onto its marginals, :math:`G1 = a` and :math:`G^\top 1 = b`, :math:`G\ge 0`.

    Rows, then columns that hold too much are scaled down, and what is then missing,
    :math:`e_a = a - F1 \ge 0` and :math:`e_b = b - F^\top 1 \ge 0`, is added as the rank-one matrix
    :math:`e_a e_b^\top / |e_a|_1`. The result is near:

    .. math:: |G - P|_1 \le 2\,(|P1 - a|_1 + |P^\top 1 - b|_1).

    :math:`\langle G, C\rangle` of a feasible plan is an upper bound of the unregularised cost, that
    of a plan that has not converged is not. Computed in float64 and detached from the inputs; the
    marginals hold up to the rounding of the plan's dtype.

    Args:
        plan: Non-negative, ``(n, m)`` or ``(B, n, m)``.
        x_weight: Row marginal ``(n,)`` or ``(B, n)``, default ``1/n``.
        y_weight: Column marginal ``(m,)`` or ``(B, m)``, default ``1/m``, of the same mass: a
            difference within rounding (1e-4 relative) is removed by scaling it.

    Returns:
        The rounded plan, in the shape and dtype of ``plan``.

    Raises:
        TypeError: A plan or weights that are not floating tensors.
        ValueError: Shapes; negative, NaN or infinite entries; masses that differ.

    Source: Altschuler, Weed, Rigollet 2017 (arXiv 1705.09634), Algorithm 2 and Lemma 7.
    """
    _check.points(plan, "plan")
    single = plan.dim() == 2
    values = plan.detach().unsqueeze(0) if single else plan.detach()
    batch, n, m = values.shape
    a = _check.weight(x_weight, (batch, n), "x_weight", plan)
    b = _check.weight(y_weight, (batch, m), "y_weight", plan)
    _check.equal_mass(None, a, b, "x_weight", "y_weight")
    if not bool(((values >= 0) & torch.isfinite(values)).all()):
        raise ValueError(
            "plan must be finite and non-negative; got entries from "
            f"{float(values.min()):.3g} to {float(values.max()):.3g}"
        )
    with torch.no_grad():
        p = values.double()
        rows = p.new_full((batch, n), 1 / n) if a is None else a.double()
        columns = p.new_full((batch, m), 1 / m) if b is None else b.double()
        columns = columns * (rows.sum(-1, keepdim=True) / columns.sum(-1, keepdim=True))
        p = p * _at_most(rows, p.sum(-1)).unsqueeze(-1)
        p = p * _at_most(columns, p.sum(-2)).unsqueeze(-2)
        missing_x = (rows - p.sum(-1)).clamp(min=0)
        missing_y = (columns - p.sum(-2)).clamp(min=0)
        total = missing_x.sum(-1, keepdim=True)
        share = torch.where(total > 0, missing_x / torch.where(total > 0, total, 1.0), 0.0)
        p = torch.addcmul(p, share.unsqueeze(-1), missing_y.unsqueeze(-2)).to(plan.dtype)
    return p.squeeze(0) if single else p


def _at_most(wanted: Tensor, held: Tensor) -> Tensor:
    """The factor that brings ``held`` down to ``wanted``; 1 where it is not above."""
    return torch.where(held > wanted, wanted / torch.where(held > wanted, held, 1.0), 1.0)
