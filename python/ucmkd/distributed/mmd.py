r"""The squared MMD of clouds that no process holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ucmkd.distributed._bandwidth import mean_bandwidth, median_bandwidth
from ucmkd.distributed._costs import TILE, squares
from ucmkd.distributed._group import Group, Ranks
from ucmkd.distributed._node import value_of
from ucmkd.distributed._ring import Ring
from ucmkd.distributed._shares import Shares, Side, shares
from ucmkd.distributed._sweep import total
from ucmkd.ops import _check
from ucmkd.ops._kernel import kernel_of
from ucmkd.ops.bandwidth import RULES
from ucmkd.ops.mmd import SCALES
from ucmkd.reference import Kernel, kernel_slope, kernel_value


def sharded_mmd_align(
    student: Tensor,
    teacher: Tensor,
    *,
    group: Group = "world",
    kernel: str = "gaussian",
    bandwidth: str | float = "median",
    scales: Sequence[float] = SCALES,
    estimator: str = "v",
    student_weight: Tensor | None = None,
    teacher_weight: Tensor | None = None,
    degree: int = 3,
    gamma: float | None = None,
    coef: float = 1.0,
    detach_teacher: bool = True,
    check_finite: bool = True,
) -> Tensor:
    r""":func:`ucmkd.losses.mmd_align` with ``group``, for batches too large for one process.

    Each of the :math:`W` ranks has its own rows only. Blocks of both sides pass around a ring once,
    and a rank adds up the kernel between its rows and each block, the gradient to its rows with it:
    value and gradients in one pass, memory per rank :math:`O((n+m)d/W + n + m)` and a tile of
    :math:`2^{22}` kernel values. Value and gradients follow the convention of
    :mod:`ucmkd.distributed`, first derivatives to the points only.

    Sent by each rank in units of a number's 4 or 8 bytes: :math:`(W-1)/W\cdot(n+2m)d` for the
    blocks, :math:`(W-1)/W\cdot nd` more where the teacher gets a gradient, the masses, and, for
    the median bandwidth, a share of at most 1024 points.

    Args:
        student: This rank's rows ``(n_r, d)``; a rank may have none.
        teacher: This rank's rows ``(m_r, d)``.
        group: The process group, or ``"world"`` for the default one.
        kernel: As in :func:`ucmkd.losses.mmd_align`.
        bandwidth: σ, a number, or ``"median"`` or ``"mean"`` over the rows of all ranks.
        scales: Factors of σ whose kernels are averaged.
        estimator: ``"v"`` or ``"u"``.
        student_weight: Masses ``(n_r,)`` of the global batch, default ``1/n``; without gradients.
        teacher_weight: Masses of the teacher's rows.
        degree: Degree of the polynomial kernel.
        gamma: Its factor, ``None`` for ``1/d``.
        coef: Its constant.
        detach_teacher: No gradient to the teacher's rows.
        check_finite: Name NaN or infinite features.

    Returns:
        A 0-d tensor, the same on every rank.

    Raises:
        TypeError, ValueError: Arguments that are not accepted, on every rank.

    Source: Gretton et al. 2012, eq. 3 and 5.
    """
    if detach_teacher and isinstance(teacher, Tensor):
        teacher = teacher.detach()
    same = dict(
        function="sharded_mmd_align", kernel=kernel, bandwidth=bandwidth, scales=scales,
        estimator=estimator, degree=degree, gamma=gamma, coef=coef,
    )  # fmt: skip
    weights = student_weight, teacher_weight
    shared = shares(group, (student, teacher), weights, (None, None), same, check_finite)
    # All ranks have come with the same options: an error is raised on each.
    _check.one_of(estimator, ("v", "u"), "estimator")
    shape = kernel_of(kernel, scales, student.shape[-1], degree, gamma, coef)
    if isinstance(bandwidth, str):
        _check.one_of(bandwidth, RULES, "bandwidth")
    elif isinstance(bandwidth, Tensor):
        raise TypeError("bandwidth must be a number or a word here; got a tensor")
    else:
        _check.number(bandwidth, "bandwidth", torch.empty(0), 1, minimum=0.0, strict=True)

    def work(
        x: Tensor, y: Tensor, to_x: bool, to_y: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        x, y = x.to(shared.dtype), y.to(shared.dtype)
        sigma = 1.0
        if shape.has_bandwidth:
            rule = {"median": median_bandwidth, "mean": mean_bandwidth}
            sigma = rule[bandwidth](x, y, shared) if isinstance(bandwidth, str) else bandwidth
        pair = _Pairs(shape, torch.tensor(sigma, dtype=shared.dtype, device=x.device), estimator)
        return pair.both(shared, x, y, to_x, to_y)

    return value_of(student, teacher, work, shared.ranks)


class _Pairs(NamedTuple):
    """A kernel with its bandwidth, and whether a row meets itself."""

    kernel: Kernel
    sigma: Tensor
    estimator: str

    def both(
        self, shared: Shares, x: Tensor, y: Tensor, to_x: bool, to_y: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Value, and the gradients to this rank's rows."""
        ranks, _, s, t = shared
        if self.kernel.invariant:
            centre = ranks.add(y.double().sum(0)) / sum(t.sizes)
            x, y = x - centre.to(x.dtype), y - centre.to(y.dtype)
        rings = Ring(x, ranks, s.sizes), Ring(y, ranks, t.sizes)
        own_x, slope_x = self._one(x, s, rings[0], s, to_x, True)
        own_y, slope_y = self._one(y, t, rings[1], t, to_y, True)
        cross, pull_x = self._one(x, s, rings[1], t, to_x, False)
        within = [self._correction(side, ranks) for side in (s, t)]
        value = total(within[0] * own_x + within[1] * own_y - 2 * cross, ranks)
        to_student = 2 * (within[0] * slope_x - pull_x) if to_x else None
        to_teacher = None
        if to_y:
            _, pull_y = self._one(y, t, rings[0], s, True, False)
            to_teacher = 2 * (within[1] * slope_y - pull_y)
        return torch.tensor(value, dtype=x.dtype, device=x.device), to_student, to_teacher

    def _correction(self, side: Side, ranks: Ranks) -> float:
        """The multiplier of the U-statistic, 0 without pairs."""
        if self.estimator == "v":
            return 1.0
        square = total(side.own.double().square().sum(), ranks)
        rest = side.total**2 - square
        return side.total**2 / rest if rest > 1e-14 * side.total**2 else 0.0

    def _one(
        self, x: Tensor, rows_of: Side, ring: Ring, columns_of: Side, wanted: bool, within: bool
    ) -> tuple[Tensor, Tensor]:
        """This rank's part of :math:`a^\\top Kb`, and its gradient to the rows: one turn."""
        kernel = self.kernel
        value, slope = x.new_zeros((), dtype=torch.float64), torch.zeros_like(x)
        a = rows_of.own
        for block in ring.turn():
            y, b = block.points, columns_of.all[block.rows]
            step = max(1, TILE // len(y))
            for first in range(0, len(x), step):
                rows = slice(first, min(first + step, len(x)))
                given = self._argument(x[rows], y)
                weights = a[rows, None] * b
                if within and block.owner == ring.ranks.rank:
                    same = torch.arange(first, rows.stop, device=x.device)
                    if kernel.invariant:
                        given[same - first, same] = 0.0
                    if self.estimator == "u":
                        weights[same - first, same] = 0.0
                value += (weights * kernel_value(kernel, given, self.sigma)).sum().double()
                if wanted:
                    weights *= kernel_slope(kernel, given, self.sigma)
                    toward = weights @ y
                    if kernel.invariant:
                        slope[rows] += toward - weights.sum(-1, keepdim=True) * x[rows]
                    else:
                        slope[rows] += toward
        return value, slope

    def _argument(self, x: Tensor, y: Tensor) -> Tensor:
        if not self.kernel.invariant:
            return x @ y.T
        if self.kernel.name in ("energy", "laplace"):  # a root of a small difference
            return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square_()
        return squares(x, y)
