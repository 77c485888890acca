r"""Potentials at points that were not solved for: the canonical extension, and a bank of points.

An entropic potential is known everywhere once it is known at the other side's points,

.. math::
    g(y) = -\tau\,\varepsilon\log\sum_i a_i\,e^{(f_i - c(x_i, y))/\varepsilon},
    \qquad \tau = \frac{\rho}{\rho+\varepsilon}

(τ = 1 without a reach), which gives a start for a minibatch never seen before.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from ucmkd import _backend, reference
from ucmkd.ops import _check
from ucmkd.ops._check import Number
from ucmkd.ops._pack import pack
from ucmkd.ops._solve import as_numpy


def extend_potential(
    x: Tensor,
    x_potential: Tensor,
    y: Tensor,
    *,
    epsilon: Number,
    cost: str = "sqeuclidean",
    x_weight: Tensor | None = None,
    reach: Number | None = None,
    x_label: Tensor | None = None,
    y_label: Tensor | None = None,
    label_cost: Number = 0.0,
) -> Tensor:
    r"""The y-potential that belongs to an x-potential, at any points ``y``.

    .. math::
        g(y) = -\tau\,\varepsilon\log\sum_i a_i\,e^{(f_i - C(x_i,y))/\varepsilon},\qquad
        C(x_i,y) = c(x_i, y) + \lambda\,[k_i\neq l]

    At the points of a converged solve it gives back ``y_potential``; elsewhere it is the
    canonical out-of-sample extension, whose gradient is the entropic map. Swap the two clouds
    to extend a y-potential. Differentiable to every tensor; where no gradient is asked for, points
    on a GPU take O((n + m) d) memory, else O(nm).

    Args:
        x: Points ``(n, d)`` or ``(B, n, d)``.
        x_potential: ``(n,)`` or ``(B, n)``, at ``x``.
        y: Where the potential is wanted, ``(m, d)`` or ``(B, m, d)``.
        epsilon: Regularisation ε > 0, absolute.
        cost: As in :func:`ucmkd.ops.sinkhorn`.
        x_weight: Masses ``(n,)`` or ``(B, n)``, default ``1/n``.
        reach: ρ of the y-side, τ = ρ/(ρ+ε); None is strict, τ = 1.
        x_label: Integer labels ``(n,)`` or ``(B, n)``.
        y_label: Labels of ``y``.
        label_cost: λ ≥ 0.

    Returns:
        ``(m,)`` or ``(B, m)``, in float32 or better.

    Raises:
        TypeError: A tensor of the wrong kind.
        ValueError: Shapes, weights, ε or names that are not accepted.

    Source: Pooladian, Niles-Weed 2021 (arXiv 2109.12004), eq. 8.
    """
    _check.pair(x, y, "x", "y")
    _check.one_of(cost, reference.COSTS, "cost")
    single = x.dim() == 2
    if single:
        x, y = x.unsqueeze(0), y.unsqueeze(0)
    batch, n, _ = x.shape
    m = y.shape[1]
    dtype = _check.compute_dtype(x, y)
    if x_potential is None:
        raise TypeError("x_potential must be a floating torch.Tensor; got None")
    _check.potential(x_potential, (batch, n), "x_potential", x, dtype)
    a = _check.weight(x_weight, (batch, n), "x_weight", x)
    k = _check.label(x_label, (batch, n), "x_label", x)
    l = _check.label(y_label, (batch, m), "y_label", x)  # noqa: E741
    if (k is None) != (l is None):
        missing = "x_label" if k is None else "y_label"
        raise ValueError(f"{missing} must be given too: the label cost needs both sides' labels")
    numbers = [
        _check.number(epsilon, "epsilon", x, batch, minimum=0.0, strict=True),
        _check.reaches(reach, x, batch)[0],
        _check.number(label_cost, "label_cost", x, batch, minimum=0.0, strict=False),
    ]
    eps, rho, lam = pack(numbers, x, batch).to(dtype)
    g = softmin(
        x.to(dtype), x_potential.to(dtype).expand(batch, n), y.to(dtype), eps, cost=cost,
        weight=None if a is None else a.to(dtype), reach=rho, x_label=k, y_label=l, label_cost=lam,
    )  # fmt: skip
    return g.squeeze(0) if single else g


def softmin(
    x: Tensor,
    f: Tensor,
    y: Tensor,
    epsilon: Tensor,
    *,
    cost: str,
    weight: Tensor | None,
    reach: Tensor,
    x_label: Tensor | None,
    y_label: Tensor | None,
    label_cost: Tensor,
) -> Tensor:
    """:func:`extend_potential` for checked, batched inputs.

    Without a gradient the Triton backend streams it, in O((n + m) d) memory; else it holds the
    matrix ``(B, n, m)``.
    """
    inputs = (x, f, y, epsilon, weight, reach, label_cost)
    if not (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)):
        chosen = "torch"
        if not torch.compiler.is_compiling():
            chosen = _backend.choose("auto", y.device, y.dtype)
        if chosen == "triton":
            from ucmkd.ops import _triton_plan

            return _triton_plan.softmin(
                x, f, y, epsilon=epsilon, cost=cost, weight=weight, reach=reach,
                labels=(x_label, y_label), label_cost=label_cost,
            )  # fmt: skip
    with torch.autocast(x.device.type, enabled=False):  # which would round the product to bf16
        matrix = _costs(x, y, cost, weight)
    different = reference.label_matrix(x_label, y_label)
    if different is not None:
        matrix = matrix + label_cost[:, None, None] * different
    mass = x.new_full((1, 1), 1 / x.shape[1]) if weight is None else weight
    score = (f.unsqueeze(-1) - matrix) / epsilon[:, None, None] + mass.log().unsqueeze(-1)
    tau = reference.damping(epsilon, reach)
    return -(tau * epsilon).unsqueeze(-1) * torch.logsumexp(score, -2)


def _costs(x: Tensor, y: Tensor, cost: str, weight: Tensor | None) -> Tensor:
    """The cost matrix by one matrix product: no ``(n, m, d)`` differences, which a bank is for.

    ``weight (B, n)``: a masked point of x may lie anywhere; its row is then worth nothing.
    """
    if cost == "l1":
        return torch.cdist(x, y, p=1.0)
    if cost in ("cosine", "chordal"):
        x, y = reference.normalise(x), reference.normalise(y)
    centre = reference.centre_of(x.detach(), None if weight is None else weight > 0)
    x, y = x - centre, y - centre
    norms = x.square().sum(-1).unsqueeze(-1) + y.square().sum(-1).unsqueeze(-2)
    square = torch.baddbmm(norms, x, y.transpose(-1, -2), alpha=-2)
    if cost in ("sqeuclidean", "cosine"):
        square = square.clamp(min=0)
        return square / 2 if cost == "cosine" else square
    apart = square > 0
    return torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0)


class PointBank:
    """The last minibatches with their potentials, at most ``capacity`` points (one at least).

    It holds copies, in the memory's order of arrival; ``potential`` extends to new points.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._batches: deque[tuple[Tensor | None, ...]] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def clear(self) -> None:
        """Forgets all points."""
        self._batches.clear()
        self._count = 0

    def add(self, x: Tensor, f: Tensor, weight: Tensor | None, label: Tensor | None) -> None:
        """Stores a minibatch ``(B, n, d)``; one that does not fit those stored replaces them."""
        fresh = tuple(None if t is None else t.detach().clone() for t in (x, f, weight, label))
        if self._batches and not _alike(self._batches[-1], fresh):
            self.clear()
        self._batches.append(fresh)
        self._count += x.shape[1]
        while len(self._batches) > 1 and self._count > self.capacity:
            oldest = self._batches.popleft()[0]
            self._count -= 0 if oldest is None else oldest.shape[1]

    def potential(
        self, y: Tensor, label: Tensor | None, epsilon: Tensor, reach: Tensor, label_cost: Tensor,
        cost: str,
    ) -> Tensor | None:  # fmt: skip
        """``g(y)`` for points ``(B, m, d)``, or None where nothing stored fits them."""
        if not self._batches:
            return None
        last = self._batches[-1]
        x, k = last[0], last[3]
        if x is None or x.shape[::2] != y.shape[::2] or x.dtype != y.dtype or x.device != y.device:
            return None
        if (k is None) != (label is None):
            return None
        points, f, weight, labels = (
            None if parts[0] is None else torch.cat([p for p in parts if p is not None], 1)
            for parts in zip(*self._batches, strict=True)
        )
        assert points is not None and f is not None
        if weight is not None:
            weight = weight / len(self._batches)
        if _backend.choose("auto", y.device, y.dtype) == "rust":
            g = _backend.rust().softmin(
                as_numpy(points), as_numpy(y), as_numpy(f), as_numpy(weight), as_numpy(labels),
                as_numpy(label), None, as_numpy(epsilon), as_numpy(label_cost), cost,
                torch.get_num_threads(),
            )  # fmt: skip
            tau = reference.damping(epsilon, reach).to(y.dtype)
            return tau.unsqueeze(-1) * torch.from_numpy(g)
        with torch.no_grad():
            return softmin(
                points, f, y, epsilon.to(y.dtype), cost=cost, weight=weight,
                reach=reach.to(y.dtype), x_label=labels, y_label=label,
                label_cost=label_cost.to(y.dtype),
            )  # fmt: skip

    def to(self, device: torch.device | str) -> None:
        """Moves the points."""
        self._batches = deque(
            tuple(None if t is None else t.to(device) for t in batch) for batch in self._batches
        )


def _alike(one: tuple[Tensor | None, ...], two: tuple[Tensor | None, ...]) -> bool:
    """Whether two minibatches can be joined along their points."""
    for s, t in zip(one, two, strict=True):
        if (s is None) != (t is None):
            return False
        if s is not None and t is not None:
            if s.shape[0] != t.shape[0] or s.shape[2:] != t.shape[2:]:
                return False
            if s.dtype != t.dtype or s.device != t.device:
                return False
    return True
