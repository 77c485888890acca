"""The process group of an alignment: which ranks, and on which device they talk."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

#: ``"world"`` is the default group by name: unlike a group itself it can be pickled and copied.
Group = Any | Literal["world"] | None


class Ranks:
    """A checked process group: its size, this process's place, and its collectives."""

    def __init__(self, group: Group) -> None:
        if not dist.is_available():
            raise ValueError("group must be None: this build of PyTorch has no torch.distributed")
        world = isinstance(group, str) and group == "world"
        outside = "group does not contain this process"
        if not world and group is dist.GroupMember.NON_GROUP_MEMBER:
            raise ValueError(f"{outside} (rank {dist.get_rank()})")
        if not world and not isinstance(group, dist.ProcessGroup):
            raise TypeError(
                "group must be None, 'world' or a torch.distributed process group; "
                f"got {group!r}"
            )  # fmt: skip
        if not dist.is_initialized():
            raise ValueError(
                f"group={group!r} needs torch.distributed: call init_process_group first (torchrun "
                "starts the processes), or give group=None for the local batch"
            )
        chosen: Any = None if world else group
        self.group = chosen
        self.rank, self.size = dist.get_rank(chosen), dist.get_world_size(chosen)
        if self.rank < 0:
            raise ValueError(f"{outside} (rank {dist.get_rank()})")

    @property
    def device(self) -> torch.device:
        """Where small messages lie."""
        if "nccl" in str(dist.get_backend(self.group)):
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")

    def gather(self, part: Tensor) -> list[Tensor]:
        """A tensor of one shape from every rank, of any type (it travels as bytes)."""
        sent = part.detach().contiguous()
        raw = sent.reshape(-1).view(torch.uint8)
        found = [torch.empty_like(raw) for _ in range(self.size)]
        dist.all_gather(found, raw, group=self.group)
        return [f.view(sent.dtype).reshape(sent.shape) for f in found]

    def gather_rows(self, part: Tensor, sizes: tuple[int, ...], dim: int) -> list[Tensor]:
        """The parts of all ranks, of ``sizes`` rows in dimension ``dim``."""
        rows = part.detach().movedim(dim, 0).contiguous()
        most = max(sizes)
        if rows.shape[0] < most:
            rows = torch.cat([rows, rows.new_zeros(most - rows.shape[0], *rows.shape[1:])])
        found = self.gather(rows)
        return [f[:size].movedim(0, dim) for f, size in zip(found, sizes, strict=True)]

    def objects(self, value: object) -> list[Any]:
        """A small object from every rank, by rank; for errors, not for the usual path."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.group)
        return found

    def add(self, value: Tensor) -> Tensor:
        """The sum over the ranks, in place."""
        dist.all_reduce(value, group=self.group)
        return value

    def largest(self, value: Tensor) -> Tensor:
        """The maximum over the ranks, in place."""
        dist.all_reduce(value, op=dist.ReduceOp.MAX, group=self.group)
        return value
