"""A teacher that knows nothing: noise in the place of what a network would say."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn

from .models import Student


class NoiseTeacher(Student):
    """Standard-normal features, one fixed draw per sample, and a random linear head.

    A control: what a student gains from it, it gains from having any target at all, not from the
    teacher's knowledge. The draw depends on the seed and the values of the sample alone, so that
    a sample has the same features wherever and however often it comes; two samples have
    independent ones, however near they are. The head has weights N(0, 1/width) and no bias, so
    that every logit is standard normal too over the samples, and ``logits = head(features)`` as
    for any teacher.

    Args:
        width: Number of features.
        num_classes: Number of classes C.
        seed: Which noise, and which head.

    Raises:
        ValueError: A size below one, or a negative seed.
    """

    seed: Tensor
    head: nn.Linear

    def __init__(self, width: int, num_classes: int, *, seed: int = 0) -> None:
        super().__init__()
        for name, value, least in (
            ("width", width, 1), ("num_classes", num_classes, 1), ("seed", seed, 0),
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.width = width
        self.register_buffer("seed", torch.tensor(seed))
        self.head = nn.Linear(width, num_classes)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            weight = torch.randn(num_classes, width, generator=generator) / math.sqrt(width)
            self.head.weight.copy_(weight)
            self.head.bias.zero_()

    def encoder(self, inputs: Tensor) -> Tensor:
        """Noise ``(n, width)`` of inputs ``(n, ...)``, in the head's precision."""
        # Adding 0 turns -0 into 0: the same value, other bytes.
        rows = (inputs.detach().flatten(1).cpu().float() + 0.0).contiguous().numpy()
        key = int(self.seed).to_bytes(8, "little")
        generator = torch.Generator()
        drawn = torch.empty(len(rows), self.width)
        for row, out in zip(rows, drawn, strict=True):
            digest = hashlib.blake2b(row.tobytes(), digest_size=8, key=key).digest()
            generator.manual_seed(int.from_bytes(digest, "little") >> 1)
            torch.randn(self.width, generator=generator, out=out)
        return drawn.to(self.head.weight)
