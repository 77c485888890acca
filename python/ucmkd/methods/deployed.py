"""The student as it is used after the training, with what the method adds between or behind."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ucmkd.models import Student


class AffineFeatures(nn.Module):
    """``A z + b`` of features ``z``."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("bias", bias.detach().clone())

    def forward(self, features: Tensor) -> Tensor:
        """``(n, width)`` to ``(n, width)``."""
        return features @ self.weight.T + self.bias


class Deployed(Student):
    """``head(A z + b) + shift`` for a student whose head is no linear layer."""

    shift: Tensor

    def __init__(self, student: Student, features: nn.Module, shift: Tensor) -> None:
        super().__init__()
        self.student = student
        self.features = features
        self.width = student.width
        self.register_buffer("shift", shift.detach().clone())

    def encoder(self, inputs: Tensor) -> Tensor:
        """The student's features ``(n, width)``."""
        return self.student.encoder(inputs)

    def head(self, features: Tensor) -> Tensor:
        """Logits ``(n, C)``."""
        return self.student.head(self.features(features)) + self.shift


@torch.no_grad()
def fold(
    student: Student,
    num_classes: int,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    shift: Tensor | None = None,
) -> Student:
    """A copy of ``student`` with ``z -> A z + b`` before its head and a shift of its logits.

    A linear head takes all of it up, so that the copy has the student's own form and its weights
    the same names; any other head is wrapped (:class:`Deployed`).

    Args:
        student: The trained model; left as it is.
        num_classes: C.
        weight: A ``(width, width)``; None: the identity.
        bias: b ``(width,)``; None: 0.
        shift: ``(C,)``; None: 0.
    """
    student = copy.deepcopy(student)
    like = next(student.parameters())
    a = torch.eye(student.width).to(like) if weight is None else weight.to(like)
    b = like.new_zeros(student.width) if bias is None else bias.to(like)
    c = like.new_zeros(num_classes) if shift is None else shift.to(like)
    head = student.head
    if not isinstance(head, nn.Linear) or head.bias is None:
        return Deployed(student, AffineFeatures(a, b), c).train(student.training)
    head.bias.add_(head.weight @ b + c)
    head.weight.copy_(head.weight @ a)
    return student
