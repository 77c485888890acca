r"""The bound of UCMKD, computed: what the teacher's error says about the student's.

Both sides are labelled samples in the teacher's feature space: the teacher's own, and the student's
(projected there, if the widths differ). The teacher's head is linear, :math:`p_T(\cdot|z) =
\mathrm{softmax}(Wz+b)`. Three inequalities, each true of the samples themselves:

*Plug-in.* The label transport of the paper with its own estimates, :math:`D^T(y|z) := p_T(y|z)`
and a Dirac at the student's label, gives

.. math::
    \mathrm{err}_S \le E_T[H(p_T)] + \tau\,W_1(D^T_z, D^S_z) + LA, \qquad
    LA = E_S[-\log p_S(y) + p_T(y|z)\log p_T(y|z)]

with :math:`\tau = \|W-\bar W\|_2\,c_K` (:mod:`ucmkd.theory.certificate_lipschitz`): for
:math:`-p_y\log p_y \le H(p)`, and H changes by at most τ per unit of feature. With
:math:`\mathrm{err}_T` in the place of the entropy, as in the paper, it is sure when
:math:`\mathrm{err}_T \ge E_T[H(p_T)]`, which is reported. It is circular in part: LA contains
the student's own error.

*Non-circular.* For the teacher's head on the student's features, with no student logits in it,

.. math::
    E_S[-\log p_T(y|z)] \le \mathrm{err}_T + \sum_y \pi^S_y L_y W_1(D^S_{z|y}, D^T_{z|y})
    + M\,TV(\pi^S,\pi^T), \qquad L_y = \max_k\|W_k-W_y\|_2,

M the range of the teacher's class-wise errors.

*Through the logits.* The paper's feature alignment may take any distance of features. The head sees
only :math:`l = Wz + b`, and with the distance of logits both alignments shrink: to
:math:`c_K W_1(l_T, l_S)` with the Euclidean distance of centred logits, and to
:math:`\sum_y\pi^S_y W_1` with the largest difference of a logit relative to that of y, in which
:math:`-\log p_y = \log\sum_k e^{l_k-l_y}` has the Lipschitz constant 1.

*Kernel form.* The plug-in bound with :math:`\|f\|\,\mathrm{MMD} + r` for :math:`\tau W_1`
(:mod:`ucmkd.theory.certificate_kernel`).

Source: UCMKD (arXiv 2606.10504), Theorem 2.6 and Appendix D; the computable form, the constants
and the non-circular version are worked out here. Neighbours: Ben-David et al. 2010; Redko, Habrard,
Sebban 2017 (arXiv 1610.04420); Courty et al. 2017 (JDOT, arXiv 1705.08848); Shen et al. 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ucmkd.theory import certificate_sampling as sampling
from ucmkd.theory.certificate_input import Head, Side, head_tensors, limit, numbers, side
from ucmkd.theory.certificate_kernel import FIT_LIMIT, kernel_form
from ucmkd.theory.certificate_lipschitz import (
    class_lipschitz,
    entropy_constant,
    entropy_lipschitz,
)
from ucmkd.theory.certificate_result import Certificate
from ucmkd.theory.certificate_transport import diameter as diameter_of
from ucmkd.theory.certificate_transport import wasserstein

__all__ = ["Certificate", "certificate"]


@torch.no_grad()
def certificate(
    student_features: Tensor,
    student_logits: Tensor,
    student_labels: Tensor,
    teacher_features: Tensor,
    teacher_logits: Tensor | None,
    teacher_labels: Tensor,
    teacher_head: Head,
    *,
    delta: float = 0.05,
    diameter: float | None = None,
    loss_bound: float | None = None,
    epsilon: float = 0.005,
    tol: float = 1e-3,
    max_iter: int = 1000,
    max_points: int = 2048,
    seed: int = 0,
    space: str = "as given",
    backend: str = "auto",
) -> Certificate:
    """The bounds of a trained pair, term by term, in nats (see the module for the formulas).

    The bounds hold on the samples given, whatever they are. The finite-sample terms carry them
    over to the populations, each with probability 1 - δ, for samples that neither model was trained
    or chosen on, and a ``diameter`` and a ``loss_bound`` that are true of the populations; taken
    from the samples, they are too small, and a warning says so. Everything is computed in float64.

    No n × m plan is built beyond ``max_points``²: of larger sides the transport is computed in
    blocks, still an upper bound (:func:`ucmkd.theory.certificate_transport.wasserstein`).

    Args:
        student_features: ``(n, d)``, in the teacher's feature space. A fixed map of the student's
            features to that space is part of what is certified.
        student_logits: ``(n, K)`` of the student itself.
        student_labels: ``(n,)``, integers in 0..K-1.
        teacher_features: ``(m, d)``, of the teacher on its own samples; n ≠ m allowed.
        teacher_logits: ``(m, K)`` of the teacher, to be compared with those that the head gives,
            which are used; None: no comparison.
        teacher_labels: ``(m,)``.
        teacher_head: An ``nn.Linear``, or a pair (W ``(K, d)``, b ``(K,)`` or None).
        delta: δ of the finite-sample terms, in (0, 1).
        diameter: D, the largest distance between two features of the populations; None: that of
            the samples.
        loss_bound: The largest cross-entropy the student can have; None: that of the samples.
        epsilon: Of the transport plan, in units of the mean distance; smaller is tighter.
        tol: Of the solver.
        max_iter: Of the solver.
        max_points: The most points of either side in one plan, and, up to 512, in the fit of the
            kernel form.
        seed: Of the blocks, and of the points that the kernel form is fitted on.
        space: What the student's features are, kept as it is.
        backend: Of the operators.

    Returns:
        A :class:`Certificate`.

    Raises:
        TypeError: Tensors, a head or numbers of the wrong kind.
        ValueError: No samples, shapes that do not fit, NaN or infinite values, labels out of range,
            teacher logits that are not the head's, options out of range, a ``diameter`` or
            ``loss_bound`` that the samples themselves pass.
    """
    numbers(
        delta=delta, epsilon=epsilon, max_points=max_points, diameter=diameter,
        loss_bound=loss_bound, seed=seed,
    )  # fmt: skip
    weight, bias = head_tensors(teacher_head)
    student = side("student", student_features, student_logits, student_labels, (weight, bias))
    teacher = side("teacher", teacher_features, teacher_logits, teacher_labels, (weight, bias))
    teacher = Side(*(tensor.to(student.feature.device) for tensor in teacher))
    weight, bias = weight.to(student.feature.device), bias.to(student.feature.device)
    num_classes, n, m = len(weight), len(student.label), len(teacher.label)

    transferred = student.feature @ weight.T + bias
    loss = F.cross_entropy(student.logits, student.label, reduction="none")
    moved = F.cross_entropy(transferred, student.label, reduction="none")
    teacher_loss = F.cross_entropy(teacher.logits, teacher.label, reduction="none")
    believed = torch.exp(-moved)  # p_T of the student's label
    entropy_s, entropy_t = entropy(transferred), entropy(teacher.logits)

    constant, centred = entropy_constant(num_classes), [
        logits - logits.mean(1, keepdim=True) for logits in (transferred, teacher.logits)
    ]  # fmt: skip
    lipschitz, per_class = entropy_lipschitz(weight), class_lipschitz(weight)
    own = torch.bincount(student.label, minlength=num_classes)
    other = torch.bincount(teacher.label, minlength=num_classes)
    lacking = [k for k in range(num_classes) if own[k] > 0 and other[k] == 0]
    solve = partial(
        wasserstein, epsilon=epsilon, tol=tol, max_iter=max_iter, max_points=max_points, seed=seed,
        backend=backend,
    )  # fmt: skip
    by_class = {0: (math.inf, math.inf)} if lacking else {
        k: _class_alignment(
            k, student, teacher, (transferred, teacher.logits), float(per_class[k]), solve
        )
        for k in range(num_classes)
        if own[k] > 0
    }  # fmt: skip
    kernel = kernel_form(
        student.feature, teacher.feature, entropy_s, entropy_t,
        fit_points=min(FIT_LIMIT, max_points), seed=seed, backend=backend,
    )  # fmt: skip

    warnings = [f"class {k} has student samples and no teacher sample: the class-wise bound is "
                "infinite" for k in lacking]  # fmt: skip
    guessed = [
        name for name, v in (("diameter", diameter), ("loss_bound", loss_bound)) if v is None
    ]
    if guessed:
        warnings.append(
            f"the finite-sample terms take {' and '.join(guessed)} from the samples: the "
            "populations' may be larger"
        )
    reach = limit("diameter", diameter, diameter_of(student.feature, teacher.feature), n + m)
    logit_reach = diameter_of(*centred) if diameter is None else lipschitz / constant * reach
    worst = limit("loss_bound", loss_bound, float(loss.max()))
    plug_in = partial(
        sampling.plug_in_deviation, loss_bound=worst, num_classes=num_classes, n=n, m=m, delta=delta
    )
    return Certificate(
        student_error=float(loss.mean()),
        teacher_error=float(teacher_loss.mean()),
        teacher_entropy=float(entropy_t.mean()),
        entropy_constant=constant,
        spectral_norm=lipschitz / constant,
        lipschitz=lipschitz,
        wasserstein=solve(student.feature, teacher.feature),
        logit_wasserstein=solve(*centred),
        label_alignment=float((loss - believed * moved).mean()),
        transfer_error=float(moved.mean()),
        class_alignment=sum(pair[0] for pair in by_class.values()),
        class_logit_alignment=sum(pair[1] for pair in by_class.values()),
        prior_mismatch=_prior_mismatch(teacher_loss, teacher.label, own, other),
        mmd=kernel.mmd,
        kernel_norm=kernel.norm,
        kernel_residual=kernel.residual,
        delta=float(delta),
        finite_sample=plug_in(lipschitz=lipschitz, diameter=reach),
        logit_finite_sample=plug_in(lipschitz=constant, diameter=logit_reach),
        class_finite_sample=sampling.class_deviation(per_class, own, other, reach, delta),
        class_logit_finite_sample=sampling.class_deviation(
            torch.ones_like(per_class), own, other, math.sqrt(2) * logit_reach, delta
        ),
        kernel_finite_sample=sampling.kernel_deviation(
            norm=kernel.norm, loss_bound=worst, num_classes=num_classes, n=n, m=m, delta=delta
        ),
        diameter=reach,
        loss_bound=worst,
        num_classes=num_classes,
        student_samples=n,
        teacher_samples=m,
        blocks=math.ceil(max(n, m) / max_points),
        space=space,
        warnings=tuple(warnings),
    )  # fmt: skip


def entropy(logits: Tensor) -> Tensor:
    """Entropy (n,) in nats of the softmax of ``logits`` (n, K)."""
    return torch.special.entr(logits.softmax(dim=1)).sum(dim=1)


def _class_alignment(
    k: int,
    student: Side,
    teacher: Side,
    logits: tuple[Tensor, Tensor],
    lipschitz: float,
    solve: Callable[..., float],
) -> tuple[float, float]:
    """π L W1 and π W1 of class ``k``: of the features, and of the logits relative to that of k."""
    rows, others = student.label == k, teacher.label == k
    share = float(rows.double().mean())
    relative = [side[part] for side, part in zip(logits, (rows, others), strict=True)]
    relative = [part - part[:, k : k + 1] for part in relative]
    distance = solve(student.feature[rows], teacher.feature[others])
    return share * lipschitz * distance, share * solve(*relative, distance="chebyshev")


def _prior_mismatch(loss: Tensor, label: Tensor, own: Tensor, other: Tensor) -> float:
    r"""M·TV ≥ :math:`\sum_y(\pi^S_y-\pi^T_y)e_y`, M the range of the class-wise errors e."""
    total_variation = 0.5 * float((own / own.sum() - other / other.sum()).abs().sum())
    errors = torch.zeros(len(other), dtype=loss.dtype, device=loss.device)
    errors.index_add_(0, label, loss)
    mean = errors[other > 0] / other[other > 0]
    return float(mean.max() - mean.min()) * total_variation
