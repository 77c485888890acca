"""A model whose features are three: of any modality, of this one, and of no use."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ucmkd.models import Student, encoder_module


class Parts(NamedTuple):
    """The features of n samples of one modality, each ``(n, width / 2)``.

    Attributes:
        invariant: What does not tell the modality.
        informative: What tells it, and the class.
        irrelevant: What tells it, and not the class.
    """

    invariant: Tensor
    informative: Tensor
    irrelevant: Tensor

    @property
    def useful(self) -> Tensor:
        """What a class is told by: invariant and informative, ``(n, width)``."""
        return torch.cat((self.invariant, self.informative), dim=-1)


class Disentangled(Student):
    """``head([z_inv, z_inf])`` with two encoders in the place of a model's one.

    The model's own encoder gives ``[z_inf, z_irr]``, its two halves; a second one like it, then a
    linear layer, batch normalisation and ReLU give ``z_inv``, half as wide. So what is useful is as
    wide as the model's features, and its head takes it.

    Args:
        model: The encoder and the head; used, not copied. The second encoder starts as a copy of
            the first, so that what is pretrained stays so.

    Raises:
        ValueError: The model's width is odd.
    """

    def __init__(self, model: Student) -> None:
        super().__init__()
        if model.width % 2:
            raise ValueError(
                f"width must be even, to be split in halves, got a model with {model.width} "
                "features (student.width and teacher.width of a recipe)"
            )
        half = model.width // 2
        self.model, self.width = model, model.width
        self.second = copy.deepcopy(encoder_module(model))
        self.projection = nn.Sequential(
            nn.Linear(model.width, half), nn.BatchNorm1d(half), nn.ReLU()
        )

    def parts(self, inputs: Tensor) -> Parts:
        """The three features of inputs ``(n, ...)``."""
        informative, irrelevant = self.model.encoder(inputs).chunk(2, dim=-1)
        return Parts(self.projection(self.second(inputs)), informative, irrelevant)

    def encoder(self, inputs: Tensor) -> Tensor:
        """The useful features ``(n, width)``."""
        return self.parts(inputs).useful

    def head(self, features: Tensor) -> Tensor:
        """Logits ``(n, C)``."""
        return self.model.head(features)
