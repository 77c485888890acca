"""The Sinkhorn divergence: the cross term and the self-terms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ucmkd import _backend
from ucmkd.ops import _check
from ucmkd.ops._plain import transformed
from ucmkd.ops._solve import as_tensor
from ucmkd.ops.sharp import sharp_cost
from ucmkd.ops.sinkhorn import Prepared, eager, is_plain, run, run_self
from ucmkd.reference import Solution


def divergence(
    p: Prepared,
    *,
    cost: str,
    relative: bool,
    debias: bool,
    sharp: bool,
    tol: float,
    max_iter: int,
    backend: str,
    finite: tuple[str, str] | None = None,
) -> Tensor:
    """The value ``(B,)``, 0-d for a single problem; arguments as in ``losses.sinkhorn_align``."""
    chosen = _backend.choose(backend, p.device, p.dtype)
    if sharp and transformed():
        raise NotImplementedError("sharp=True has no derivative inside torch.func transforms")
    common: dict[str, Any] = dict(cost=cost, tol=tol, max_iter=max_iter, backend=chosen)
    if sharp or not is_plain(p):
        if finite is not None:
            check_clouds(p, finite)
        value, epsilon = _composed(p, relative=relative, debias=debias, sharp=sharp, **common)
        value = value.to(p.dtype)
        value = value[0] if p.single else value
    else:
        value, job = eager(p, relative=relative, debias=debias, finite=finite, **common)
        epsilon = p.parameters[0]
        if relative and debias and not p.balanced:
            epsilon = epsilon * as_tensor(job.solution(0).scale)
    if debias and not sharp and not p.balanced:
        value = value + mass_gap(p, epsilon)
    return value


def mass_gap(p: Prepared, epsilon: Tensor) -> Tensor:
    """ε/2 (m_x - m_y)², 0-d for a single problem."""
    gap = _masses(p.x, p.x_weight).sum(-1) - _masses(p.y, p.y_weight).sum(-1)
    extra = epsilon.to(p.dtype) / 2 * gap**2
    return extra[0] if p.single else extra


def sharp_term(
    p: Prepared, sides: tuple[int, int], solution: Solution, parameters: Tensor, cost: str
) -> Tensor:
    """:math:`\\langle P, C\\rangle` between two sides (0: x, 1: y) at absolute parameters."""
    eps, rho_x, rho_y, lam = parameters
    clouds = ((p.x, p.x_weight, p.x_label, rho_x), (p.y, p.y_weight, p.y_label, rho_y))
    (x, a, k, rx), (y, b, l, ry) = (clouds[i] for i in sides)  # noqa: E741
    return sharp_cost(
        x, y, _masses(x, a), _masses(y, b), solution, cost=cost, epsilon=eps, reach_x=rx,
        reach_y=ry, x_label=k, y_label=l, label_cost=lam, distance=p.distance,
    )  # fmt: skip


def _masses(points: Tensor, weight: Tensor | None) -> Tensor:
    return points.new_full(points.shape[:2], 1 / points.shape[1]) if weight is None else weight


def check_clouds(p: Prepared, names: tuple[str, str]) -> None:
    """Names NaN or infinite points; not inside ``torch.compile``, where no data can be read."""
    if torch.compiler.is_compiling():
        return
    for points, name in zip((p.x, p.y), names, strict=True):
        _check.finite(points, name, single=p.single)


def _composed(
    p: Prepared, *, relative: bool, debias: bool, sharp: bool, **common: Any
) -> tuple[Tensor, Tensor]:
    """Each term one call of the operator; value and absolute ε."""
    cross = run(p, relative=relative, **common)
    parameters = p.parameters
    if relative:
        parameters = parameters * cross.scale
    eps, rho_x, rho_y, lam = parameters
    cost = common["cost"]

    def pick(first: int, second: int, solution: Solution) -> Tensor:
        if not sharp:
            return solution.value
        return sharp_term(p, (first, second), solution, parameters, cost)

    value = pick(0, 1, cross)
    if debias:
        sides = ((p.x, p.x_weight, p.x_label, rho_x), (p.y, p.y_weight, p.y_label, rho_y))
        for i, (points, weight, label, rho) in enumerate(sides):
            own_parameters = parameters if i == 0 else torch.stack([eps, rho, rho, lam])
            own = run_self(
                points, weight, label, p.distance, own_parameters, narrow=p.narrow, **common
            )
            value = value - pick(i, i, own) / 2
    return value, eps
