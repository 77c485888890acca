"""Batches of two sets whose samples are known to correspond in groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ucmkd.data.loaders import check_state, checked_order, make_generator

#: Of a group larger than a batch, a batch takes so small a share that it has several groups.
_SHARE = 4


class GroupSampler:
    """Draws whole groups from two sets at once, without end.

    Each pass goes through all blocks of the first set in a fresh order: a block is a group that
    both sets have, or a single sample of no such group. A batch takes blocks until it has
    `sizes[0]` samples of the first set, and from the second set all samples of the same groups, so
    that whoever corresponds is there. Of a group larger than a batch it takes a random part, a
    quarter of a batch (more where there are fewer than four groups). Beside samples
    of no group in the batch stand as large a share of those of the second set; where it has none,
    of all of it, for a sample of unknown group may belong to anyone.

    Args:
        first: `(u,)` groups of the first set, int64; -1 where not known.
        second: `(m,)` groups of the second set.
        sizes: Samples per batch of the two sets; exceeded by less than one group.
        generator: Seed, or a generator on the CPU (then shared with its other users).

    Raises:
        ValueError: A size below 1.
        TypeError: `generator` is neither an int nor a `torch.Generator`.
    """

    def __init__(
        self,
        first: Tensor,
        second: Tensor,
        sizes: tuple[int, int],
        generator: int | torch.Generator,
    ) -> None:
        for name, value in zip(("first", "second"), sizes, strict=True):
            if value < 1:
                raise ValueError(
                    f"the batch size of the {name} set must be at least 1, got {value}"
                )
        self.sizes = (min(sizes[0], len(first)), sizes[1])
        self.generator = make_generator(generator)
        first, second = first.cpu(), second.cpu()
        shared = torch.unique(first[(first >= 0) & torch.isin(first, second)])
        self._first = [torch.nonzero(first == g).reshape(-1) for g in shared]
        self._second = [torch.nonzero(second == g).reshape(-1) for g in shared]
        self._loose_first = torch.nonzero(~torch.isin(first, shared)).reshape(-1)
        self._loose_second = torch.nonzero(~torch.isin(second, shared)).reshape(-1)
        self._size_second = len(second)
        self.blocks = len(shared) + len(self._loose_first)
        self._order = torch.empty(0, dtype=torch.int64)
        self._cursor = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        """Indices into the first and into the second set."""
        first: list[Tensor] = []
        second: list[Tensor] = []
        count = loose = 0
        seen: set[int] = set()
        while count < self.sizes[0] and len(seen) < self.blocks:
            block = self._next_block(seen)
            seen.add(block)
            if block < len(self._first):
                first.append(self._part(self._first[block], self.sizes[0]))
                second.append(self._part(self._second[block], self.sizes[1]))
            else:
                first.append(self._loose_first[block - len(self._first)].reshape(1))
                loose += 1
            count += len(first[-1])
        if loose:
            wanted = max(1, round(self.sizes[1] * loose / count))
            rest = self._loose_second if len(self._loose_second) else self._without(second)
            order = torch.randperm(len(rest), generator=self.generator)
            second.append(rest[order[:wanted]])
        return torch.cat(first), torch.cat(second)

    def _without(self, drawn: list[Tensor]) -> Tensor:
        """All of the second set but what the batch has already."""
        left = torch.ones(self._size_second, dtype=torch.bool)
        for rows in drawn:
            left[rows] = False
        return torch.nonzero(left).reshape(-1)

    def _next_block(self, seen: set[int]) -> int:
        if self._cursor == len(self._order):
            order = torch.randperm(self.blocks, generator=self.generator)
            # A batch across two passes has no sample twice: what it has comes last in the second.
            had = torch.tensor([int(block) in seen for block in order])
            self._order = torch.cat((order[~had], order[had]))
            self._cursor = 0
        self._cursor += 1
        return int(self._order[self._cursor - 1])

    def _part(self, rows: Tensor, size: int) -> Tensor:
        if len(rows) <= size:
            return rows
        most = max(1, -(-size // min(_SHARE, self.blocks)))
        return rows[torch.randperm(len(rows), generator=self.generator)[:most]]

    def state_dict(self) -> dict[str, Any]:
        """Everything the coming batches depend on; safe to pickle."""
        return {
            "blocks": self.blocks,
            "sizes": self.sizes,
            "order": self._order.clone(),
            "cursor": self._cursor,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: The state belongs to other groups or batch sizes.
        """
        sizes = tuple(state.get("sizes", ()))
        check_state({**state, "sizes": sizes}, blocks=self.blocks, sizes=self.sizes)
        self._order, self._cursor = checked_order(state, self.blocks)
        self.generator.set_state(state["generator"])
