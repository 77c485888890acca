"""``<P, M>`` with the entropic plan of M held fixed: what alignment by a cost matrix minimises."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ucmkd.diagnostics import collecting, report
from ucmkd.losses._common import wide
from ucmkd.methods.observed import plan_entropy, report_plan
from ucmkd.ops import sinkhorn_cost


class Planned(NamedTuple):
    """What :func:`planned` finds.

    Attributes:
        value: ``<P, M>``, 0-d; differentiable in M alone.
        plan: P ``(n, m)``, detached.
        start: A warm start ``(m,)`` for the next call with the same columns, in units of the
            regularisation, so that it serves costs of another size too.
    """

    value: Tensor
    plan: Tensor
    start: Tensor


def planned(
    cost: Tensor,
    *,
    penalty: Tensor | None = None,
    epsilon: float = 0.1,
    reach: float | None = None,
    row_weight: Tensor | None = None,
    column_weight: Tensor | None = None,
    start: Tensor | None = None,
    tol: float = 1e-3,
    max_iter: int = 100,
) -> Planned:
    r"""``<P, M>`` with P the entropic plan of M + penalty, held fixed.

    The regularisation is ``epsilon`` times the mean of ``M - min M``: the shift does not change
    a balanced plan, but would change the scale. ``reach`` and ``penalty`` have the same unit.

    Args:
        cost: M ``(n, m)``.
        penalty: ``(n, m)``, added to the cost of the plan but not to the value (what is not to be
            matched); in units of the mean shifted cost.
        epsilon: Regularisation in units of the mean shifted cost.
        reach: ρ of unbalanced transport: what it costs, per mass and in the same unit, to leave a
            sample unmatched (:func:`ucmkd.ops.sinkhorn`); None: everything is matched.
        row_weight: Row masses ``(n,)``, summing to one; None: uniform.
        column_weight: Column masses ``(m,)``, likewise.
        start: :attr:`Planned.start` of an earlier call.
        tol: Stop at this marginal residual.
        max_iter: Most iterations.

    Raises:
        ValueError: NaN or infinite costs.
    """
    if not torch.compiler.is_compiling() and not bool(cost.isfinite().all()):
        raise ValueError(
            "cost has NaN or infinite entries: student or teacher outputs are not finite "
            "(has training diverged?)"
        )
    cost = wide(cost)
    shifted = cost.detach() - cost.detach().min()
    unit = shifted.mean()
    scaled = (epsilon * unit).clamp_min(1e-6)
    if penalty is not None:
        shifted = shifted + penalty.to(shifted.dtype) * unit
    weights = [
        None if w is None else w.to(shifted.dtype) / w.to(shifted.dtype).sum()
        for w in (row_weight, column_weight)
    ]  # 16-bit masses do not sum to one
    with torch.enable_grad():
        shifted.requires_grad_()
        solved = sinkhorn_cost(
            shifted,
            epsilon=scaled,
            x_weight=weights[0],
            y_weight=weights[1],
            reach=None if reach is None else (reach * unit).clamp_min(1e-6),
            y_potential=None if start is None else start * scaled,
            tol=tol,
            max_iter=max_iter,
        )
        (plan,) = torch.autograd.grad(solved.value, shifted)  # the gradient of OT is its plan
    if reach is None:  # unbalanced plans have no marginals to keep
        report_plan(plan, *weights)
    elif collecting():
        report("plan/entropy", plan_entropy(plan))
        report("plan/mass", plan.sum())
    value = (plan.to(cost.dtype) * cost).sum()
    return Planned(value, plan, (solved.y_potential / scaled).detach())


def planned_cost(cost: Tensor, **options: Tensor | float | int | None) -> Tensor:
    """The value of :func:`planned` alone; the same arguments."""
    return planned(cost, **options).value  # type: ignore[arg-type]
