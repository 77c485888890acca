"""Alignment by maximum mean discrepancy, whole or class by class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ucmkd.distributed import Batch, Group, global_batch
from ucmkd.losses._common import REDUCTIONS, OptionModule, reduce
from ucmkd.ops import _check
from ucmkd.ops._check import Number
from ucmkd.ops._classes import check_num_classes
from ucmkd.ops._two_samples import two_samples
from ucmkd.ops.mmd import SCALES, run


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
    num_classes: int | None = None,
    degree: int = 3,
    gamma: float | None = None,
    coef: float = 1.0,
    reduction: str = "mean",
    detach_teacher: bool = True,
    check_finite: bool = True,
    group: Group = None,
    backend: str = "auto",
) -> Tensor:
    r"""Squared MMD between student and teacher features; no pairing of samples needed.

    Without labels :math:`\mathrm{MMD}^2(\alpha,\beta)`; :func:`ucmkd.ops.mmd` has the kernels, the
    formulas and the precision. With both labels it is class-conditional: the mean over the classes
    that occur on both sides of :math:`\mathrm{MMD}^2(\alpha_c,\beta_c)`, each class normalised to
    mass 1; with no common class it is 0. The bandwidth is one for all classes, and every kernel
    value is computed once.

    Args:
        student: Features ``(n, d)`` or ``(B, n, d)``.
        teacher: Features ``(m, d)`` or ``(B, m, d)``.
        kernel: ``"gaussian"``, ``"laplace"``, ``"energy"``, ``"rational_quadratic"`` or
            ``"polynomial"``.
        bandwidth: σ: a number, a tensor (an ``nn.Parameter`` is learned), ``"median"`` or
            ``"mean"`` (of the pooled off-diagonal distances, detached).
        scales: Factors of σ whose kernels are averaged.
        estimator: ``"v"`` (≥ 0), ``"u"`` (unbiased given two samples or more; the within term of a
            single one is 0), or ``"linear"`` (unbiased, linear time, ``n = m``, no weights or
            labels).
        student_weight: Masses ``(n,)`` or ``(B, n)``, default ``1/n``; a zero weight is a mask.
        teacher_weight: Masses of the teacher's samples.
        student_label: Integer labels ``(n,)`` or ``(B, n)``, or soft labels ``(n, K)`` or
            ``(B, n, K)``, which receive a gradient.
        teacher_label: Labels of the teacher's samples, of either kind.
        num_classes: K, for integer labels in ``[0, K)``; needed inside ``torch.compile`` and
            sparing a GPU the wait, unless one of the labels is soft.
        degree: Degree of the polynomial kernel.
        gamma: Its factor of the scalar product, ``None`` for ``1/d``.
        coef: Its constant.
        reduction: Over the batch ``B``: ``"mean"``, ``"sum"`` or ``"none"``.
        detach_teacher: No gradient to the teacher side.
        check_finite: Name NaN or infinite features (not inside ``torch.compile``, ``vmap``).
        group: A ``torch.distributed`` process group, or ``"world"`` for the default one: align the
            batch of all its ranks, as in :func:`sinkhorn_align`.
        backend: ``"auto"``, ``"rust"`` or ``"torch"``.

    Returns:
        A 0-d tensor, or ``(B,)`` with ``reduction="none"`` and batched features.

    Raises:
        TypeError: Features, weights or labels of the wrong kind.
        ValueError: Shapes, values or names that are not accepted; NaN or infinite features; with
            ``group``, on every rank, what one of them refuses or what differs between them.

    Source: Gretton et al. 2012; Long et al. 2015; class-conditional after Zhu et al. 2021.
    """
    if detach_teacher and isinstance(teacher, Tensor):
        teacher = teacher.detach()
        teacher_weight, teacher_label = (
            t.detach() if isinstance(t, Tensor) else t for t in (teacher_weight, teacher_label)
        )
    if group is not None:  # before all checks: a rank must not leave while the others wait
        batch = Batch(
            student, teacher, student_weight, teacher_weight, student_label, teacher_label
        )
        same = dict(
            function="mmd_align", kernel=kernel, bandwidth=bandwidth, scales=scales,
            estimator=estimator, num_classes=num_classes, degree=degree, gamma=gamma, coef=coef,
            reduction=reduction,
        )  # fmt: skip
        student, teacher, student_weight, teacher_weight, student_label, teacher_label = (
            global_batch(batch, group, same, check_finite)
        )
        check_finite = False
    _check.one_of(reduction, REDUCTIONS, "reduction")
    check_num_classes(num_classes)
    names = ("student", "teacher")
    extras = (student_weight, teacher_weight, student_label, teacher_label)
    if all(t is None for t in extras):
        simple = two_samples(
            student, teacher, bandwidth, estimator, (kernel, scales, degree, gamma, coef), names,
            check_finite=check_finite, backend=backend,
        )  # fmt: skip
        if simple is not None:
            return simple
    _check.pair(student, teacher, *names)
    if check_finite and not torch.compiler.is_compiling():
        _check.finite(student, "student")
        _check.finite(teacher, "teacher")
    value = run(
        student, teacher, kernel=kernel, bandwidth=bandwidth, scales=scales, estimator=estimator,
        weights=(student_weight, teacher_weight), classes=(student_label, teacher_label),
        num_classes=num_classes, degree=degree, gamma=gamma, coef=coef, backend=backend,
        names=names, label="label", paired=True,
    )  # fmt: skip
    return reduce(value, reduction)


class MMDAlign(OptionModule):
    """:func:`mmd_align` as a module; weights and labels are given at the call."""

    def __init__(
        self,
        *,
        kernel: str = "gaussian",
        bandwidth: str | Number = "median",
        scales: Sequence[float] = SCALES,
        estimator: str = "v",
        num_classes: int | None = None,
        degree: int = 3,
        gamma: float | None = None,
        coef: float = 1.0,
        reduction: str = "mean",
        detach_teacher: bool = True,
        check_finite: bool = True,
        group: Group = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            kernel=kernel, bandwidth=bandwidth, scales=tuple(scales), estimator=estimator,
            num_classes=num_classes, degree=degree, gamma=gamma, coef=coef, reduction=reduction,
            detach_teacher=detach_teacher, check_finite=check_finite, group=group, backend=backend,
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
