"""What ReviewKD is made of: fusion with deeper stages by attention, a pyramid of distances."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ucmkd.losses._common import wide

#: Side lengths of the pooled maps, coarser and coarser.
LEVELS = (4, 2, 1)


def hierarchical_context_loss(fused: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean squares over a pyramid: :math:`\sum_l w_l\,\mathrm{MSE}_l / \sum_l w_l`.

    :math:`\mathrm{MSE}_0` is that of the maps themselves, :math:`w_0 = 1`; then that of both,
    averaged to 4 × 4, 2 × 2 and 1 × 1, each with half the weight of the one before. A level that is
    not smaller than the map's height is left out. Of vectors there is one level, the mean square.

    Args:
        fused: Maps ``(n, c, h, w)`` or vectors ``(n, d)`` of the student.
        teacher: The same of the teacher; detached.

    Raises:
        ValueError: Shapes that differ, or neither maps nor vectors.
    """
    if fused.shape != teacher.shape or fused.ndim not in (2, 4):
        raise ValueError(
            "fused and teacher must be maps (n, c, h, w) or vectors (n, d) of one shape, got "
            f"{tuple(fused.shape)} and {tuple(teacher.shape)}"
        )
    fused, teacher = wide(fused), wide(teacher.detach(), fused)
    loss, weight, total = F.mse_loss(fused, teacher), 1.0, 1.0
    for level in LEVELS if fused.ndim == 4 else ():
        if level < fused.shape[2]:
            mine, theirs = (F.adaptive_avg_pool2d(x, level) for x in (fused, teacher))
            weight /= 2
            loss, total = loss + weight * F.mse_loss(mine, theirs), total + weight
    return loss / total


class AttentionFusion(nn.Module):
    r"""One stage of the student, fused with what comes from the deeper ones.

    :math:`r = a_1 \odot Wx + a_2 \odot r_{+}` with :math:`a = \sigma(A\,[Wx, r_{+}])`, two numbers
    per place, and the output :math:`Vr` to be compared with the teacher's stage; r goes on to the
    stage before. W and A are 1 × 1 convolutions and V a 3 × 3 one; on vectors all are linear
    layers. The deepest stage has nothing to fuse: r = Wx.

    Args:
        channels: Of the student's stage x.
        mid: Of r.
        teacher_channels: Of the teacher's stage.
        maps: Whether stages are maps ``(n, channels, h, w)`` and not vectors ``(n, channels)``.
        deepest: Whether there is nothing to fuse.
    """

    def __init__(
        self, channels: int, mid: int, teacher_channels: int, *, maps: bool, deepest: bool
    ) -> None:
        super().__init__()

        def layer(a: int, b: int, size: int) -> nn.Module:
            return nn.Conv2d(a, b, size, padding=size // 2) if maps else nn.Linear(a, b)

        self.reduce = layer(channels, mid, 1)
        self.attention = None if deepest else layer(2 * mid, 2, 1)
        self.expand = layer(mid, teacher_channels, 3)

    def forward(
        self, stage: Tensor, deeper: Tensor | None, size: torch.Size
    ) -> tuple[Tensor, Tensor]:
        """The output at the teacher's resolution, and r.

        Args:
            stage: x.
            deeper: r of the next deeper stage; None at the deepest.
            size: Height and width of the teacher's stage; empty of vectors.
        """
        mixed = self.reduce(stage)
        if self.attention is not None and deeper is not None:
            deeper = _resized(deeper, mixed.shape[2:])
            gate = self.attention(torch.cat((mixed, deeper), dim=1)).sigmoid()
            mixed = gate[:, :1] * mixed + gate[:, 1:] * deeper
        return self.expand(_resized(mixed, size)), mixed


def _resized(maps: Tensor, size: torch.Size) -> Tensor:
    return maps if maps.shape[2:] == size else F.interpolate(maps, tuple(size), mode="nearest")
