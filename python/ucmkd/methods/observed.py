"""What a diagnosis looks at: the transport plan of a step, and the gradients of its terms.

Nothing here is computed in an ordinary step: plans are reported only while
:func:`ucmkd.diagnostics.collect` is open, gradients only by :meth:`Method.diagnostics`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ucmkd.diagnostics import collecting, report
from ucmkd.ops import transport_plan
from ucmkd.ops._pairwise import pairwise_cost

Gradients = Sequence[Tensor | None]


def plan_entropy(plan: Tensor) -> Tensor:
    """``H(P) = -Σ P_ij log P_ij`` in nats, of a plan ``(n, m)`` of mass one.

    Between ``log max(n, m)`` (as sharp as uniform masses allow) and ``log nm`` (every student
    sample goes everywhere: the plan knows nothing).
    """
    return -torch.special.xlogy(plan, plan).sum()


def plan_residual(plan: Tensor, row: Tensor | None = None, column: Tensor | None = None) -> Tensor:
    """``(Σ_i |Σ_j P_ij - a_i| + Σ_j |Σ_i P_ij - b_j|) / Σ_i a_i``: how wrong the marginals are.

    Args:
        plan: ``(n, m)``.
        row: a ``(n,)``; None: ``1/n`` each.
        column: b ``(m,)``; None: ``1/m`` each.
    """
    n, m = plan.shape
    a = plan.new_full((n,), 1 / n) if row is None else row.to(plan.dtype)
    b = plan.new_full((m,), 1 / m) if column is None else column.to(plan.dtype)
    gap = (plan.sum(1) - a).abs().sum() + (plan.sum(0) - b).abs().sum()
    return gap / a.sum()


def report_plan(plan: Tensor, row: Tensor | None = None, column: Tensor | None = None) -> None:
    """Report ``plan/entropy`` and ``plan/residual`` of a plan, if somebody listens."""
    if collecting():
        report("plan/entropy", plan_entropy(plan))
        report("plan/residual", plan_residual(plan, row, column))


@torch.no_grad()
def report_alignment(student: Tensor, teacher: Tensor, options: Mapping[str, Any]) -> None:
    """Report the plan behind ``feature_align(student, teacher, **options)``, if somebody listens.

    The loss keeps no plan; it is solved once more, at the ε, tolerance and iterations of the loss.
    """
    if not collecting():
        return
    given = dict(options)
    unit = 1.0
    if given.pop("epsilon_scale") == "mean":
        cost = pairwise_cost(student[None], teacher[None], given["cost"])[0]
        a, b = given.get("student_weight"), given.get("teacher_weight")
        rows = cost.mean(0) if a is None else (a / a.sum()).to(cost.dtype) @ cost
        mean = float(rows.mean() if b is None else rows @ (b / b.sum()).to(cost.dtype))
        unit = mean if mean > 0 else 1.0  # all points in one place
    row, column = given.pop("student_weight", None), given.pop("teacher_weight", None)
    plan = transport_plan(
        student.detach(),
        teacher,
        epsilon=given.pop("epsilon") * unit,
        label_cost=given.pop("label_cost", 0.0) * unit,
        x_weight=row,
        y_weight=column,
        x_label=given.pop("student_label", None),
        y_label=given.pop("teacher_label", None),
        **given,
    )
    report_plan(plan, row, column)


def cosine(first: Gradients, second: Gradients) -> tuple[Tensor, Tensor] | None:
    """``<g, h> / (|g| |h|)`` and ``|h| / |g|`` over the parameters that both gradients reach.

    None where there is no such parameter. NaN if one of them is zero.
    """
    both = [(g, h) for g, h in zip(first, second, strict=True) if g is not None and h is not None]
    if not both:
        return None

    def dot(pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        return torch.stack([(g * h).sum() for g, h in pairs]).sum()

    own = dot((g, g) for g, _ in both).sqrt()
    other = dot((h, h) for _, h in both).sqrt()
    return dot(both) / (own * other), other / own


def report_gradients(
    terms: Mapping[str, Tensor],
    weights: Mapping[str, float],
    supervised: Sequence[str],
    parameters: Sequence[nn.Parameter],
) -> None:
    """Report how the weighted alignment terms pull, compared with the cross-entropy.

    ``gradient/cosine`` is the cosine between the gradient of the weighted ``supervised`` terms
    and that of all other weighted terms, over the ``parameters`` that both reach (a head that the
    alignment does not touch does not count); ``gradient/ratio`` is the length of the second over
    that of the first. With several alignment terms, ``gradient/cosine_NAME`` says it for each.
    One backward pass per term; nothing is written into ``.grad``.
    """
    live = {k: weights[k] * v for k, v in terms.items() if weights[k] != 0 and v.requires_grad}
    own = [value for name, value in live.items() if name in supervised]
    aligned = {name: value for name, value in live.items() if name not in supervised}
    if not own or not aligned or not parameters:
        return

    def gradient(value: Tensor) -> Gradients:
        return torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)

    reference = gradient(torch.stack(own).sum())
    total: list[Tensor | None] = [None] * len(parameters)
    for name, value in aligned.items():
        found = gradient(value)
        one = cosine(reference, found)
        if len(aligned) > 1 and one is not None:
            report(f"gradient/cosine_{name}", one[0])
        total = [
            g if t is None else t if g is None else t + g for t, g in zip(total, found, strict=True)
        ]
    together = cosine(reference, total)
    if together is not None:
        report("gradient/cosine", together[0])
        report("gradient/ratio", together[1])
