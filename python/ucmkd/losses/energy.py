"""Alignment by the energy distance, whole or sliced."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ucmkd.losses._common import REDUCTIONS, OptionModule, reduce
from ucmkd.ops import _check, sliced
from ucmkd.ops._mass import probabilities
from ucmkd.ops.mmd import run as mmd


def energy_align(
    student: Tensor,
    teacher: Tensor,
    *,
    projections: int | None = None,
    directions: Tensor | None = None,
    generator: sliced.Generator = None,
    student_weight: Tensor | None = None,
    teacher_weight: Tensor | None = None,
    reduction: str = "mean",
    detach_teacher: bool = True,
    check_finite: bool = True,
    backend: str = "auto",
) -> Tensor:
    r"""Energy distance between student and teacher features; no bandwidth to choose, no pairs.

    .. math:: D^2 = 2E|X-Y| - E|X-X'| - E|Y-Y'| \ge 0,\quad 0 \text{ iff the clouds are equal}

    (V-statistic, Euclidean norms): the squared MMD of the kernel :math:`-|x-y|`. With
    ``projections`` or ``directions`` it is sliced, :math:`O(L\,n(d+\log n))` in place of
    :math:`O(n^2 d)`, scaled so that its expectation over random directions is :math:`D^2`
    (:func:`ucmkd.ops.sliced_energy`).

    Args:
        student: Features ``(n, d)`` or ``(B, n, d)``.
        teacher: Features ``(m, d)`` or ``(B, m, d)``.
        projections: How many random directions; None (and no ``directions``) is the full
            distance.
        directions: Directions ``(L, d)`` in place of random ones; rows are scaled to length 1.
        generator: Of the random directions: None (PyTorch's global generator: new ones at every
            call), an integer seed (the same at every call), or a ``torch.Generator``.
        student_weight: Masses ``(n,)`` or ``(B, n)``, default equal; normalised to the sum 1. A
            zero weight is a mask.
        teacher_weight: Masses of the teacher's samples.
        reduction: Over the batch ``B``: ``"mean"``, ``"sum"`` or ``"none"``.
        detach_teacher: No gradient to the teacher side.
        check_finite: Name NaN or infinite features (not inside ``torch.compile``, ``vmap``).
        backend: Of the full distance: ``"auto"``, ``"rust"`` or ``"torch"``. The sliced one is
            plain PyTorch on every device.

    Returns:
        A 0-d tensor, or ``(B,)`` with ``reduction="none"`` and batched features.

    Raises:
        TypeError: Features, weights, directions or generator of the wrong kind.
        ValueError: Shapes, values or names that are not accepted; NaN or infinite features.

    Source: Székely & Rizzo 2013; as an MMD: Sejdinovic et al. 2013 (arXiv 1207.6076).
    """
    _check.one_of(reduction, REDUCTIONS, "reduction")
    names = ("student", "teacher")
    _check.pair(student, teacher, *names)
    slices = projections is not None or directions is not None
    if slices:
        _check.one_of(backend, ("auto", "torch"), "backend of the sliced distance")
    elif generator is not None:
        raise ValueError(f"generator={generator!r} needs projections: the full distance is exact")
    if projections is not None and directions is not None:
        raise ValueError(f"projections must be None when directions are given; got {projections!r}")
    if detach_teacher:
        teacher = teacher.detach()
        if isinstance(teacher_weight, Tensor):
            teacher_weight = teacher_weight.detach()
    if check_finite and not torch.compiler.is_compiling():
        _check.finite(student, "student")
        _check.finite(teacher, "teacher")
    if slices:
        value = sliced.run(
            student, teacher, projections=1 if projections is None else projections,
            directions=directions, generator=generator, x_weight=student_weight,
            y_weight=teacher_weight, names=names,
        )  # fmt: skip
        return reduce(value, reduction)
    value = mmd(
        student, teacher, kernel="energy", bandwidth=1.0, scales=(1.0,), estimator="v",
        weights=(
            _normalised(student_weight, student, "student_weight"),
            _normalised(teacher_weight, teacher, "teacher_weight"),
        ),
        classes=(None, None), num_classes=None, degree=3, gamma=None, coef=1.0, backend=backend,
        names=names, label="label",
    )  # fmt: skip
    return reduce(value, reduction)


def _normalised(weight: Tensor | None, points: Tensor, name: str) -> Tensor | None:
    """Masses of sum 1: between different masses the energy distance is not defined."""
    batched = points if points.dim() == 3 else points.unsqueeze(0)
    checked = _check.weight(weight, (batched.shape[0], batched.shape[1]), name, points)
    if checked is None:
        return None
    mass = probabilities(checked, batched).to(_check.compute_dtype(points))
    return mass if points.dim() == 3 else mass.squeeze(0)


class EnergyAlign(OptionModule):
    """:func:`energy_align` as a module; weights are given at the call."""

    def __init__(
        self,
        *,
        projections: int | None = None,
        directions: Tensor | None = None,
        generator: sliced.Generator = None,
        reduction: str = "mean",
        detach_teacher: bool = True,
        check_finite: bool = True,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            projections=projections, directions=directions, generator=generator,
            reduction=reduction, detach_teacher=detach_teacher, check_finite=check_finite,
            backend=backend,
        )  # fmt: skip

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        *,
        student_weight: Tensor | None = None,
        teacher_weight: Tensor | None = None,
    ) -> Tensor:
        """The loss; arguments as in the function."""
        return energy_align(
            student, teacher, student_weight=student_weight, teacher_weight=teacher_weight,
            **self.options(),
        )  # fmt: skip

    def extra_repr(self) -> str:
        shown: dict[str, Any] = self.options()
        if shown["directions"] is not None:
            shown["directions"] = f"Tensor{tuple(shown['directions'].shape)}"
        return ", ".join(
            f"{k}={v}" if k == "directions" else f"{k}={v!r}" for k, v in shown.items()
        )
