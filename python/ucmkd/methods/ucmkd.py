"""UCMKD: feature and label alignment, bilevel or as a plain sum (arXiv 2606.10504)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ucmkd.losses import label_align
from ucmkd.methods import checks
from ucmkd.methods.base import Batch, Method
from ucmkd.methods.feature_kd import aligned
from ucmkd.methods.parts import make_projector
from ucmkd.models import Student

Parameters = dict[str, Tensor]


class _Call(nn.Module):
    """The student as one callable, for ``functional_call``: features alone, or logits too."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, inputs: Tensor, head: bool) -> tuple[Tensor, Tensor | None]:
        return self.student.outputs(inputs) if head else (self.student.encoder(inputs), None)


def descend(parameters: Parameters, gradients: Parameters, lr: float) -> Parameters:
    """One step of gradient descent, ``w - lr g``, as new leaves; no graph is kept."""
    return {
        name: (w - lr * gradients[name]).detach().requires_grad_() if name in gradients else w
        for name, w in parameters.items()
    }


class UCMKD(Method):
    r"""``ucmkd``: Universal Cross-Modal Knowledge Distillation (Tran et al., ICML 2026).

    ``bilevel=True`` is Algorithm 1 as printed. In each step, (1) copy the encoder φ and the head
    p_S; (2) ``n1`` times ``φ ← φ - η λ1 ∇FA``; (3) ``n2`` times
    ``(φ, p_S) ← (φ, p_S) - η λ2 ∇LA``; (4) take the gradient of the cross-entropy at the copy and
    apply it to the *original* parameters (first-order MAML). ``bilevel=False`` is the plain sum
    ``CE + λ1 FA + λ2 LA``.

    FA is the entropic transport cost between student and teacher features
    (:func:`ucmkd.losses.feature_align`); LA is
    ``mean[-log p_S(y|φ) + κ log p_T(y|φ)]`` with the frozen teacher head p_T on the student's
    features and ``κ = p_T(y|φ)`` (:func:`ucmkd.losses.label_align`).

    Where the authors' released code and the paper differ, and what is done here:

    - *Label alignment.* The code detaches the student features and runs the teacher head without
      gradients, so that LA reduces to CE on the student's head. Here as printed: φ receives the
      gradient through both heads, and κ is detached. Note that ``+κ log p_T`` pushes the student
      away from the teacher's score of the true class.
    - *Inner steps.* The code uses AdamW (lr 1e-5, weight decay .05) and no λ; here as printed,
      plain descent with η λ. Large steps can collapse the student within one outer step; hence
      the default .01, and a warning from .1 on.
    - *Outer step.* First-order MAML as in both. Clipping (5.0 in the code) is the trainer's.
    - *Buffers.* The code copies the BatchNorm buffers of the copy back. Here the copy shares the
      buffers of the original, which has the same effect: running statistics see every pass.
    - *Feature alignment.* The code takes an absolute ε = .1 in a float32 scaling loop, which
      underflows for costs above 10, and returns ``<P, M>`` alone. Here ε is .1 of the mean cost
      (``epsilon_scale=None`` for absolute), solved stably, with the entropy in the value; the
      gradient to the features has the form ``Σ P ∇M`` in both.
    - *Unequal widths.* The code truncates to the smaller; here a learned projector. As CE does
      not depend on it, in bilevel training it takes the mean gradient of ``λ1 FA`` and of
      ``λ2 LA`` over the inner steps in the outer step, and stays fixed within.
    - *Batches.* The code's "unpaired" loaders draw both modalities from the same class; here the
      two loaders are independent.

    Dropout draws a new mask in each of the ``n1 + n2 + 1`` passes, from torch's generator, so a
    seed fixes a run. Gradients of the bilevel form are written into the parameters' ``.grad``
    directly, where the hooks of ``DistributedDataParallel`` do not see them: with several
    processes average them after :meth:`backward`, as the trainer does.

    Terms: ``ce`` (bilevel: at the adapted copy), ``fa``, ``la`` (bilevel: before the first inner
    step of its kind).

    Args:
        student: The model to train.
        bilevel: Algorithm 1, or the plain sum.
        fa_weight: λ1 ≥ 0.
        la_weight: λ2 ≥ 0.
        inner_lr: η > 0 of the inner steps.
        fa_steps: n1 ≥ 0.
        la_steps: n2 ≥ 0.
        detach_kappa: Hold κ fixed in the gradient of LA.
        cost: Cost of FA, as in :func:`ucmkd.losses.feature_align`.
        epsilon: Regularisation of FA.
        epsilon_scale: ``"mean"`` or None (absolute).
        projector: ``"auto"``, ``"linear"`` or ``"identity"``.
        tol: Stop FA at this marginal residual.
        max_iter: Most iterations of FA.
        **options: The options of :class:`ucmkd.methods.Method`; ``teacher_head`` is needed.

    Raises:
        ValueError: A weight or a number of steps is negative, ``inner_lr`` is not positive, or
            an option of the base class is wrong.

    Warns:
        UserWarning: ``inner_lr`` is at least .1 (bilevel).
    """

    name: ClassVar[str] = "ucmkd"
    needs_teacher = True
    needs_head = True
    requires = ("teacher_feature",)

    def __init__(
        self,
        student: Student,
        *,
        bilevel: bool = True,
        fa_weight: float = 1.0,
        la_weight: float = 1.0,
        inner_lr: float = 0.01,
        fa_steps: int = 1,
        la_steps: int = 1,
        detach_kappa: bool = True,
        cost: str = "euclidean",
        epsilon: float = 0.1,
        epsilon_scale: str | None = "mean",
        projector: str = "auto",
        tol: float = 1e-3,
        max_iter: int = 100,
        **options: Any,
    ) -> None:
        super().__init__(student, **options)
        checks.flag("bilevel", bilevel)
        checks.flag("detach_kappa", detach_kappa)
        checks.number("fa_weight", fa_weight)
        checks.number("la_weight", la_weight)
        checks.integer("fa_steps", fa_steps)
        checks.integer("la_steps", la_steps)
        checks.number("inner_lr", inner_lr, strict=True)
        if bilevel and inner_lr >= 0.1:
            warnings.warn(
                f"inner_lr={inner_lr}: inner steps of .1 and more can collapse the student "
                "(the default is .01)",
                stacklevel=2,
            )
        self.bilevel = bilevel
        self.fa_weight = fa_weight
        self.la_weight = la_weight
        self.inner_lr = inner_lr
        self.fa_steps = fa_steps
        self.la_steps = la_steps
        self.detach_kappa = detach_kappa
        self.align = checks.alignment(
            cost=cost, epsilon=epsilon, epsilon_scale=epsilon_scale, tol=tol, max_iter=max_iter
        )
        self.projector = make_projector(student.width, self.teacher_width, projector)
        # In a list, so that the student is not registered twice.
        self._call = [_Call(student)]

    def weights(self, step: int) -> dict[str, float]:
        """``{"ce": 1, "fa": λ1, "la": λ2}``; in bilevel training λ act in the inner steps."""
        fa = self.fa_weight if self.fa_steps or not self.bilevel else 0.0
        la = self.la_weight if self.la_steps or not self.bilevel else 0.0
        return {"ce": 1.0, "fa": fa, "la": la}

    def feature_term(self, features: Tensor, batch: Batch) -> Tensor:
        """FA of student features ``(n, width)``."""
        assert batch.teacher_feature is not None
        return aligned(self.projector(features), batch.teacher_feature, self.align)

    def label_term(self, features: Tensor, logits: Tensor, batch: Batch) -> Tensor:
        """LA of student features ``(n, width)`` and logits ``(n, C)``."""
        teacher = self.head_logits(self.projector(features))
        return label_align(logits, teacher, batch.student_label, detach_kappa=self.detach_kappa)

    def terms(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """``{"ce", "fa", "la"}`` at the current parameters."""
        features, logits = self.student.outputs(batch.student)
        return {
            "ce": self.cross_entropy(logits, batch.student_label),
            "fa": self.feature_term(features, batch),
            "la": self.label_term(features, logits, batch),
        }

    def backward(
        self, batch: Batch, step: int, backward: Callable[[Tensor], None] | None = None
    ) -> dict[str, Tensor]:
        """Fill the gradients of this step (Algorithm 1 when bilevel); returns the terms."""
        if not self.bilevel:
            return super().backward(batch, step, backward)
        batch = self.prepare(batch)
        originals = {k: p for k, p in self.student.named_parameters() if p.requires_grad}
        copy: Parameters = {k: p.detach().requires_grad_() for k, p in originals.items()}
        terms: dict[str, Tensor] = {}
        # Carries the inner gradients to the projector through the one call of `backward`, so
        # that a loss scaler treats them as it treats the others.
        carrier = batch.student.new_zeros(())

        def inner(name: str, loss: Tensor, weight: float, steps: int) -> None:
            nonlocal copy, carrier
            terms.setdefault(name, loss.detach())
            own = list(self.projector.parameters())
            wanted = [*copy.values(), *own]
            grads = torch.autograd.grad(weight * loss, wanted, allow_unused=True)
            found = {k: g for k, g in zip(copy, grads, strict=False) if g is not None}
            for w, g in zip(own, grads[len(copy) :], strict=True):
                if g is not None:
                    carrier = carrier + (w * g).sum() / steps
            copy = descend(copy, found, self.inner_lr)

        for _ in range(self.fa_steps):
            features, _none = self._run(copy, batch.student, head=False)
            inner("fa", self.feature_term(features, batch), self.fa_weight, self.fa_steps)
        for _ in range(self.la_steps):
            features, logits = self._run(copy, batch.student)
            inner("la", self.label_term(features, logits, batch), self.la_weight, self.la_steps)

        logits = self._run(copy, batch.student)[1]
        ce = self.cross_entropy(logits, batch.student_label)
        (backward or Tensor.backward)(ce + carrier)
        for name, parameter in originals.items():
            gradient = copy[name].grad
            if gradient is not None:
                old = parameter.grad
                parameter.grad = gradient if old is None else old + gradient
        return {"ce": ce.detach(), **terms}

    def _run(self, parameters: Parameters, inputs: Tensor, head: bool = True) -> Any:
        """The student at other parameters; its buffers are shared, not copied."""
        named = {f"student.{k}": v for k, v in parameters.items()}
        return torch.func.functional_call(self._call[0], named, (inputs, head))
