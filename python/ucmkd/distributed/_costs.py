"""Costs between a rank's rows and a passing block, and what a plan does to the rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ucmkd.distributed._ring import Block, Ring
from ucmkd.reference import normalise

_DIRECT = "donot_use_mm_for_euclid_dist"
#: Most entries of a matrix that is held at a time.
TILE = 2**22


class Costs:
    """:math:`c(x_i, y_j)` (+ the label cost) in tiles of this rank's rows times a block's.

    Args:
        rows: This rank's points ``(n_r, d)``, as the cost sees them.
        ring: The other side.
        cost: The name.
        labels: Labels of this rank's rows and of all columns, or None.
        label_cost: λ where labels differ, or distances ``(K, L)``.
        keep: Hold this rank's rows of the cost matrix ``(n_r, m)``: nothing passes by again.
    """

    def __init__(
        self,
        rows: Tensor,
        ring: Ring,
        cost: str,
        labels: tuple[Tensor, Tensor] | None = None,
        label_cost: float | Tensor = 0.0,
        keep: bool = False,
    ) -> None:
        self.x, self.ring, self.cost = rows, ring, cost
        self.labels, self.label_cost = labels, label_cost
        self._kept: list[tuple[slice, slice, Tensor]] | None = None
        self._keep = keep

    def blocks(self) -> Iterator[tuple[slice, Block]]:
        """One turn: some of this rank's rows, and a block."""
        for block in self.ring.turn():
            step = max(1, TILE // len(block.points))
            for first in range(0, len(self.x), step):
                yield slice(first, min(first + step, len(self.x))), block

    def tiles(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """The whole cost: rows of this rank, columns among all, and the tile of the two."""
        if self._kept is not None:
            yield from self._kept
            return
        kept = []
        for rows, block in self.blocks():
            matrix = self.tile(rows, block)
            if self._keep:
                kept.append((rows, block.rows, matrix))
            yield rows, block.rows, matrix
        if self._keep:
            self._kept = kept

    def tile(self, rows: slice, block: Block) -> Tensor:
        """The whole cost of a tile."""
        matrix = features(self.cost, self.x[rows], block.points)
        if self.labels is not None:
            k, l = self.labels[0][rows], self.labels[1][block.rows]  # noqa: E741
            if isinstance(self.label_cost, Tensor):
                matrix += self.label_cost[k[:, None], l[None, :]].to(matrix.dtype)
            else:
                matrix += self.label_cost * (k[:, None] != l[None, :]).to(matrix.dtype)
        return matrix


def features(cost: str, x: Tensor, y: Tensor) -> Tensor:
    """The costs ``(n, m)`` of points as the cost sees them, in a new tensor."""
    if cost == "l1":
        return torch.cdist(x, y, p=1.0)
    if cost in ("euclidean", "chordal"):
        return torch.cdist(x, y, compute_mode=_DIRECT)
    square = squares(x, y)
    return square.mul_(0.5) if cost == "cosine" else square


def squares(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances ``(n, m)`` by one product of matrices; the points are near the origin."""
    norms = x.square().sum(-1, keepdim=True) + y.square().sum(-1)
    return torch.addmm(norms, x, y.T, alpha=-2).clamp_(min=0)


def pull(cost: str, x: Tensor, y: Tensor, plan: Tensor) -> Tensor:
    """:math:`\\sum_j P_{ij}\\,\\partial_{x_i}c(x_i,y_j)` for points as the cost sees them."""
    if cost == "l1":
        columns = [
            (plan * torch.sign(x[:, k, None] - y[None, :, k])).sum(-1) for k in range(x.shape[1])
        ]
        return torch.stack(columns, -1)
    if cost in ("euclidean", "chordal"):
        distance = torch.cdist(x, y, compute_mode=_DIRECT)
        apart = distance > 0
        weight = torch.where(apart, plan / torch.where(apart, distance, 1.0), 0.0)
    else:
        weight = plan if cost == "cosine" else 2 * plan
    return weight.sum(-1, keepdim=True) * x - weight @ y


def seen(points: Tensor, cost: str, centre: Tensor) -> Tensor:
    """The points as the cost sees them: of length 1, or relative to a common centre."""
    return normalise(points) if cost in ("cosine", "chordal") else points - centre


def unseen(gradient: Tensor, points: Tensor, cost: str) -> Tensor:
    """The gradient to the points from that to what the cost sees of them."""
    if cost not in ("cosine", "chordal"):
        return gradient
    square = (points * points).sum(-1, keepdim=True)
    unit = normalise(points)
    tangent = gradient - (gradient * unit).sum(-1, keepdim=True) * unit
    some = square > 0
    return torch.where(some, tangent / torch.where(some, square, 1.0).sqrt(), 0.0)
