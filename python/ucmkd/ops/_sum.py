r"""Sums of solves as one autograd node: the operator's eager form, without the dispatcher.

A call through ``torch.library`` costs as much as a small problem. In plain eager mode nothing
needs it: the solves of :math:`\sum_k c_k\,\mathrm{OT}_k` (one, or the three of a divergence) run
one after the other, their gradients are added up on the spot, and autograd sees a single node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ucmkd import _backend
from ucmkd.ops import _check, _envelope
from ucmkd.ops._plain import tracked
from ucmkd.ops._scale import saturated
from ucmkd.ops._scale import scale as scale_by
from ucmkd.ops._sinkhorn_op import absolute, class_gradient, second_order
from ucmkd.ops._solve import Flag, as_numpy, as_tensor, as_tensors, solve, solve_together
from ucmkd.reference import Solution


class Term(NamedTuple):
    """One solve of a sum: ``coefficient * OT(first, second)`` with sides 0 (x) and 1 (y)."""

    coefficient: float
    first: int
    second: int


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
        self._solutions: list[Solution | None] = []
        self._solved: Any = None  # what the Rust call has left
        self._parameters: Any = None
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
        if self.backend == "rust":
            return self._run_rust(points, weights, parameters, distance, wanted)
        if self.finite is not None:
            for tensor, name in zip(points, self.finite, strict=True):
                _check.finite(tensor, name)
        clouds = points
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

        self._parameters = parameters
        sides = (0, 1)[: 2 - (self.known is not None)] if self.debias else ()
        found = None
        if self.backend == "triton" and sides:
            flags = common | Flag.X * wanted[0] | Flag.Y * wanted[1] | Flag.RELATIVE * self.relative
            found = solve_together(
                *clouds, *weights, *self.labels, distance, self.starts, parameters, self.cost,
                self.tol, self.max_iter, int(flags), sides,
            )  # fmt: skip
        cross = one(0, 1, parameters, self.starts[0]) if found is None else found[0]
        self.terms, self._solutions = [Term(1.0, 0, 1)], [cross]
        value = cross.value
        for i in sides:
            if found is None:
                own = one(i, i, self._own_parameters(i), self.starts[1 + i])
            else:
                own = found[1 + i]
                # Its parameters are already absolute: those of _own_parameters.
                own = own._replace(scale=torch.ones_like(own.scale))
            self.terms.append(Term(-0.5, i, i))
            self._solutions.append(own)
            value = value - 0.5 * own.value
        if self.debias and self.known is not None:
            value = value - 0.5 * self.known(self._own_parameters(0), cross.scale)
        if wanted[0]:
            self.grad_x = self._added(0)
        if wanted[1]:
            self.grad_y = self._added(1)
        value = value.to(points[0].dtype)
        return value[0] if self.single else value

    def _run_rust(
        self,
        points: tuple[Tensor, Tensor],
        weights: tuple[Tensor | None, Tensor | None],
        parameters: Tensor,
        distance: Tensor | None,
        wanted: Sequence[bool],
    ) -> Tensor:
        """All terms in one call, on arrays: each operation on a small tensor costs as much as ten
        iterations on a small problem."""
        x, y = as_numpy(points[0]), as_numpy(points[1])
        numbers = as_numpy(parameters)
        own_y = self.debias and self.known is None
        solved = _backend.rust().divergence(
            x,
            y,
            as_numpy(weights[0]),
            as_numpy(weights[1]),
            as_numpy(self.labels[0]),
            as_numpy(self.labels[1]),
            as_numpy(distance),
            *map(as_numpy, self.starts),
            numbers,
            self.cost,
            self.relative,
            self.tol,
            self.max_iter,
            *wanted,
            self.accelerate,
            self.debias,
            own_y,
            self.finite is not None,
            _backend.cache_budget(),
            torch.get_num_threads(),
        )
        if solved is None:
            for tensor, name in zip(points, self.finite or (), strict=True):
                _check.finite(tensor, name)

        self.adopt(solved, numbers)
        if wanted[0]:
            self.grad_x = torch.from_numpy(solved.gradient(0))
        if wanted[1]:
            self.grad_y = torch.from_numpy(solved.gradient(1))
        value = torch.from_numpy(solved.value)
        if self.debias and self.known is not None:
            known = self.known(as_tensor(self._own_parameters(0)), as_tensor(solved.scale))
            value = torch.from_numpy(solved.less_half(known.numpy()))
        return value

    def adopt(self, solved: Any, numbers: Any) -> None:
        """What a Rust call at these parameters has left becomes that of this sum."""
        self._solved, self._parameters = solved, numbers
        self.terms = [Term(1.0, 0, 1)]
        if self.debias:
            self.terms.append(Term(-0.5, 0, 0))
            if self.known is None:
                self.terms.append(Term(-0.5, 1, 1))
        self._solutions = [None] * len(self.terms)

    def solution(self, term: int) -> Solution:
        """What the solve of a term found, arrays or tensors; a plain backward needs none of it."""
        found = self._solutions[term]
        if found is None:
            place = 1 + self.terms[term].first if term else 0
            found = self._solutions[term] = Solution(*self._solved.term(place))
        return found

    def report(self) -> tuple[Tensor, ...] | None:
        """Potentials, iterations, residual and convergence of the cross term as users get them;
        None where :meth:`solution` has them."""
        if self._solved is None:
            return None
        return tuple(map(torch.from_numpy, self._solved.report()))

    def _unit(self) -> Any:
        """The unit of ε, the reaches and the label cost, ``(B,)``."""
        return self.solution(0).scale if self._solved is None else self._solved.scale

    def _own_parameters(self, side: int) -> Any:
        """Those of the self-term of a side, absolute; it reads ρ_x."""
        mine = self._parameters * self._unit() if self.relative else self._parameters
        return mine if self.even or not side else mine[[0, 2, 2, 3]]

    def _added(self, side: int) -> Tensor:
        """The gradients of all solves to one side's points."""
        total: Any = None
        for k, term in enumerate(self.terms):
            if side not in (term.first, term.second):
                continue
            cross, solution = term.first != term.second, self.solution(k)
            part = solution.grad_y if cross and side == 1 else solution.grad_x
            total = part if total is None else total + term.coefficient * part
        result: Tensor = total[0] if self.single else total
        return result

    def backward(
        self, inputs: Sequence[Tensor | None], need: Sequence[bool], factor: Tensor
    ) -> list[Tensor | None]:
        """Gradients to x, y, a, b, parameters, distance; the first two need no ``inputs``."""
        out: list[Tensor | None] = [None] * 6
        if need[0] and self.grad_x is not None:
            out[0] = scale_by(self.grad_x, factor)
        if need[1] and self.grad_y is not None:
            out[1] = scale_by(self.grad_y, factor)
        if inputs:
            factor = factor.reshape(-1).double()
            for term in range(len(self.terms)):
                self._add_rest(out, term, inputs, need, factor)
            for place in (2, 3, 4):
                gradient, given = out[place], inputs[place]
                if gradient is not None and given is not None:
                    rows = factor if place == 4 else factor.unsqueeze(-1)
                    out[place] = saturated(gradient, rows, given.dtype)
        return out

    def _add_rest(
        self,
        out: list[Tensor | None],
        index: int,
        inputs: Sequence[Tensor | None],
        need: Sequence[bool],
        factor: Tensor,
    ) -> None:
        """Adds the term's gradients; those to weights and parameters in float64, not yet times
        ``factor``."""
        term, s, weights = self.terms[index], as_tensors(self.solution(index)), inputs[2:4]
        given = self._own_parameters(term.first) if index else self._parameters
        parameters = as_tensor(given)
        a, b = weights[term.first], weights[term.second]
        own = term.first == term.second
        wanted = (need[2 + term.first], need[2 + term.second], need[4])
        sides = _envelope.Sides(
            s.x_potential, s.y_potential, s.row, s.column, s.transport, s.mismatch
        )
        grad_a, grad_b, grad_p = _envelope.gradients(
            sides, a, b, absolute(parameters, s.scale), wanted, symmetric=own
        )

        def add(place: int, gradient: Tensor) -> None:
            before = out[place]
            gradient = term.coefficient * gradient
            out[place] = gradient if before is None else before + gradient

        for side, gradient in ((term.first, grad_a), (term.second, grad_b)):
            if gradient is not None:
                add(2 + side, gradient)
        if grad_p is not None:
            # ε and λ of a self-term are those of the cross term, in the cross term's unit.
            unit = as_tensor(self._unit())
            if own and term.first == 1:
                grad_p = torch.stack([grad_p[0], torch.zeros_like(grad_p[0]), grad_p[1], grad_p[3]])
            add(4, unit * grad_p)
        if need[5]:
            moved = class_gradient(s, parameters, term.coefficient * factor)
            _accumulate(out, 5, moved, inputs)

    def twice(
        self, inputs: Sequence[Tensor | None], need: Sequence[bool], factor: Tensor
    ) -> list[Tensor | None]:
        """:meth:`backward` as a differentiable function."""
        x, y, a, b, parameters, distance = inputs
        assert x is not None and y is not None and parameters is not None
        factor = factor.reshape(-1)
        if self.single:
            x, y = x.unsqueeze(0), y.unsqueeze(0)
        points, weights = (x, y), (a, b)
        out: list[Tensor | None] = [None] * 6
        unit = as_tensor(self._unit())
        for index, term in enumerate(self.terms):
            i, j = term.first, term.second
            own = i == j
            own_parameters = parameters
            if own:
                own_parameters = absolute(parameters, unit)
                if i == 1 and not self.even:
                    own_parameters = own_parameters[[0, 2, 2, 3]]
            wanted = [need[i], need[j] and not own, need[2 + i], need[3] and not own, *need[4:]]
            if not any(wanted):  # the self-term of a side without gradients
                continue
            given = [
                points[i], None if own else points[j], weights[i], None if own else weights[j],
                own_parameters, distance,
            ]  # fmt: skip
            labels = (self.labels[i], None if own else self.labels[j])
            found = second_order(
                as_tensors(self.solution(index)),
                given,
                labels,
                wanted,
                self.cost,
                term.coefficient * factor,
                self.backend,
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
        ctx.save_for_backward(*tracked(x, y, a, b, parameters, distance))
        return value

    @staticmethod
    def backward(ctx: Any, grad_value: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_value is None:
            return (None,) * 7
        job, need = ctx.job, ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            return (None, *job.twice(ctx.saved_tensors, need, grad_value))
        inputs = ctx.saved_tensors if any(need[2:]) else ()
        return (None, *job.backward(inputs, need, grad_value))


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
