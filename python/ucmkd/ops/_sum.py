r"""Sums of solves as one autograd node: the operator's eager form, without the dispatcher.

A call through ``torch.library`` costs as much as a small problem. In plain eager mode nothing
needs it: the solves of :math:`\sum_k c_k\,\mathrm{OT}_k` (one, or the three of a divergence) run
one after the other, their gradients are added up on the spot, and autograd sees a single node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ucmkd import _backend
from ucmkd.ops import _check, _envelope
from ucmkd.ops._scale import scale as scale_by
from ucmkd.ops._sinkhorn_op import absolute, class_gradient, second_order
from ucmkd.ops._solve import Flag, as_numpy, as_tensor, as_tensors, solve
from ucmkd.reference import Solution


class Term(NamedTuple):
    """One solve of a sum: ``coefficient * OT(first, second)`` with sides 0 (x) and 1 (y)."""

    coefficient: float
    first: int
    second: int
    solution: Solution
    parameters: Any  # those of the solve, (4, B): a tensor, or an array beside arrays


class Sum:
    """The options of the solves, and what they leave for the backward."""

    def __init__(
        self,
        labels: tuple[Tensor | None, Tensor | None],
        starts: tuple[Tensor | None, Tensor | None, Tensor | None],
        *,
        cost: str,
        relative: bool,
        tol: float,
        max_iter: int,
        accelerate: bool,
        debias: bool,
        even: bool,
        single: bool,
        narrow: int,
        finite: tuple[str, str] | None,
        known: Callable[[Tensor, Tensor], Tensor] | None,
        backend: str,
    ) -> None:
        self.labels = labels
        self.starts = starts
        self.cost = cost
        self.relative = relative
        self.tol = tol
        self.max_iter = max_iter
        self.accelerate = accelerate
        self.debias = debias
        self.even = even
        #: The points come without the batch dimension, and so does the value.
        self.single = single
        self.narrow = narrow
        #: Names of x and y for an error if they are not finite; None: they are not looked at.
        self.finite = finite
        self.backend = backend
        #: The self-term of y from elsewhere, without gradients: its value at these parameters.
        self.known = known
        self.terms: list[Term] = []
        self.grad_x: Tensor | None = None
        self.grad_y: Tensor | None = None

    def run(
        self,
        points: tuple[Tensor, Tensor],
        weights: tuple[Tensor | None, Tensor | None],
        parameters: Tensor,
        distance: Tensor | None,
        wanted: Sequence[bool],
    ) -> Tensor:
        """All solves; returns the sum. ``wanted``: gradients to x, to y, to distance."""
        dtype = points[0].dtype
        # Arrays for the backend that takes them: each operation on a small tensor costs as much
        # as ten iterations on a small problem.
        clouds: tuple[Any, Any] = points
        numbers: Any = parameters
        if self.backend == "rust":
            clouds = (as_numpy(points[0]), as_numpy(points[1]))
            numbers = as_numpy(parameters)
        if self.finite is not None:
            for tensor, cloud, name in zip(points, clouds, self.finite, strict=True):
                _check.finite(tensor, name, single=self.single, array=cloud)
        if self.single:
            clouds = (clouds[0][None], clouds[1][None])
        common = Flag.ACCELERATE * self.accelerate | Flag.DISTANCE * wanted[2] | self.narrow

        def one(first: int, second: int, parameters: Any, start: Tensor | None) -> Solution:
            own = first == second
            flags = common | Flag.X * wanted[first]
            if not own:
                flags |= Flag.Y * wanted[1] | Flag.RELATIVE * self.relative
            return solve(
                clouds[first], None if own else clouds[second], weights[first],
                None if own else weights[second], self.labels[first],
                None if own else self.labels[second], distance, start, parameters, self.cost,
                self.tol, self.max_iter, int(flags), self.backend,
            )  # fmt: skip

        cross = one(0, 1, numbers, self.starts[0])
        self.terms = [Term(1.0, 0, 1, cross, numbers)]
        value: Any = cross.value
        if self.debias:
            unit: Any = cross.scale
            own_parameters = numbers * unit if self.relative else numbers
            for i in (0, 1):
                if i == 1 and self.known is not None:
                    known = self.known(as_tensor(own_parameters), as_tensor(unit))
                    value = as_tensor(value) - 0.5 * known
                    continue
                mine = own_parameters if i == 0 else self._y_parameters(own_parameters)
                own = one(i, i, mine, self.starts[1 + i])
                self.terms.append(Term(-0.5, i, i, own, mine))
                value = value - 0.5 * own.value
        if wanted[0]:
            self.grad_x = self._added(0)
        if wanted[1]:
            self.grad_y = self._added(1)
        if isinstance(value, np.ndarray):  # one small tensor in place of three
            value = value.astype(np.float32 if dtype == torch.float32 else np.float64)
            return torch.from_numpy(value.reshape(()) if self.single else value)
        value = value.to(dtype)
        return value[0] if self.single else value

    def _y_parameters(self, parameters: Any) -> Any:
        """A self-term reads ρ of its own side in the place of ρ_x."""
        return parameters if self.even else parameters[[0, 2, 2, 3]]

    def _added(self, side: int) -> Tensor:
        """The gradients of all solves to one side's points, in the memory of the first."""
        total: Any = None
        for term in self.terms:
            if side not in (term.first, term.second):
                continue
            cross = term.first != term.second
            part = term.solution.grad_y if cross and side == 1 else term.solution.grad_x
            if total is None:
                total = part
            elif isinstance(total, np.ndarray):
                _backend.rust().add_scaled(total, term.coefficient, part)
            else:
                total += term.coefficient * part
        return as_tensor(total[0] if self.single else total)

    def backward(
        self, saved: Callable[[], Sequence[Tensor | None]], need: Sequence[bool], factor: Tensor
    ) -> list[Tensor | None]:
        """Gradients to x, y, a, b, parameters, distance."""
        out: list[Tensor | None] = [None] * 6
        for i, gradient in ((0, self.grad_x), (1, self.grad_y)):
            if need[i] and gradient is not None:
                out[i] = scale_by(gradient, factor)
        if any(need[2:]):
            inputs = saved()
            for term in self.terms:
                self._add_rest(out, term, inputs, need, factor.reshape(-1))
        return out

    def _add_rest(
        self,
        out: list[Tensor | None],
        term: Term,
        inputs: Sequence[Tensor | None],
        need: Sequence[bool],
        factor: Tensor,
    ) -> None:
        s, weights, parameters = as_tensors(term.solution), inputs[2:4], as_tensor(term.parameters)
        a, b = weights[term.first], weights[term.second]
        own = term.first == term.second
        wanted = (need[2 + term.first], need[2 + term.second], need[4])
        sides = _envelope.Sides(
            s.x_potential, s.y_potential, s.row, s.column, s.transport, s.mismatch
        )
        grad_a, grad_b, grad_p = _envelope.gradients(
            sides, a, b, absolute(parameters, s.scale), wanted, symmetric=own
        )
        weight = term.coefficient * factor.double()
        for side, gradient in ((term.first, grad_a), (term.second, grad_b)):
            if gradient is not None:
                _accumulate(out, 2 + side, weight.unsqueeze(-1) * gradient, inputs)
        if grad_p is not None:
            # ε and λ of a self-term are those of the cross term, in the cross term's unit.
            unit = as_tensor(self.terms[0].solution.scale)
            if own and term.first == 1:
                grad_p = torch.stack([grad_p[0], torch.zeros_like(grad_p[0]), grad_p[1], grad_p[3]])
            _accumulate(out, 4, weight * unit * grad_p, inputs)
        if need[5]:
            _accumulate(out, 5, class_gradient(s, parameters, weight), inputs)

    def twice(
        self, saved: Callable[[], Sequence[Tensor | None]], need: Sequence[bool], factor: Tensor
    ) -> list[Tensor | None]:
        """:meth:`backward` as a differentiable function."""
        inputs = x, y, a, b, parameters, distance = saved()
        assert x is not None and y is not None and parameters is not None
        factor = factor.reshape(-1)
        if self.single:
            x, y = x.unsqueeze(0), y.unsqueeze(0)
        points, weights = (x, y), (a, b)
        out: list[Tensor | None] = [None] * 6
        unit = as_tensor(self.terms[0].solution.scale)
        for term in self.terms:
            i, j = term.first, term.second
            own = i == j
            own_parameters = parameters
            if own:
                own_parameters = absolute(parameters, unit)
                own_parameters = own_parameters if i == 0 else self._y_parameters(own_parameters)
            wanted = [need[i], need[j] and not own, need[2 + i], need[3] and not own, *need[4:]]
            given = [
                points[i], None if own else points[j], weights[i], None if own else weights[j],
                own_parameters, distance,
            ]  # fmt: skip
            labels = (self.labels[i], None if own else self.labels[j])
            found = second_order(
                as_tensors(term.solution),
                given,
                labels,
                wanted,
                self.cost,
                term.coefficient * factor,
            )
            grad_p = found[4]
            if grad_p is not None and own:
                grad_p = grad_p * unit
                if i == 1:
                    nothing = torch.zeros_like(grad_p[0])
                    grad_p = torch.stack([grad_p[0], nothing, grad_p[1], grad_p[3]])
            for place, gradient in (
                (i, found[0]), (j, found[1]), (2 + i, found[2]), (2 + j, found[3]), (4, grad_p),
                (5, found[5]),
            ):  # fmt: skip
                if gradient is not None:
                    if self.single and place < 2:
                        gradient = gradient.squeeze(0)
                    _accumulate(out, place, gradient, inputs)
        return out


