r"""Alignment by entropic optimal transport: the Sinkhorn divergence and UCMKD's feature alignment.

.. math::
    S_\varepsilon(\alpha,\beta) = \mathrm{OT}_\varepsilon(\alpha,\beta)
      - \tfrac12\mathrm{OT}_\varepsilon(\alpha,\alpha)
      - \tfrac12\mathrm{OT}_\varepsilon(\beta,\beta)
      + \tfrac{\varepsilon}{2}(m_\alpha-m_\beta)^2
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ucmkd.distributed import Batch, Group, global_batch
from ucmkd.losses._common import OptionModule, reduce
from ucmkd.ops import _check
from ucmkd.ops._check import Number, Reach
from ucmkd.ops._plain import transformed
from ucmkd.ops._precise import precise
from ucmkd.ops._two_clouds import two_clouds
from ucmkd.ops.divergence import check_clouds, divergence
from ucmkd.ops.schedule import check_ratio, scheduled_start
from ucmkd.ops.sinkhorn import prepare
from ucmkd.ops.warm import SinkhornState, warm_divergence

Scale = Literal["mean"] | None


def sinkhorn_align(
    student: Tensor,
    teacher: Tensor,
    *,
    epsilon: Number = 0.05,
    epsilon_scale: Scale = "mean",
    cost: str = "sqeuclidean",
    reach: Reach = None,
    debias: bool = True,
    sharp: bool = False,
    student_weight: Tensor | None = None,
    teacher_weight: Tensor | None = None,
    student_label: Tensor | None = None,
    teacher_label: Tensor | None = None,
    label_cost: Number = 0.0,
    tol: float = 1e-3,
    max_iter: int = 1000,
    reduction: str = "mean",
    detach_teacher: bool = True,
    check_finite: bool = True,
    epsilon_schedule: float | None = None,
    state: SinkhornState | None = None,
    group: Group = None,
    backend: str = "auto",
) -> Tensor:
    r"""Sinkhorn divergence between student and teacher features; no pairing of samples needed.

    With ``debias`` it is :math:`S_\varepsilon \ge 0` (0 iff the clouds are equal), without it
    the biased :math:`\mathrm{OT}_\varepsilon` (:func:`ucmkd.ops.sinkhorn` has the formula). The
    gradient is that of the value by the envelope theorem; it comes back in the input's dtype,
    the computation is in float32 (float64 for float64 features). bf16 and fp16 features thus add
    the rounding of the gradient alone: against float64 of the same features the value differs by
    less than 1e-5 of it, the gradient by less than the type's eps + 1e-4 of its largest entry.

    Args:
        student: Features ``(n, d)`` or ``(B, n, d)``.
        teacher: Features ``(m, d)`` or ``(B, m, d)``.
        epsilon: Regularisation ε > 0.
        epsilon_scale: ``"mean"``: ``epsilon``, ``reach`` and ``label_cost`` are in units of the
            (detached) mean feature cost; None: they are absolute.
        cost: ``"sqeuclidean"``, ``"euclidean"``, ``"cosine"``, ``"l1"`` or ``"chordal"``.
        reach: ρ of unbalanced transport, a number or ``(ρ_student, ρ_teacher)``; None is strict.
        debias: Subtract the self-terms.
        sharp: Return :math:`\langle P, C\rangle` in place of each :math:`\mathrm{OT}_\varepsilon`,
            with its own gradient (implicit differentiation; holds the plan in memory, and does
            not compile with ``fullgraph=True``).
        student_weight: Masses ``(n,)`` or ``(B, n)``, default ``1/n``; a zero weight is a mask.
        teacher_weight: Masses of the teacher's samples.
        student_label: Integer labels ``(n,)`` or ``(B, n)``.
        teacher_label: Labels of the teacher's samples.
        label_cost: λ ≥ 0, added to the cost of a pair with different labels; or class distances
            ``(K, L)``, whose entry of the two labels is added (square and symmetric if
            ``debias``).
        tol: Tolerance of the solver's relative L1 marginal residual.
        max_iter: Most iterations.
        reduction: Over the batch ``B``: ``"mean"``, ``"sum"`` or ``"none"``.
        detach_teacher: No gradient to the teacher side.
        check_finite: Name NaN or infinite features (not inside ``torch.compile``, ``vmap``).
        epsilon_schedule: Ratio in (0, 1) by which ε comes down from the mean cost, each stage
            the start of the next; for ε below about 0.005 mean costs
            (:mod:`ucmkd.ops.schedule` has the measurements). Not used inside ``torch.compile``,
            nor where ``state`` has a start.
        state: A :class:`ucmkd.losses.SinkhornState`, the same at every call: the self-term of a
            frozen teacher is solved once, and every solve starts from the last one.
        group: A ``torch.distributed`` process group, or ``"world"`` for the default one: align the
            batch of all its ranks (features, weights, labels, rank by rank; sizes may differ).
            The value is the global one on every rank, and the gradients' mean over the ranks, as
            DDP and FSDP take it, is the single process's (:mod:`ucmkd.distributed`). All ranks
            must call. Weights are masses of the global batch. Not inside ``torch.compile`` with
            ``fullgraph=True``.
        backend: ``"auto"``, ``"triton"``, ``"rust"`` or ``"torch"``.

    Returns:
        A 0-d tensor, or ``(B,)`` with ``reduction="none"`` and batched features.

    Raises:
        TypeError: Features, weights or labels of the wrong kind.
        ValueError: Shapes, values or names that are not accepted, NaN or infinite features,
            masses that differ while ``reach`` is None; with ``group``, on every rank, what one of
            them refuses or what differs between them.

    Source: Feydy et al. 2019 (arXiv 1810.08278); unbalanced: Sejourne et al. 2019, eq. 20.
    """
    if detach_teacher and isinstance(teacher, Tensor):
        teacher = teacher.detach()
        if isinstance(teacher_weight, Tensor):
            teacher_weight = teacher_weight.detach()
    if group is not None:  # before all checks: a rank must not leave while the others wait
        batch = Batch(
            student, teacher, student_weight, teacher_weight, student_label, teacher_label
        )
        same = dict(
            function="sinkhorn_align", epsilon=epsilon, epsilon_scale=epsilon_scale, cost=cost,
            reach=reach, debias=debias, sharp=sharp, label_cost=label_cost, tol=tol,
            max_iter=max_iter, reduction=reduction, epsilon_schedule=epsilon_schedule,
        )  # fmt: skip
        student, teacher, student_weight, teacher_weight, student_label, teacher_label = (
            global_batch(batch, group, same, check_finite)
        )
        check_finite = False
    _check.one_of(reduction, ("mean", "sum", "none"), "reduction")
    _check.flag(debias, "debias")
    _check.flag(sharp, "sharp")
    if epsilon_scale not in ("mean", None):
        raise ValueError(f"epsilon_scale must be 'mean' or None; got {epsilon_scale!r}")
    check_ratio(epsilon_schedule)
    if state is not None and not isinstance(state, SinkhornState):
        raise TypeError(f"state must be a SinkhornState or None; got {type(state).__name__}")
    relative = epsilon_scale == "mean"
    if (
        student_weight is teacher_weight is student_label is teacher_label is None
        and state is epsilon_schedule is None
        and not sharp
    ):
        simple = two_clouds(
            student, teacher, (epsilon, cost, reach, label_cost, tol, max_iter),
            ("student", "teacher"), relative=relative, debias=debias, accelerate=True,
            check_finite=check_finite, backend=backend,
        )  # fmt: skip
        if simple is not None:
            return simple[0]
    p = prepare(
        student, teacher, epsilon=epsilon, cost=cost, x_weight=student_weight,
        y_weight=teacher_weight, reach=reach, x_label=student_label, y_label=teacher_label,
        label_cost=label_cost, x_potential=None, y_potential=None, tol=tol, max_iter=max_iter,
        names=("student", "teacher"),
    )  # fmt: skip
    dtype = p.dtype
    if sharp:  # the value comes from the potentials
        p = precise(p, cost, backend, relative=relative)
    options: dict[str, Any] = dict(
        cost=cost, relative=relative, tol=tol, max_iter=max_iter, backend=backend
    )
    if debias and p.distance is not None:
        _check.symmetric(p.distance, "label_cost")
    finite = ("student", "teacher") if check_finite else None
    if state is not None and not torch.compiler.is_compiling() and not transformed():
        value = warm_divergence(
            p, state, debias=debias, sharp=sharp, finite=finite, ratio=epsilon_schedule, **options
        )
    else:
        if epsilon_schedule is not None:
            if finite is not None:
                check_clouds(p, finite)
            start, _ = scheduled_start(p, ratio=epsilon_schedule, **options)
            p = p._replace(start=start)
        value = divergence(p, debias=debias, sharp=sharp, finite=finite, **options)
    return reduce(value.to(dtype), reduction)


def feature_align(
    student: Tensor,
    teacher: Tensor,
    *,
    epsilon: Number = 0.1,
    epsilon_scale: Scale = "mean",
    cost: str = "euclidean",
    reach: Reach = None,
    debias: bool = False,
    sharp: bool = False,
    student_weight: Tensor | None = None,
    teacher_weight: Tensor | None = None,
    student_label: Tensor | None = None,
    teacher_label: Tensor | None = None,
    label_cost: Number = 0.0,
    tol: float = 1e-3,
    max_iter: int = 1000,
    reduction: str = "mean",
    detach_teacher: bool = True,
    check_finite: bool = True,
    epsilon_schedule: float | None = None,
    state: SinkhornState | None = None,
    group: Group = None,
    backend: str = "auto",
) -> Tensor:
    r"""FA, the feature alignment of UCMKD: :math:`W_\varepsilon(D^S(z), D^T(z))`.

    :func:`sinkhorn_align` with the paper's choices: Euclidean cost (not squared), ε = 0.1, not
    debiased. The paper's ε is absolute (``epsilon_scale=None``); relative to the mean cost is
    the default here, because a raw distance between wide features is far from 1.
    ``student_label``, ``teacher_label`` and ``label_cost=10`` make it label-aware: the plan then
    avoids pairs of different classes.

    Arguments, result and errors as in :func:`sinkhorn_align`.

    Source: Tran et al. 2026 (arXiv 2606.10504), Definition 2.4 and Algorithm 1.
    """
    return sinkhorn_align(
        student, teacher, epsilon=epsilon, epsilon_scale=epsilon_scale, cost=cost, reach=reach,
        debias=debias, sharp=sharp, student_weight=student_weight, teacher_weight=teacher_weight,
        student_label=student_label, teacher_label=teacher_label, label_cost=label_cost, tol=tol,
        max_iter=max_iter, reduction=reduction, detach_teacher=detach_teacher,
        check_finite=check_finite, epsilon_schedule=epsilon_schedule, state=state, group=group,
        backend=backend,
    )  # fmt: skip


class SinkhornAlign(OptionModule):
    """:func:`sinkhorn_align` as a module; weights, labels and the state are given at the call."""

    def __init__(
        self,
        *,
        epsilon: Number = 0.05,
        epsilon_scale: Scale = "mean",
        cost: str = "sqeuclidean",
        reach: Reach = None,
        debias: bool = True,
        sharp: bool = False,
        label_cost: Number = 0.0,
        tol: float = 1e-3,
        max_iter: int = 1000,
        reduction: str = "mean",
        detach_teacher: bool = True,
        check_finite: bool = True,
        epsilon_schedule: float | None = None,
        group: Group = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            epsilon=epsilon, epsilon_scale=epsilon_scale, cost=cost, reach=reach, debias=debias,
            sharp=sharp, label_cost=label_cost, tol=tol, max_iter=max_iter, reduction=reduction,
            detach_teacher=detach_teacher, check_finite=check_finite,
            epsilon_schedule=epsilon_schedule, group=group, backend=backend,
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
        state: SinkhornState | None = None,
    ) -> Tensor:
        """The loss; arguments as in the function."""
        return sinkhorn_align(
            student, teacher, student_weight=student_weight, teacher_weight=teacher_weight,
            student_label=student_label, teacher_label=teacher_label, state=state,
            **self.options(),
        )  # fmt: skip


class FeatureAlign(SinkhornAlign):
    """:func:`feature_align` as a module; weights, labels and the state are given at the call."""

    def __init__(
        self,
        *,
        epsilon: Number = 0.1,
        cost: str = "euclidean",
        debias: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(epsilon=epsilon, cost=cost, debias=debias, **options)
