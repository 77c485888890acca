"""What makes MoCo: an encoder that follows slowly, and the keys of earlier batches."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def follower(module: nn.Module) -> nn.Module:
    """A copy that no gradient reaches; :func:`follow` moves it.

    Args:
        module: Left as it is.
    """
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, momentum: float) -> None:
    """``slow <- m slow + (1 - m) fast`` for every parameter.

    Args:
        slow: Changed in place.
        fast: Of the same parameters.
        momentum: m in [0, 1].
    """
    for own, other in zip(slow.parameters(), fast.parameters(), strict=True):
        own.lerp_(other, 1 - momentum)


class Queues(nn.Module):
    """The last K keys of S streams, first in first out, aligned: column k is one sample in all.

    They start as random directions.

    Args:
        streams: S.
        size: K.
        width: d, of a key.
        generator: Random numbers for the start; None: torch's own.

    Raises:
        ValueError: A size below 1.
    """

    keys: Tensor
    place: Tensor

    def __init__(
        self, streams: int, size: int, width: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        for name, value in (("streams", streams), ("size", size), ("width", width)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        start = torch.randn(streams, size, width, generator=generator)
        self.register_buffer("keys", F.normalize(start, dim=-1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def similarity(self, vectors: Tensor) -> Tensor:
        """Inner products ``(S, n, K)`` with each stream's own keys.

        Args:
            vectors: ``(S, n, d)``.
        """
        return vectors @ self.keys.transpose(1, 2)

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Put the keys of one batch in the place of the oldest.

        Args:
            keys: ``(S, n, d)``.

        Raises:
            ValueError: Another shape, or more than K.
        """
        streams, size, width = self.keys.shape
        if keys.ndim != 3 or (keys.shape[0], keys.shape[2]) != (streams, width):
            raise ValueError(f"keys must be ({streams}, n, {width}), got {tuple(keys.shape)}")
        if keys.shape[1] > size:
            raise ValueError(f"a queue of {size} keys cannot take {keys.shape[1]} at once")
        column = (self.place + torch.arange(keys.shape[1], device=keys.device)) % size
        # Not in place: the gradient of this step still needs the queue as it was.
        self.keys = self.keys.index_copy(1, column, keys)
        self.place = (self.place + keys.shape[1]) % size