def _accumulate(
    out: list[Tensor | None], place: int, gradient: Tensor, inputs: Sequence[Tensor | None]
) -> None:
    given, before = inputs[place], out[place]
    assert given is not None
    gradient = gradient.to(given.dtype)
    out[place] = gradient if before is None else before + gradient


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        job: Sum,
        x: Tensor,
        y: Tensor,
        a: Tensor | None,
        b: Tensor | None,
        parameters: Tensor,
        distance: Tensor | None,
    ) -> Tensor:
        wanted = (ctx.needs_input_grad[1], ctx.needs_input_grad[2], ctx.needs_input_grad[6])
        value = job.run((x, y), (a, b), parameters, distance, wanted)
        ctx.job = job
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, y, a, b, parameters, distance)
        return value

    @staticmethod
    def backward(ctx: Any, grad_value: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_value is None:
            return (None,) * 7
        work = ctx.job.twice if torch.is_grad_enabled() else ctx.job.backward
        return (None, *work(lambda: ctx.saved_tensors, ctx.needs_input_grad[1:], grad_value))


def total(
    job: Sum,
    x: Tensor,
    y: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    parameters: Tensor,
    distance: Tensor | None,
) -> Tensor:
    """The sum ``(B,)``, 0-d for a single problem; ``job.terms`` holds the solutions after it."""
    return _Sum.apply(job, x, y, a, b, parameters, distance)
