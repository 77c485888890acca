r"""The Sinkhorn divergence of clouds that no process holds."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ucmkd.distributed._costs import Costs, pull, seen, unseen
from ucmkd.distributed._group import Group
from ucmkd.distributed._loop import Masses, Potentials, symmetric, two_sided
from ucmkd.distributed._node import value_of
from ucmkd.distributed._ring import Ring
from ucmkd.distributed._shares import Shares, Side, shares
from ucmkd.distributed._sweep import total
from ucmkd.ops import _check
from ucmkd.reference import COSTS


class _Options(NamedTuple):
    epsilon: float
    relative: bool
    cost: str
    reach: tuple[float, float]
    debias: bool
    label_cost: float | Tensor
    tol: float
    max_iter: int
    keep: bool


def sharded_sinkhorn_align(
    student: Tensor,
    teacher: Tensor,
    *,
    group: Group = "world",
    epsilon: float = 0.05,
    epsilon_scale: str | None = "mean",
    cost: str = "sqeuclidean",
    reach: float | tuple[float | None, float | None] | None = None,
    debias: bool = True,
    student_weight: Tensor | None = None,
    teacher_weight: Tensor | None = None,
    student_label: Tensor | None = None,
    teacher_label: Tensor | None = None,
    label_cost: float | Tensor = 0.0,
    tol: float = 1e-3,
    max_iter: int = 1000,
    detach_teacher: bool = True,
    check_finite: bool = True,
    keep_costs: bool = False,
) -> Tensor:
    r""":func:`ucmkd.losses.sinkhorn_align` with ``group``, for batches too large for one process.

    Each of the :math:`W` ranks has its own rows only, ``n_r`` of the student's ``n`` and ``m_r``
    of the teacher's ``m``. Teacher blocks pass around a ring; the softmins over a rank's rows of
    the cost are local, those over the columns are merged by an all-reduce of the maxima and one of
    the sums. Memory per rank is :math:`O((n+m)d/W + n + m)` (masses and potentials of all rows, a
    tile of :math:`2^{22}` costs), and :math:`nm/W` more with ``keep_costs``. Value and gradients
    follow the convention of :mod:`ucmkd.distributed`, first derivatives to the points only.

    Sent by each rank per iteration, in units of a number's :math:`s = 4` or 8 bytes:

    - cross term: two turns of the ring, :math:`2(W-1)/W\cdot md`, and two all-reduces of
      :math:`m` (by a ring :math:`4(W-1)/W\cdot m` together), and 2 numbers of 8 bytes;
    - self-term of ``k`` rows: one turn, :math:`(W-1)/W\cdot kd`, an all-gather of the potential,
      :math:`(W-1)/W\cdot k`, and 2 numbers;
    - with ``keep_costs`` the turns of the ring fall away after the first.

    Before the first iteration one turn for the mean cost (``epsilon_scale="mean"``), after the
    last one turn for each gradient. :mod:`ucmkd.distributed.model` computes all of it, and
    ``python -m benches.distributed`` measures it.

    The iterations are those of the plain log-domain loop (``backend="torch"``), in float32 or, for
    float64 features, float64: no acceleration, no ε below about 1e-5 mean costs in float32.

    Args:
        student: This rank's rows ``(n_r, d)``; a rank may have none.
        teacher: This rank's rows ``(m_r, d)``.
        group: The process group, or ``"world"`` for the default one.
        epsilon: Regularisation ε > 0.
        epsilon_scale: ``"mean"``: ``epsilon``, ``reach`` and ``label_cost`` are in units of the
            mean feature cost; None: they are absolute.
        cost: As in :func:`ucmkd.losses.sinkhorn_align`.
        reach: ρ of unbalanced transport, a number or a pair; None is strict.
        debias: Subtract the self-terms.
        student_weight: Masses ``(n_r,)`` of the global batch, default ``1/n``; without gradients.
        teacher_weight: Masses of the teacher's rows.
        student_label: Integer labels ``(n_r,)``.
        teacher_label: Labels of the teacher's rows.
        label_cost: λ ≥ 0, or class distances ``(K, L)``; a number or a tensor without gradient.
        tol: Tolerance of the relative L1 marginal residual.
        max_iter: Most iterations.
        detach_teacher: No gradient to the teacher's rows.
        check_finite: Name NaN or infinite features.
        keep_costs: Hold this rank's rows of the cost matrices.

    Returns:
        A 0-d tensor, the same on every rank.

    Raises:
        TypeError, ValueError: Arguments that are not accepted, on every rank.

    Source: Feydy et al. 2019 (arXiv 1810.08278); the loop, Peyre and Cuturi 2019, ch. 4.
    """
    if detach_teacher and isinstance(teacher, Tensor):
        teacher = teacher.detach()
    same = dict(
        function="sharded_sinkhorn_align", epsilon=epsilon, epsilon_scale=epsilon_scale, cost=cost,
        reach=reach, debias=debias, label_cost=label_cost, tol=tol, max_iter=max_iter,
    )  # fmt: skip
    shared = shares(
        group, (student, teacher), (student_weight, teacher_weight),
        (student_label, teacher_label), same, check_finite,
    )  # fmt: skip
    # All ranks have come with the same options: an error is raised on each.
    _check.one_of(cost, COSTS, "cost")
    _check.stopping(tol, max_iter)
    if epsilon_scale not in ("mean", None):
        raise ValueError(f"epsilon_scale must be 'mean' or None; got {epsilon_scale!r}")
    like = torch.empty(0)
    strict: dict[str, Any] = dict(minimum=0.0, strict=True)
    for value, name in ((epsilon, "epsilon"), (label_cost, "label_cost")):
        plain = not isinstance(value, Tensor) or (name == "label_cost" and value.dim() == 2)
        if not plain or (isinstance(value, Tensor) and value.requires_grad):
            raise TypeError(f"{name} must be a number here, or class distances without gradient")
    for part in reach if isinstance(reach, tuple) else (reach,):
        if isinstance(part, Tensor):
            raise TypeError("reach must be numbers here: the sharded losses have no gradient to it")
    eps = float(_check.number(epsilon, "epsilon", like, 1, **strict))
    rho = tuple(float(r) for r in _check.reaches(reach, like, 1))
    if (student_label is None) != (teacher_label is None):
        missing = "student_label" if student_label is None else "teacher_label"
        raise ValueError(f"{missing} must be given too: the label cost needs both sides' labels")
    if not isinstance(label_cost, Tensor):
        label_cost = float(
            _check.number(label_cost, "label_cost", like, 1, minimum=0, strict=False)
        )
    if student_label is None and (isinstance(label_cost, Tensor) or label_cost):
        raise ValueError("label_cost needs student_label and teacher_label; got neither")
    if isinstance(label_cost, Tensor):  # the labels of all ranks, on every rank
        every = shared.student.label, shared.teacher.label
        here = label_cost.new_empty(0, device=student.device)
        _check.label_cost(label_cost, *every, here, 1, ("student", "teacher"))
    if debias and isinstance(label_cost, Tensor):
        _check.symmetric(label_cost, "label_cost")
    masses = shared.student.total, shared.teacher.total
    if all(map(math.isinf, rho)) and abs(masses[0] - masses[1]) > 1e-4 * masses[0]:
        raise ValueError(
            "student_weight and teacher_weight must have the same mass over the ranks when reach "
            f"is None: normalise them, or give a reach; got sums {masses[0]:g} and {masses[1]:g}"
        )
    options = _Options(
        eps, epsilon_scale == "mean", cost, (rho[0], rho[1]), debias, label_cost, float(tol),
        int(max_iter), keep_costs,
    )  # fmt: skip

    def work(
        x: Tensor, y: Tensor, to_x: bool, to_y: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return _solve(shared, x, y, options, to_x, to_y)

    return value_of(student, teacher, work, shared.ranks)


def _solve(
    shared: Shares, x: Tensor, y: Tensor, o: _Options, to_x: bool, to_y: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    ranks, dtype, s, t = shared
    x, y = x.to(dtype), y.to(dtype)
    # Any common point near the clouds keeps the digits.
    centre = ranks.add(y.double().sum(0)) / sum(t.sizes)
    p, q = (seen(points, o.cost, centre.to(dtype)) for points in (x, y))
    rings = Ring(p, ranks, s.sizes), Ring(q, ranks, t.sizes)
    epsilon, reach, price, unit = o.epsilon, o.reach, o.label_cost, 1.0
    if o.relative:
        unit = _mean_cost(Costs(p, rings[1], o.cost), s, t, shared)
        epsilon, reach, price = epsilon * unit, (reach[0] * unit, reach[1] * unit), price * unit
    loop: dict[str, Any] = dict(tol=o.tol, max_iter=o.max_iter)

    def costs(rows: Tensor, side: Side, ring: Ring, other: Side) -> Costs:
        labels = None
        if side.own_label is not None and other.label is not None:
            labels = (side.own_label, other.label)
        return Costs(rows, ring, o.cost, labels, price, o.keep)

    cross = costs(p, s, rings[1], t)
    masses = Masses(s.own, t.all, s.total, t.total)
    found = two_sided(cross, masses, ranks, epsilon, reach, **loop)
    value = _value(found, masses, epsilon, reach, shared)
    to_p = _gradient(cross, found.f, found.g, s, t, epsilon) if to_x else None
    to_q = None
    if to_y:
        every = torch.cat(ranks.gather_rows(found.f, s.sizes, 0))
        turned = costs(q, t, rings[0], s)
        if isinstance(price, Tensor):
            turned.label_cost = price.T
        to_q = _gradient(turned, found.g[rings[1].mine], every, t, s, epsilon)
    if o.debias:
        for i, (side, rows) in enumerate(((s, p), (t, q))):
            own, own_reach = costs(rows, side, rings[i], side), reach[i]
            masses = Masses(side.own, side.all, side.total, side.total)
            found = symmetric(own, masses, ranks, epsilon, own_reach, **loop)
            value -= _value(found, masses, epsilon, (own_reach, own_reach), shared) / 2
            if (to_x, to_y)[i]:
                # Half of a term whose two equal sides both move.
                slope = _gradient(own, found.f, found.g, side, side, epsilon)
                if i == 0 and to_p is not None:
                    to_p -= slope
                elif to_q is not None:
                    to_q -= slope
        value += epsilon / 2 * (s.total - t.total) ** 2 * any(map(math.isfinite, reach))
    return (
        torch.tensor(value, dtype=dtype, device=x.device),
        None if to_p is None else unseen(to_p, x, o.cost),
        None if to_q is None else unseen(to_q, y, o.cost),
    )


def _mean_cost(costs: Costs, s: Side, t: Side, shared: Shares) -> float:
    found = costs.x.new_zeros((), dtype=torch.float64)
    for rows, block in costs.blocks():
        tile = costs.tile(rows, block)
        found += (s.own[rows] @ (tile @ t.all[block.rows])).double()
    mean = total(found, shared.ranks) / (s.total * t.total)
    return mean if mean >= torch.finfo(shared.dtype).tiny ** 0.5 else 1.0


def _value(
    found: Potentials, masses: Masses, epsilon: float, reach: tuple[float, float], shared: Shares
) -> float:
    """The dual value at the potentials."""

    def term(weight: Tensor, potential: Tensor, rho: float) -> Tensor:
        wide = potential.double()
        relaxed = wide if math.isinf(rho) else -rho * torch.expm1(-wide / rho)
        return torch.where(weight > 0, weight.double() * relaxed, 0.0).sum()

    rows = total(term(masses.a, found.f, reach[0]), shared.ranks)
    columns = float(term(masses.b, found.g, reach[1]))
    return rows + columns - epsilon * (found.mass - masses.sum_a * masses.sum_b)


def _gradient(
    costs: Costs, f: Tensor, g: Tensor, rows_of: Side, columns_of: Side, epsilon: float
) -> Tensor:
    """The envelope gradient to this rank's rows: one turn."""
    left = f / epsilon + rows_of.own.log()
    right = g / epsilon + columns_of.all.log()
    found = torch.zeros_like(costs.x)
    for rows, block in costs.blocks():
        score = left[rows, None] + right[None, block.rows] - costs.tile(rows, block) / epsilon
        found[rows] += pull(costs.cost, costs.x[rows], block.points, score.exp_())
    return found
