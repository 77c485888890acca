"""The transport plan and the barycentric map, from the potentials of a solve."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ucmkd import _backend, reference
from ucmkd.ops._check import Number, Reach
from ucmkd.ops.sinkhorn import Prepared, prepare, run

#: Entries of the plan that the barycentric map holds at once.
_BLOCK_ENTRIES = 1 << 22


def _solve(
    x: Tensor, y: Tensor, backend: str, cost: str, tol: float, max_iter: int, **options: Any
) -> tuple[Prepared, reference.Solution]:
    with torch.no_grad():
        p = prepare(
            x, y, cost=cost, tol=tol, max_iter=max_iter, x_potential=None, y_potential=None,
            names=("x", "y"), **options,
        )  # fmt: skip
        chosen = _backend.choose(backend, p.x.device, p.x.dtype)
        return p, run(p, cost=cost, relative=False, tol=tol, max_iter=max_iter, backend=chosen)


def _rows(p: Prepared, s: reference.Solution, cost: str, rows: slice) -> Tensor:
    """Rows of the plan ``(B, len(rows), m)``, computed in float64 where cheap to be exact."""
    x, k = p.x[:, rows], None if p.x_label is None else p.x_label[:, rows]
    # Centring keeps the cost accurate for clouds far from the origin.
    centre = 0.0 if cost in ("cosine", "chordal") else p.y.mean(1, keepdim=True)
    matrix = reference.cost_matrix(x - centre, p.y - centre, cost)
    different = reference.label_matrix(k, p.y_label)
    if different is not None:
        matrix = matrix + p.parameters[3].to(x.dtype)[:, None, None] * different
    f, g = s.x_potential[:, rows], s.y_potential
    eps = p.parameters[0].to(x.dtype)[:, None, None]
    score = (f.unsqueeze(-1) + g.unsqueeze(-2) - matrix) / eps
    if p.y_weight is not None:  # a masked point: no mass, and no bound on its density
        score = score.masked_fill((p.y_weight == 0).unsqueeze(-2), -torch.inf)
    density = torch.exp(score)
    if p.x_weight is None:
        density = density / p.x.shape[1]
    else:
        density = density * p.x_weight[:, rows].unsqueeze(-1)
    return density / p.y.shape[1] if p.y_weight is None else density * p.y_weight.unsqueeze(-2)


def transport_plan(
    x: Tensor,
    y: Tensor,
    *,
    epsilon: Number,
    cost: str = "sqeuclidean",
    x_weight: Tensor | None = None,
    y_weight: Tensor | None = None,
    reach: Reach = None,
    x_label: Tensor | None = None,
    y_label: Tensor | None = None,
    label_cost: Number = 0.0,
    tol: float = 1e-6,
    max_iter: int = 1000,
    backend: str = "auto",
) -> Tensor:
    """The plan :math:`P_{ij} = a_i b_j e^{(f_i+g_j-C_{ij})/ε}`, ``(n, m)`` or ``(B, n, m)``.

    Detached from the inputs. Arguments and errors as in :func:`ucmkd.ops.sinkhorn`.
    """
    p, s = _solve(
        x, y, backend, cost, tol, max_iter, epsilon=epsilon, x_weight=x_weight, y_weight=y_weight,
        reach=reach, x_label=x_label, y_label=y_label, label_cost=label_cost,
    )  # fmt: skip
    with torch.no_grad():
        step = max(1, _BLOCK_ENTRIES // (p.x.shape[0] * p.y.shape[1] * p.x.shape[2]))
        blocks = [_rows(p, s, cost, slice(i, i + step)) for i in range(0, p.x.shape[1], step)]
        plan = torch.cat(blocks, 1)
    return plan.squeeze(0) if p.single else plan


def barycentric_map(
    x: Tensor,
    y: Tensor,
    *,
    epsilon: Number,
    cost: str = "sqeuclidean",
    x_weight: Tensor | None = None,
    y_weight: Tensor | None = None,
    reach: Reach = None,
    x_label: Tensor | None = None,
    y_label: Tensor | None = None,
    label_cost: Number = 0.0,
    tol: float = 1e-6,
    max_iter: int = 1000,
    backend: str = "auto",
) -> Tensor:
    r"""Where the plan sends each point, :math:`T(x_i) = \sum_j P_{ij} y_j / \sum_j P_{ij}`.

    Detached from the inputs; the plan is never held as a whole. A point of zero weight sends no
    mass: its image is that of its conditional plan all the same. Arguments and errors as in
    :func:`ucmkd.ops.sinkhorn`.

    Returns:
        ``(n, d)`` or ``(B, n, d)``.
    """
    p, s = _solve(
        x, y, backend, cost, tol, max_iter, epsilon=epsilon, x_weight=x_weight, y_weight=y_weight,
        reach=reach, x_label=x_label, y_label=y_label, label_cost=label_cost,
    )  # fmt: skip
    with torch.no_grad():
        unweighted = p._replace(x_weight=None)
        step = max(1, _BLOCK_ENTRIES // (p.x.shape[0] * p.y.shape[1] * p.x.shape[2]))
        images = []
        for i in range(0, p.x.shape[1], step):
            plan = _rows(unweighted, s, cost, slice(i, i + step))
            images.append(plan @ p.y / plan.sum(-1, keepdim=True))
        image = torch.cat(images, 1)
    return image.squeeze(0) if p.single else image
