"""Boundary supporting samples: inputs moved to the teacher's decision boundary."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ucmkd.losses._common import unit_rows, wide
from ucmkd.losses.label import check_logit_pair


class BoundarySamples(NamedTuple):
    """What :func:`boundary_samples` finds.

    Attributes:
        inputs: Moved inputs ``(n, ...)``, detached.
        logits: The teacher's logits ``(n, C)`` of them, detached.
        crossed: ``(n,)`` bool: the teacher no longer answers what it answered at the start.
    """

    inputs: Tensor
    logits: Tensor
    crossed: Tensor


def boundary_samples(
    teacher: Callable[[Tensor], Tensor],
    inputs: Tensor,
    target: Tensor,
    *,
    step: float = 0.3,
    max_iter: int = 10,
    margin: float = 1e-4,
    low: float | None = None,
    high: float | None = None,
) -> BoundarySamples:
    r"""Descend the teacher's lead of its own class over ``target`` until the lead is lost.

    With b the teacher's class of an input and k its target, :math:`L(x) = f_b(x) - f_k(x)`:

    .. math:: x \leftarrow \mathrm{clip}\Big(x - \eta\,(L(x) + \epsilon)\,
        \frac{\nabla L(x)}{\|\nabla L(x)\|_2}\Big)\quad\text{while } \arg\max f(x) = b.

    The step shrinks with the lead, so that a sample ends just beyond the boundary. Its length is
    in units of the inputs per unit of logits: choose η by how many samples cross. A sample whose
    gradient is zero stays where it is.

    Args:
        teacher: Inputs to logits ``(n, C)``, in eval mode; its parameters get no gradient.
        inputs: ``(n, ...)``, floating.
        target: Classes ``(n,)`` to move to, int64, none the teacher's own.
        step: η > 0.
        max_iter: Most steps, ≥ 1.
        margin: ε ≥ 0, which takes a sample over the boundary.
        low: Smallest value that an input may have; None: any.
        high: Largest.

    Raises:
        TypeError: Inputs that are not floating.
        ValueError: Shapes that do not fit, a target that the teacher answers already, an option
            out of range.

    Source: Heo, Lee, Yun and Choi, AAAI 2019 (arXiv 1805.05532); η, ε, the number of steps and the
    end at any other class as in the authors' code (``bhheo/BSS_distillation``).
    """
    _check(inputs, target, step, max_iter, margin, low, high)
    x, base, rows = inputs.detach().clone(), target, torch.arange(len(inputs), device=target.device)
    for count in range(max_iter + 1):
        with torch.enable_grad():
            x.requires_grad_()
            logits = teacher(x)
            if count == 0:
                base = _own_classes(logits, target)
            lead = logits[rows, base] - logits[rows, target]
            inside = logits.detach().argmax(1) == base
            if count == max_iter or not bool(inside.any()):
                break
            (gradient,) = torch.autograd.grad(lead.sum(), x)
        direction = unit_rows(gradient.flatten(1)).reshape(x.shape).to(x.dtype)
        length = (step * (lead.detach() + margin) * inside).to(x.dtype)
        x = x.detach() - length.reshape(-1, *[1] * (x.dim() - 1)) * direction
        if low is not None or high is not None:
            x = x.clamp(low, high)
    return BoundarySamples(x.detach(), logits.detach(), ~inside)


def base_samples(
    student_logits: Tensor, teacher_logits: Tensor, label: Tensor, count: int
) -> Tensor:
    r"""The samples to start from: the teacher is right, and says most that the student does not.

    The ``count`` largest :math:`\sum_{k \ne y}(p^T_k - p^S_k)^2` among the samples with
    :math:`\arg\max p^T = y`.

    Args:
        student_logits: ``(n, C)``.
        teacher_logits: ``(n, C)``.
        label: y ``(n,)``, int64.
        count: Most samples, ≥ 1; fewer are returned where the teacher is seldom right.

    Returns:
        Indices ``(≤ count,)``.

    Raises:
        ValueError: Shapes that do not fit, or a ``count`` below one.
    """
    check_logit_pair(student_logits, teacher_logits)
    if label.shape != student_logits.shape[:1]:
        raise ValueError(
            f"label must have shape ({len(student_logits)},), got {tuple(label.shape)}"
        )
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    theirs, own = (wide(z.detach()).softmax(1) for z in (teacher_logits, student_logits))
    gap = (theirs - own).square()
    score = gap.sum(1) - gap.gather(1, label[:, None])[:, 0]
    right = (teacher_logits.argmax(1) == label).nonzero()[:, 0]
    return right[score[right].argsort(descending=True)[:count]]


def draw_targets(teacher_logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    r"""Target classes ``(n,)``: k with probability :math:`p_k / (1 - p_b)`, never the teacher's b.

    Args:
        teacher_logits: ``(n, C)``, C ≥ 2.
        generator: Of the draw; None: PyTorch's global one.

    Raises:
        ValueError: Not two dimensions, or fewer than two classes.
    """
    if teacher_logits.dim() != 2 or teacher_logits.shape[1] < 2:
        raise ValueError(
            f"teacher_logits must have shape (n, C) with C >= 2, got {tuple(teacher_logits.shape)}"
        )
    found = wide(teacher_logits.detach())
    others = found.scatter(1, found.argmax(1, keepdim=True), -torch.inf)
    return torch.multinomial(others.softmax(1), 1, generator=generator)[:, 0]


def _check(
    inputs: Tensor, target: Tensor, step: float, max_iter: int, margin: float,
    low: float | None, high: float | None,
) -> None:  # fmt: skip
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        kind = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise TypeError(f"inputs must be a floating torch.Tensor; got {kind}")
    if inputs.dim() < 2:
        raise ValueError(f"inputs must have shape (n, ...); got {tuple(inputs.shape)}")
    if target.shape != inputs.shape[:1] or target.dtype != torch.int64:
        raise ValueError(
            f"target must be int64 of shape ({len(inputs)},); "
            f"got {target.dtype} of {tuple(target.shape)}"
        )
    if not 0 < step < float("inf"):
        raise ValueError(f"step must be > 0; got {step}")
    if max_iter < 1:
        raise ValueError(f"max_iter must be at least 1; got {max_iter}")
    if not 0 <= margin < float("inf"):
        raise ValueError(f"margin must be >= 0; got {margin}")
    if low is not None and high is not None and not low < high:
        raise ValueError(f"low must be below high; got {low} and {high}")


def _own_classes(logits: Tensor, target: Tensor) -> Tensor:
    """The teacher's classes, which no target may be."""
    if logits.dim() != 2 or len(logits) != len(target):
        raise ValueError(
            f"teacher must return logits ({len(target)}, C); got {tuple(logits.shape)}"
        )
    low, high = (int(v) for v in target.aminmax()) if len(target) else (0, 0)
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(f"target must lie in 0..{logits.shape[1] - 1}; got {low} to {high}")
    base = logits.detach().argmax(1)
    same = int((base == target).sum())
    if same:
        raise ValueError(
            f"target must differ from the teacher's class; it is the same for {same} of "
            f"{len(target)} samples"
        )
    return base
