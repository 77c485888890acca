"""The missing modality's features, guessed from the student's, as a part of the student."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class Hallucination(nn.Module):
    """``z + F h(z)``: the student's features with a guess h of the teacher's added to them.

    h is a perceptron with ReLU and a bottleneck, of the widths w, w/2, w/4, d/2, d for w student
    and d teacher features (PKDOT's T-Net has 512, 256, 128, 256, 512); F is linear. Only a loss on
    :meth:`guess` trains h, and it does not reach the student: everything else takes h as it is.

    Args:
        width: w, student features.
        teacher_width: d, teacher features.
    """

    def __init__(self, width: int, teacher_width: int) -> None:
        super().__init__()
        sizes = [width, max(1, width // 2), max(1, width // 4), max(1, teacher_width // 2)]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.network = nn.Sequential(*layers, nn.Linear(sizes[-1], teacher_width))
        self.fuse = nn.Linear(teacher_width, width)

    def guess(self, features: Tensor) -> Tensor:
        """h of student features ``(n, w)``: ``(n, d)``, without a gradient to the features."""
        return self.network(features.detach())

    def add(self, features: Tensor, guess: Tensor) -> Tensor:
        """Fused features ``(n, w)``, without a gradient to the guess."""
        return features + self.fuse(guess.detach())

    def forward(self, features: Tensor) -> Tensor:
        """Student features ``(n, w)`` to fused ones ``(n, w)``."""
        return self.add(features, self.guess(features))
