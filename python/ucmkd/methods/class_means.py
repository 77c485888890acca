"""Means over the teacher's samples of each class, gathered batch by batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunningClassMeans(nn.Module):
    """Means ``(C, d)`` over all samples seen so far, by class.

    The teacher is frozen and its outputs are cached, so the plain mean of what was seen converges
    to the mean over its samples, and no forgetting is needed. Part of the method's state: a
    resumed training goes on with the same means.

    Args:
        num_classes: C.
        width: d.
    """

    total: Tensor
    count: Tensor

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(num_classes, width))
        self.register_buffer("count", torch.zeros(num_classes, dtype=torch.long))

    @torch.no_grad()
    def update(self, values: Tensor, label: Tensor) -> None:
        """Add samples ``(m, d)`` of classes ``(m,)``."""
        self.total.index_add_(0, label, values.detach().to(self.total.dtype))
        self.count += torch.bincount(label, minlength=len(self.count))

    def means(self) -> Tensor:
        """``(C, d)``; 0 for a class without a sample."""
        return self.total / self.count.clamp_min(1)[:, None]

    def seen(self) -> Tensor:
        """Whether a class has a sample yet, ``(C,)``."""
        return self.count > 0
