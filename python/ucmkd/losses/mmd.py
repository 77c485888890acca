"""Alignment by maximum mean discrepancy, whole or class by class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ucmkd.losses._common import OptionModule, reduce
from ucmkd.ops import _check
from ucmkd.ops._check import Number
from ucmkd.ops.mmd import KERNELS, SCALES, pooled_median, run


def mmd_align(
    student: Tensor,
    teacher: Tensor,
    *,
    kernel: str = "gaussian",
    bandwidth: str | Number = "median",
    scales: Sequence[float] = SCALES,
    estimator: str = "v",
    student_weight: Tensor | None = None,
    teacher_weight: Tensor | None = None,
    student_label: Tensor | None = None,
    teacher_label: Tensor | None = None,
    reduction: str = "mean",
    detach_teacher: bool = True,
    check_finite: bool = True,
    backend: str = "auto",
) -> Tensor:
    r"""Squared MMD between student and teacher features; no pairing of samples needed.

    Without labels :math:`\mathrm{MMD}^2(\alpha,\beta)` (:func:`ucmkd.ops.mmd` has the formula).
    With both labels it is class-conditional: the mean over the classes that occur on both sides of
    :math:`\mathrm{MMD}^2(\alpha_c,\beta_c)`, each class normalised to mass 1; with no common class
    it is 0. The bandwidth is one for all classes.

    Args:
        student: Features ``(n, d)`` or ``(B, n, d)``.
        teacher: Features ``(m, d)`` or ``(B, m, d)``.
        kernel: ``"gaussian"``.
        bandwidth: σ, or ``"median"`` (pooled off-diagonal median, detached).
        scales: Factors of σ whose kernels are averaged.
        estimator: ``"v"`` (≥ 0) or ``"u"`` (unbiased given two samples or more; the within term
            of a single one is 0).
        student_weight: Masses ``(n,)`` or ``(B, n)``, default ``1/n``; a zero weight is a mask.
        teacher_weight: Masses of the teacher's samples.
        student_label: Integer labels ``(n,)``; unbatched features only. Which classes occur
            depends on the data, so that this form does not compile with ``fullgraph=True``.
        teacher_label: Integer labels ``(m,)``.
        reduction: Over the batch ``B``: ``"mean"``, ``"sum"`` or ``"none"``.
        detach_teacher: No gradient to the teacher side.
        check_finite: Name NaN or infinite features (skipped inside ``torch.compile``).
        backend: ``"auto"``, ``"rust"`` or ``"torch"``.

    Returns:
        A 0-d tensor, or ``(B,)`` with ``reduction="none"`` and batched features.

    Raises:
        TypeError: Features, weights or labels of the wrong kind.
        ValueError: Shapes, values or names that are not accepted; NaN or infinite features.

    Source: Gretton et al. 2012; Long et al. 2015; class-conditional after Zhu et al. 2021.
    """
    _check.one_of(reduction, ("mean", "sum", "none"), "reduction")
    names = ("student", "teacher")
    _check.pair(student, teacher, *names)
    if detach_teacher:
        teacher = teacher.detach()
        if isinstance(teacher_weight, Tensor):
            teacher_weight = teacher_weight.detach()
    if check_finite and not torch.compiler.is_compiling():
        _check.finite(student, "student")
        _check.finite(teacher, "teacher")
    if (student_label is None) != (teacher_label is None):
        missing = "student_label" if student_label is None else "teacher_label"
        raise ValueError(f"{missing} must be given too: the class-conditional MMD needs both")
    _check.one_of(kernel, KERNELS, "kernel")
    _check.one_of(estimator, ("v", "u"), "estimator")
    if student_label is None or teacher_label is None:
        value = run(
            student, teacher, kernel=kernel, bandwidth=bandwidth, scales=scales,
            estimator=estimator, x_weight=student_weight, y_weight=teacher_weight,
            backend=backend, names=names,
        )  # fmt: skip
        return reduce(value, reduction)
    if student.dim() == 3:
        raise ValueError(
            "student_label and teacher_label need unbatched features (n, d); "
            f"got student of shape {tuple(student.shape)}"
        )
    first = _class_masses(student, student_label, student_weight, "student")
    second = _class_masses(teacher, teacher_label, teacher_weight, "teacher")
    common = sorted(set(first) & set(second))
    if not common:
        return student.sum() * 0.0
    if isinstance(bandwidth, str):
        _check.one_of(bandwidth, ("median",), "bandwidth")
        bandwidth = pooled_median(student, teacher, student_weight, teacher_weight, backend)
    classes = len(common)
    value = run(
        student.expand(classes, -1, -1), teacher.expand(classes, -1, -1), kernel=kernel,
        bandwidth=bandwidth, scales=scales, estimator=estimator,
        x_weight=torch.stack([first[c] for c in common]),
        y_weight=torch.stack([second[c] for c in common]), backend=backend, names=names,
    )  # fmt: skip
    return value.mean()


def _class_masses(
    points: Tensor, label: Tensor, weight: Tensor | None, name: str
) -> dict[int, Tensor]:
    """For each class that occurs with positive mass, its weights ``(n,)`` of total mass 1."""
    shape = (1, points.shape[0])
    label_row = _check.label(label, shape, f"{name}_label", points)
    weight_row = _check.weight(weight, shape, f"{name}_weight", points)
    assert label_row is not None
    dtype = _check.compute_dtype(points)
    base = points.new_ones(shape, dtype=dtype) if weight_row is None else weight_row.to(dtype)
    masses = {}
    for c in label_row.unique().tolist():
        mine = torch.where(label_row == c, base, 0.0).squeeze(0)
        total = mine.sum()
        if float(total.detach()) > 0:
            masses[int(c)] = mine / total
    return masses


class MMDAlign(OptionModule):
    """:func:`mmd_align` as a module; weights and labels are given at the call."""

    def __init__(
        self,
        *,
        kernel: str = "gaussian",
        bandwidth: str | Number = "median",
        scales: Sequence[float] = SCALES,
        estimator: str = "v",
        reduction: str = "mean",
        detach_teacher: bool = True,
        check_finite: bool = True,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            kernel=kernel, bandwidth=bandwidth, scales=tuple(scales), estimator=estimator,
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
        student_label: Tensor | None = None,
        teacher_label: Tensor | None = None,
    ) -> Tensor:
        """The loss; arguments as in the function."""
        return mmd_align(
            student, teacher, student_weight=student_weight, teacher_weight=teacher_weight,
            student_label=student_label, teacher_label=teacher_label, **self.options(),
        )  # fmt: skip
