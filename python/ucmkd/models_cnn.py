"""A small convolutional network whose stages can be compared with those of a deeper one."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from ucmkd.methods import checks
from ucmkd.models import Student


class Stages(NamedTuple):
    """What one pass of :class:`SmallCNN` leaves behind.

    Attributes:
        maps: ``(n, channels[k], h / 2^k, w / 2^k)`` of each stage, before its pooling.
        features: ``(n, width)``: the last maps, pooled and flattened.
        logits: ``(n, C)``.
    """

    maps: tuple[Tensor, ...]
    features: Tensor
    logits: Tensor


def stage(
    channels_in: int, channels: int, *, depth: int = 1, inner: int | None = None
) -> nn.Module:
    """``depth`` convolutions of 3×3 with ReLU; all but the last have ``inner`` channels.

    Args:
        channels_in: Channels of the input.
        channels: Channels of the output.
        depth: Number of convolutions, ≥ 1.
        inner: Channels in between; None: ``channels``.
    """
    widths = [channels_in, *[inner or channels] * (depth - 1), channels]
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


class SmallCNN(Student):
    """Stages of convolutions, each followed by 2×2 max-pooling, and one linear layer.

    The maps of a stage have the shape that ``channels`` gives, whatever ``depth`` and ``inner``: a
    deep and wide teacher and a shallow student of the same ``channels`` can be compared stage by
    stage (:func:`ucmkd.losses.attention_loss`, :func:`ucmkd.losses.fsp_loss`). There is no
    normalisation and no dropout: evaluation and training are the same function.

    Args:
        num_classes: C.
        in_channels: Of the images.
        size: Height and width of the images, divisible by 2 once for each stage.
        channels: Of each stage.
        depth: Convolutions of each stage.
        inner: Channels inside a stage; None: those of the stage.

    Raises:
        TypeError: A size that is no integer.
        ValueError: A size below one, no stage, or a ``size`` that does not halve so often.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 1,
        size: int = 8,
        channels: tuple[int, ...] = (8, 16),
        depth: int = 1,
        inner: int | None = None,
    ) -> None:
        super().__init__()
        sizes = {"num_classes": num_classes, "in_channels": in_channels, "size": size,
                 "depth": depth}  # fmt: skip
        sizes |= {f"channels[{k}]": value for k, value in enumerate(channels)}
        if inner is not None:
            sizes["inner"] = inner
        for name, value in sizes.items():
            checks.integer(name, value, minimum=1)
        if not channels:
            raise ValueError("channels must name at least one stage, got ()")
        if size % 2 ** len(channels):
            raise ValueError(
                f"size must be divisible by {2 ** len(channels)} for {len(channels)} stages, "
                f"got {size}"
            )
        self.channels, self.size = tuple(channels), size
        widths = [in_channels, *channels]
        self.blocks = nn.ModuleList(
            stage(a, b, depth=depth, inner=inner) for a, b in pairwise(widths)
        )
        self.width = channels[-1] * (size // 2 ** len(channels)) ** 2
        self.head = nn.Linear(self.width, num_classes)

    def through(self, inputs: Tensor) -> Stages:
        """Maps of every stage, features and logits of images ``(n, in_channels, size, size)``."""
        maps: list[Tensor] = []
        x = inputs
        for layer in self.blocks:
            maps.append(layer(x))
            x = F.max_pool2d(maps[-1], 2)
        features = x.flatten(1)
        return Stages(tuple(maps), features, self.head(features))

    def encoder(self, inputs: Tensor) -> Tensor:
        """Features ``(n, width)``."""
        return self.through(inputs).features

    def outputs(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``(n, width)`` and logits ``(n, C)`` of one pass."""
        found = self.through(inputs)
        return found.features, found.logits

    @property
    def stage_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Those of the maps, ``(channels, h, w)``, before they are halved."""
        sides = (self.size // 2**k for k in range(len(self.channels)))
        return tuple((c, side, side) for c, side in zip(self.channels, sides, strict=True))

    def stages(self, inputs: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """The maps of every stage, and logits ``(n, C)``."""
        found = self.through(inputs)
        return found.maps, found.logits
