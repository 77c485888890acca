"""Networks for spectrograms and pictures: factories to be named in a recipe.

``student: {factory: "ucmkd.models_av:resnet18"}`` and so on. A factory is called with the shape of
one input, ``(channels, height, width)``, and the number of classes; it serves both modalities, one
channel of a spectrogram or three of a picture. They need the extra ``audiovisual`` (torchvision;
timm for the vision transformer). Nothing is downloaded unless a name ends in ``_pretrained``, whose
weights come from the library's own host on first use.

Features are 512 wide with ResNet-18, as in arXiv 2606.10504, and 384 with the small ViT.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .models import SplitModel


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"this model needs the package {name.partition('.')[0]!r}: install it with "
            "pip install 'ucmkd[audiovisual]'"
        ) from error


def _check(shape: tuple[int, ...], num_classes: int) -> int:
    """The number of channels."""
    if len(shape) != 3 or min(shape, default=0) < 1:
        raise ValueError(
            f"input shape must be (channels, height, width), a picture or spectrogram; got {shape}"
        )
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    return shape[0]


class Augment(nn.Module):
    """Random views of a batch in training mode, the batch itself in evaluation mode.

    Three channels (pictures): each sample flipped left to right with probability one half, and cut
    to a random rectangle of `scale` of the area that is resized to the full size. Other numbers of
    channels (spectrograms): two bands of up to 15 % of the rows and two of up to 20 % of the
    columns set to the sample's mean (SpecAugment, Park et al. 2019). The numbers are drawn from
    torch's generator, so that a seed fixes a run and a resumed one goes on.

    Args:
        scale: Smallest and largest share of the area, in (0, 1].

    Raises:
        ValueError: `scale` is not an ordered pair in (0, 1].
    """

    def __init__(self, scale: tuple[float, float] = (0.25, 1.0)) -> None:
        super().__init__()
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"scale must be an ordered pair in (0, 1], got {scale}")
        self.scale = scale

    def forward(self, inputs: Tensor) -> Tensor:
        """`(n, channels, height, width)` to the same shape."""
        if not self.training:
            return inputs
        return self._cut(inputs) if inputs.shape[1] == 3 else self._mask(inputs)

    def _cut(self, inputs: Tensor) -> Tensor:
        n, low, high = len(inputs), *self.scale
        side = (low + (high - low) * torch.rand(n)).sqrt()  # of both sides: the aspect is kept
        shift = (1 - side)[:, None] * (2 * torch.rand(n, 2) - 1)
        flip = 1 - 2 * torch.randint(2, (n,))
        theta = torch.zeros(n, 2, 3)
        theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = side * flip, side, shift
        theta = theta.to(inputs)
        grid = F.affine_grid(theta, list(inputs.shape), align_corners=False)
        return F.grid_sample(inputs, grid, padding_mode="reflection", align_corners=False)

    def _mask(self, inputs: Tensor) -> Tensor:
        n = len(inputs)
        hidden = torch.zeros(n, *inputs.shape[2:], dtype=torch.bool)
        for axis, share in ((0, 0.15), (1, 0.20)):
            size = inputs.shape[2 + axis]
            for _ in range(2):
                length = share * size * torch.rand(n, 1)
                start = (size - length) * torch.rand(n, 1)
                cell = torch.arange(size)
                band = (cell >= start) & (cell < start + length)
                hidden |= band[:, :, None] if axis == 0 else band[:, None, :]
        mean = inputs.mean(dim=(1, 2, 3), keepdim=True)
        return torch.where(hidden[:, None].to(inputs.device), mean, inputs)


def _resnet18(
    shape: tuple[int, ...], num_classes: int, *, augment: bool, pretrained: bool
) -> SplitModel:
    channels = _check(shape, num_classes)
    models = _library("torchvision.models")
    network = models.resnet18(weights="IMAGENET1K_V1" if pretrained else None)
    if channels != 3:
        first = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        if pretrained:  # a grey picture looks the same in all three colours
            grey = network.conv1.weight.data.sum(dim=1, keepdim=True) / channels
            first.weight.data.copy_(grey.expand_as(first.weight))
        else:
            nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
        network.conv1 = first
    network.fc = nn.Identity()
    encoder = nn.Sequential(Augment(), network) if augment else network
    return SplitModel(encoder, nn.Linear(512, num_classes))


def resnet18(shape: tuple[int, ...], num_classes: int) -> SplitModel:
    """ResNet-18 (He et al., 2016) from random weights; features `(n, 512)` after global pooling.

    Args:
        shape: `(channels, height, width)` of one input, any size from about 32 × 32.
        num_classes: C.

    Raises:
        ValueError: A shape of another kind, or no class.
        ImportError: torchvision is not installed.
    """
    return _resnet18(shape, num_classes, augment=False, pretrained=False)


def resnet18_augmented(shape: tuple[int, ...], num_classes: int) -> SplitModel:
    """:func:`resnet18` behind :class:`Augment`. Arguments and errors as there."""
    return _resnet18(shape, num_classes, augment=True, pretrained=False)


def resnet18_pretrained(shape: tuple[int, ...], num_classes: int) -> SplitModel:
    """:func:`resnet18` from ImageNet weights, downloaded by torchvision on first use.

    With other than three channels the first layer sees their mean in every colour. The inputs
    should be standardised. Arguments and errors as for :func:`resnet18`.
    """
    return _resnet18(shape, num_classes, augment=False, pretrained=True)


class _Square(nn.Module):
    """Bilinear resizing to the one size that a transformer's position embedding has."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, inputs: Tensor) -> Tensor:
        return F.interpolate(inputs, (self.size, self.size), mode="bilinear", antialias=True)


def _vit_small(shape: tuple[int, ...], num_classes: int, *, pretrained: bool) -> SplitModel:
    channels = _check(shape, num_classes)
    timm = _library("timm")
    network = timm.create_model(
        "vit_small_patch16_224", pretrained=pretrained, in_chans=channels, num_classes=0
    )
    encoder = nn.Sequential(_Square(224), network)
    return SplitModel(encoder, nn.Linear(network.num_features, num_classes))


def vit_small(shape: tuple[int, ...], num_classes: int) -> SplitModel:
    """ViT-S/16 (timm) from random weights; features `(n, 384)` of the class token.

    Inputs of any size are resized to 224 × 224.

    Args:
        shape: `(channels, height, width)` of one input.
        num_classes: C.

    Raises:
        ValueError: A shape of another kind, or no class.
        ImportError: timm is not installed.
    """
    return _vit_small(shape, num_classes, pretrained=False)


def vit_small_pretrained(shape: tuple[int, ...], num_classes: int) -> SplitModel:
    """:func:`vit_small` from ImageNet weights, downloaded by timm on first use.

    Arguments and errors as for :func:`vit_small`.
    """
    return _vit_small(shape, num_classes, pretrained=True)
