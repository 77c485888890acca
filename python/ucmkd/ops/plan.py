"""The transport plan and the barycentric map, from the potentials of a solve."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ucmkd import _backend, reference
from ucmkd.ops import _check
from ucmkd.ops._check import Number, Reach
from ucmkd.ops._pairwise import pairwise_cost
from ucmkd.ops._precise import precise
from ucmkd.ops._solve import as_given, as_numpy
from ucmkd.ops.rounding import round_plan
from ucmkd.ops.sinkhorn import Prepared, prepare, run

#: Entries of the plan that are computed at once, in float64.
_BLOCK_ENTRIES = 1 << 22


def _solve(
    x: Tensor, y: Tensor, backend: str, cost: str, tol: float, max_iter: int, **options: Any
) -> tuple[Prepared, reference.Solution, str]:
    with torch.no_grad():
        p = prepare(
            x, y, cost=cost, tol=tol, max_iter=max_iter, x_potential=None, y_potential=None,
            names=("x", "y"), **options,
        )  # fmt: skip
        p = precise(p, cost, backend)
        chosen = _backend.choose(backend, p.device, p.dtype)
        s = run(p, cost=cost, relative=False, tol=tol, max_iter=max_iter, backend=chosen)
    return p, s, chosen


def _blocks(p: Prepared) -> list[slice]:
    """Rows of the plan, so many at a time that a block stays small."""
    step = max(1, _BLOCK_ENTRIES // (p.x.shape[0] * p.y.shape[1]))
    return [slice(i, i + step) for i in range(0, p.x.shape[1], step)]


def _scores(p: Prepared, s: reference.Solution, cost: str, rows: slice) -> Tensor:
    """``(g_j - C_ij)/ε`` of some rows in float64, ``(B, len(rows), m)``; -inf at masked columns."""
    matrix = pairwise_cost(p.x[:, rows], p.y, cost)
    distance = p.distance
    if p.x_label is not None and p.y_label is not None:
        k, l = p.x_label[:, rows].unsqueeze(-1), p.y_label.unsqueeze(-2)  # noqa: E741
        apart = k != l if distance is None else distance[k, l]
        matrix += p.parameters[3][:, None, None] * apart
    score = (s.y_potential.double().unsqueeze(-2) - matrix) / p.parameters[0][:, None, None]
    if p.y_weight is not None:  # a masked point: no mass, and no bound on its density
        score = score.masked_fill((p.y_weight == 0).unsqueeze(-2), -torch.inf)
    return score


def _rows(p: Prepared, s: reference.Solution, cost: str, rows: slice) -> Tensor:
    """Rows of the plan ``(B, len(rows), m)`` in float64."""
    f = s.x_potential[:, rows].double() / p.parameters[0].unsqueeze(-1)
    score = _scores(p, s, cost, rows) + f.unsqueeze(-1)
    if p.x_weight is not None:
        score = score.masked_fill((p.x_weight[:, rows] == 0).unsqueeze(-1), -torch.inf)
    density = torch.exp(score)
    if p.x_weight is None:
        density /= p.x.shape[1]
    else:
        density *= p.x_weight[:, rows].unsqueeze(-1)
    return density / p.y.shape[1] if p.y_weight is None else density * p.y_weight.unsqueeze(-2)


def _dense_plan(p: Prepared, s: reference.Solution, cost: str) -> Tensor:
    """:math:`P`, ``(B, n, m)``."""
    return torch.cat([_rows(p, s, cost, rows).to(p.dtype) for rows in _blocks(p)], 1)


def _conditional_rows(p: Prepared, s: reference.Solution, cost: str, rows: slice) -> Tensor:
    """Rows of :math:`P_{ij} / \\sum_j P_{ij}`, defined however small the mass of a row is."""
    score = _scores(p, s, cost, rows)
    if p.y_weight is not None:
        score = score + p.y_weight.double().log().unsqueeze(-2)
    return torch.softmax(score, -1)


def _conditional_mean(
    p: Prepared, s: reference.Solution, cost: str, values: Tensor, backend: str
) -> Tensor:
    """:math:`\\sum_j P_{ij} v_j / \\sum_j P_{ij}` for ``values (B, m, k)``, the plan in tiles."""
    if backend == "rust":
        out = _backend.rust().plan_apply(
            # x's weights: masked points are kept out of the centre that costs are computed about.
            as_numpy(p.x), as_numpy(p.y), as_numpy(p.x_weight), as_numpy(p.y_weight),
            as_numpy(p.x_label), as_numpy(p.y_label), as_numpy(p.distance),
            None, as_numpy(s.y_potential), as_numpy(p.parameters[0]),
            as_numpy(p.parameters[3]), cost, as_numpy(values), torch.get_num_threads(),
        )  # fmt: skip
        return torch.from_numpy(out)
    if backend == "triton":
        from ucmkd.ops import _triton_plan

        return _triton_plan.conditional_mean(
            *as_given(p.narrow, p.x, p.y), p.y_weight, s.y_potential, values,
            epsilon=p.parameters[0], cost=cost, labels=(p.x_label, p.y_label),
            label_cost=p.parameters[3], distance=p.distance,
        )  # fmt: skip
    parts = [_conditional_rows(p, s, cost, rows) @ values.double() for rows in _blocks(p)]
    return torch.cat(parts, 1).to(values.dtype)


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
    round: bool = False,
    tol: float = 1e-6,
    max_iter: int = 1000,
    backend: str = "auto",
) -> Tensor:
    """The plan :math:`P_{ij} = a_i b_j e^{(f_i+g_j-C_{ij})/ε}`, ``(n, m)`` or ``(B, n, m)``.

    Detached from the inputs. Its marginals are right up to the residual of the solve; with
    ``round`` they are the weights exactly (:func:`ucmkd.ops.round_plan`), which needs strict
    marginals (``ValueError`` otherwise). Below an ε of about 1e-4 mean costs float32 points are
    solved in float64 on the CPU (:mod:`ucmkd.ops._precise`). Other arguments and errors as in
    :func:`ucmkd.ops.sinkhorn`.
    """
    _check.flag(round, "round")
    if round and reach is not None and reach != (None, None):
        raise ValueError(f"round=True needs strict marginals, reach=None; got reach={reach}")
    p, s, _ = _solve(
        x, y, backend, cost, tol, max_iter, epsilon=epsilon, x_weight=x_weight, y_weight=y_weight,
        reach=reach, x_label=x_label, y_label=y_label, label_cost=label_cost,
    )  # fmt: skip
    with torch.no_grad():
        plan = _dense_plan(p, s, cost)
        if round:
            plan = round_plan(plan, p.x_weight, p.y_weight)
        plan = plan.to(_check.compute_dtype(x, y))
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

    Detached from the inputs; the plan is never held as a whole. A point of zero weight, or one
    that ``reach`` lets keep its mass, has the image of its conditional plan all the same.
    Arguments and errors as in :func:`ucmkd.ops.sinkhorn`.

    Returns:
        ``(n, d)`` or ``(B, n, d)``.
    """
    p, s, chosen = _solve(
        x, y, backend, cost, tol, max_iter, epsilon=epsilon, x_weight=x_weight, y_weight=y_weight,
        reach=reach, x_label=x_label, y_label=y_label, label_cost=label_cost,
    )  # fmt: skip
    with torch.no_grad():
        # About the centre of y, for clouds far from the origin.
        massive = None if p.y_weight is None else p.y_weight > 0
        centre = reference.centre_of(p.y, massive)
        values = p.y - centre
        if massive is not None:
            values = torch.where(massive.unsqueeze(-1), values, 0.0)
        image = centre + _conditional_mean(p, s, cost, values, chosen)
        image = image.to(_check.compute_dtype(x, y))
    return image.squeeze(0) if p.single else image
