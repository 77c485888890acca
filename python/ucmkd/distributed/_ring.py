"""Rows that stay where they are, and blocks of rows that pass by every rank.

One turn of the ring shows every rank all rows of a cloud, at most two ranks' share at a time: the
block at hand is worked on while the next one comes from the rank before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor

from ucmkd.distributed._group import Ranks


class Block(NamedTuple):
    """The rows of one rank."""

    owner: int
    rows: slice  # their places among the rows of all ranks
    points: Tensor


class Ring:
    """A cloud in shares ``(n_r, d)``, one of each rank.

    Attributes:
        own: This rank's share.
        sizes: Rows of every rank.
        total: Rows of all ranks.
        sent: Bytes of points that this rank has sent so far.
    """

    def __init__(self, own: Tensor, ranks: Ranks, sizes: tuple[int, ...]) -> None:
        self.own, self.ranks, self.sizes = own.detach().contiguous(), ranks, sizes
        self.total = sum(sizes)
        self.sent = 0

    def rows(self, owner: int) -> slice:
        """Where a rank's rows are among all."""
        first = sum(self.sizes[:owner])
        return slice(first, first + self.sizes[owner])

    @property
    def mine(self) -> slice:
        """Where this rank's rows are among all."""
        return self.rows(self.ranks.rank)

    def turn(self) -> Iterator[Block]:
        """The blocks of all ranks, this rank's own first, empty ones left out."""
        ranks, size = self.ranks, self.ranks.size
        held = self.own
        for step in range(size):
            owner = (ranks.rank - step) % size
            waiting, coming = [], held
            if step + 1 < size:
                coming = held.new_empty(self.sizes[(owner - 1) % size], held.shape[1])
                waiting = self._pass_on(held, coming)
            if len(held):
                yield Block(owner, self.rows(owner), held)
            for work in waiting:
                work.wait()
            held = coming

    def _pass_on(self, held: Tensor, coming: Tensor) -> list[dist.Work]:
        """Starts to send to the next rank and to receive from the one before."""
        group: Any = self.ranks.group
        world: Any = dist.group.WORLD if group is None else group
        there, here = (
            dist.get_global_rank(world, (self.ranks.rank + step) % self.ranks.size)
            for step in (1, -1)
        )
        jobs = []
        if len(held):
            jobs.append(dist.P2POp(dist.isend, held, there, group))
            self.sent += held.numel() * held.element_size()
        if len(coming):
            jobs.append(dist.P2POp(dist.irecv, coming, here, group))
        return dist.batch_isend_irecv(jobs) if jobs else []
