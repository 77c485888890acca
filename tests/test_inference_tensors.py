"""A frozen teacher run under ``inference_mode``: its tensors are answered as any others are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ucmkd import losses, ops

Loss = Callable[..., Tensor]


def label_loss(student: Tensor, teacher: Tensor, label: Tensor, backend: str) -> Tensor:
    return losses.sinkhorn_align(
        student, teacher, student_label=label[:7], teacher_label=label, label_cost=5.0,
        teacher_weight=teacher.detach()[:, 0].abs() / teacher.detach()[:, 0].abs().sum(),
        backend=backend,
    )  # fmt: skip


CALLS: dict[str, Loss] = {
    "sinkhorn_align": lambda s, t, k, b: losses.sinkhorn_align(s, t, backend=b),
    "state": lambda s, t, k, b: losses.sinkhorn_align(
        s, t, state=losses.SinkhornState(), backend=b
    ),
    "sharp": lambda s, t, k, b: losses.sinkhorn_align(s, t, sharp=True, backend=b),
    "labels": label_loss,
    "feature_align": lambda s, t, k, b: losses.feature_align(s, t, backend=b),
    "mmd_align": lambda s, t, k, b: losses.mmd_align(s, t, backend=b),
    "classes": lambda s, t, k, b: losses.mmd_align(
        s, t, student_label=k[:7], teacher_label=k, backend=b
    ),
    "energy_align": lambda s, t, k, b: losses.energy_align(s, t),
    "sliced": lambda s, t, k, b: losses.energy_align(s, t, projections=8),
    "coral_align": lambda s, t, k, b: losses.coral_align(s, t),
    "cmd_align": lambda s, t, k, b: losses.cmd_align(s, t),
    "kd_loss": lambda s, t, k, b: losses.kd_loss(s, t[:7]),
    "dkd_loss": lambda s, t, k, b: losses.dkd_loss(s, t[:7], k[:7]),
    "rkd_loss": lambda s, t, k, b: losses.rkd_loss(s, t[:7]),
    "label_align": lambda s, t, k, b: losses.label_align(s, s * 2, k[:7]),
    "sinkhorn": lambda s, t, k, b: ops.sinkhorn(s, t, epsilon=0.5, backend=b).value,
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("backend", ["rust", "torch"])
def test_value_and_gradient(name: str, backend: str) -> None:
    """Equal to the bit to those of an ordinary teacher."""
    draw = torch.Generator().manual_seed(0)
    student = torch.randn(7, 4, generator=draw)
    usual = torch.randn(9, 4, generator=draw), torch.arange(9) % 3
    with torch.inference_mode():
        frozen = tuple(tensor.clone() for tensor in usual)
    found = []
    for teacher, label in (usual, frozen):
        x = student.clone().requires_grad_()
        torch.manual_seed(0)  # of the projections
        value = CALLS[name](x, teacher, label, backend)
        (gradient,) = torch.autograd.grad(value, x)
        found.append((value.detach(), gradient))
    assert frozen[0].is_inference()
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_inside_inference_mode() -> None:
    with torch.inference_mode():
        x, y = torch.randn(5, 3), torch.randn(6, 3)
        assert losses.sinkhorn_align(x, y) >= 0 and losses.mmd_align(x, y) >= 0
