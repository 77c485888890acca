"""One outer step of Algorithm 1 of UCMKD: the inner loops at a copy, and the gradient there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ucmkd.methods.collapse import Seen, spread
from ucmkd.methods.inner import InnerOptimizer, Parameters, pull, seen
from ucmkd.models import Student


class Call(nn.Module):
    """The student as one callable, for ``functional_call``: a part of it at a time."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, inputs: Tensor, part: str) -> Any:
        """``"encoder"``: features; ``"head"``: logits of features; ``"outputs"``: both."""
        return getattr(self.student, part)(inputs)

    def at(self, parameters: Parameters, inputs: Tensor, part: str) -> Any:
        """The same at other parameters; buffers are shared, not copied."""
        named = {f"student.{k}": v for k, v in parameters.items()}
        return torch.func.functional_call(self, named, (inputs, part))


class FeatureTerm(Protocol):
    """FA of projected features; ``origin`` as in :class:`ucmkd.methods.alignment.Alignment`."""

    def __call__(self, projected: Tensor, origin: Tensor | None) -> Tensor: ...


class LabelTerm(Protocol):
    """LA of the student's logits and of the projected features behind them."""

    def __call__(self, logits: Tensor, projected: Tensor, origin: Tensor | None) -> Tensor: ...


class OuterStep:
    """A copy of the student, moved by inner steps.

    Args:
        call: The student.
        projector: The map to the teacher's features. It stays fixed, and collects gradients.
        optimizer: Of the inner steps; its ``differentiable`` decides about second derivatives.
        head_alone: LA sees the features as constants.
    """

    def __init__(
        self, call: Call, projector: nn.Module, optimizer: InnerOptimizer, *, head_alone: bool
    ) -> None:
        self.call = call
        self.projector = projector
        self.optimizer = optimizer
        self.second = optimizer.differentiable
        self.head_alone = head_alone
        named = call.student.named_parameters()
        self.originals = {k: p for k, p in named if p.requires_grad}
        self.start: Parameters = {k: p.detach().requires_grad_() for k, p in self.originals.items()}
        self.copy = dict(self.start)
        self._own = dict(projector.named_parameters())
        #: What the projector is to descend, as a scalar of that gradient: it goes through the one
        #: call of `backward`, so that a loss scaler treats it as it treats the others.
        self.carrier: Tensor | float = 0.0
        self.terms: dict[str, Tensor] = {}
        self.looks: list[Seen] = []

    def feature_steps(
        self, inputs: Tensor, term: FeatureTerm, *, steps: int, scale: float, weight: float
    ) -> None:
        """Algorithm 1, step 2: ``φ ← φ - η scale ∇FA``; ``weight`` is the projector's."""
        for _ in range(steps):
            z = self.call.at(self.copy, inputs, "encoder")
            view = seen(z)
            leaves = self._leaves()
            loss = term(self._project(view, leaves), self._origin(z))
            self._note("fa", z, loss)
            self._descend(loss, [view], [z], [self.copy], leaves, scale, weight / steps)

    def label_steps(
        self, inputs: Tensor, term: LabelTerm, *, steps: int, scale: float, weight: float
    ) -> None:
        """Algorithm 1, step 3: ``(φ, p_S) ← (φ, p_S) - η scale ∇LA``."""
        for _ in range(steps):
            through = self.copy
            if self.head_alone:
                # A second name for the head's weights: its gradient does not reach the encoder,
                # and yet depends on the encoder when it is differentiated in its turn.
                through = {k: w.view_as(w) for k, w in self.copy.items()}
                z = self.call.at(self.copy, inputs, "encoder")
                logits = self.call.at(through, z, "head")
            else:
                z, logits = self.call.at(self.copy, inputs, "outputs")
            views = [seen(z), seen(logits)]
            leaves = self._leaves()
            loss = term(views[1], self._project(views[0], leaves), self._origin(z))
            self._note("la", z, loss)
            sources = [self.copy, through]
            self._descend(loss, views, [z, logits], sources, leaves, scale, weight / steps)

    def finish(self, inputs: Tensor, cross_entropy: Callable[[Tensor], Tensor]) -> Tensor:
        """Step 4: the cross-entropy at the copy, with the projector's share."""
        z, logits = self.call.at(self.copy, inputs, "outputs")
        ce = cross_entropy(logits)
        self._note("ce", z, ce)
        return ce + self.carrier

    def hand_over(self) -> None:
        """Add the gradient that :meth:`finish` left to that of the original parameters.

        To first order it is taken at the copy, to second order at the start of the inner steps.
        """
        leaves = self.start if self.second else self.copy
        for name, parameter in self.originals.items():
            gradient = leaves[name].grad
            if gradient is not None:
                old = parameter.grad
                parameter.grad = gradient if old is None else old + gradient

    def _leaves(self) -> Parameters:
        """The projector's weights, new for each step: earlier steps depend on them as well."""
        return {k: p.detach().requires_grad_() for k, p in self._own.items()}

    def _project(self, features: Tensor, weights: Parameters) -> Tensor:
        return torch.func.functional_call(self.projector, weights, (features,))

    def _origin(self, features: Tensor) -> Tensor | None:
        if not self.second:
            return None
        return self._project(features, {k: p.detach() for k, p in self._own.items()})

    def _note(self, name: str, features: Tensor, loss: Tensor) -> None:
        self.terms.setdefault(name, loss.detach())
        self.looks.append(Seen(name.upper(), spread(features), loss.detach()))

    def _descend(
        self,
        loss: Tensor,
        views: list[Tensor],
        outputs: list[Tensor],
        sources: list[Parameters],
        leaves: Parameters,
        scale: float,
        share: float,
    ) -> None:
        gradients, own = pull(
            loss, views, outputs, sources, own=list(leaves.values()), create_graph=self.second
        )
        for w, g in zip(self._own.values(), own, strict=True):
            if g is not None:
                self.carrier = self.carrier + share * (w * g.detach()).sum()
        gradients = {k: scale * g for k, g in gradients.items()}
        self.copy = self.optimizer.step(self.copy, gradients)
