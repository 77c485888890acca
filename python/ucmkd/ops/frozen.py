r"""The self-term of a cloud that does not change, solved once.

At fixed parameters the stored value is handed out as it is. Where ε, ρ and λ are in units of a
mean cost ``s`` that drifts with the other cloud, the term is a concave function of ``s``, being a
minimum of functions linear in it,

.. math::
    F(s) = \min_P \langle P, c\rangle + s\,\bigl(\varepsilon\,\mathrm{KL}(P|b\otimes b)
        + 2\rho\,\mathrm{KL}(P1|b) + \lambda\langle P, [k\neq l]\rangle\bigr),
    \qquad F'(s) = \frac{F(s) - \langle P_s, c\rangle}{s},

so that between two solved points it lies above their chord and below both tangents. Where these
bounds agree to :func:`accuracy`, no solve is needed.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ucmkd.reference import Solution

#: Solved points kept, and the widest step between two of them relative to the scale.
MAX_NODES, WIDEST = 512, 0.05
#: Tolerance of the solves from which slopes are taken.
SLOPE_TOLERANCE = 1e-5

#: ``solve(scale, start, tol)``: the term at that scale, and the value that is asked for.
Solve = Callable[[Tensor, Tensor | None, float], tuple[Solution, Tensor]]


class Node(NamedTuple):
    """A solved point ``(s, F(s), F'(s))``, for a single problem."""

    scale: float
    value: float
    slope: float


def _scale(node: Node) -> float:
    return node.scale


def accuracy(tol: float) -> float:
    """The largest relative error of an interpolated value for a solver's tolerance."""
    return 1e-2 * min(tol, 1e-3)


class FrozenTerm:
    """Values of one self-term, by the scale of its parameters.

    Interpolates for single problems only; every problem of a batch has its own scale, and where
    one of them is new all are solved again, from the last potential.
    """

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._step = WIDEST / 10
        self._scale: Tensor | None = None
        self._value: Tensor | None = None
        #: The last one, where the next solve starts.
        self.potential: Tensor | None = None
        #: Solver iterations of the last :meth:`value`, 0 where nothing was solved.
        self.iterations: Tensor | int = 0

    def forget_values(self) -> None:
        """For other parameters: keeps the potential, from which the next solve starts."""
        self._nodes.clear()
        self._scale = self._value = None

    def value(
        self, scale: Tensor, label_cost: float, *, tol: float, interpolate: bool, solve: Solve
    ) -> Tensor:
        """``F(scale)`` of shape ``(B,)``; ``label_cost`` is λ in units of the scale."""
        self.iterations = 0
        if self._value is not None and self._scale is not None and torch.equal(scale, self._scale):
            return self._value
        # A cloud seen once may never come again: its first solve is no sharper than asked for.
        known = interpolate and self.potential is not None and scale.numel() == 1 and tol > 0
        s = float(scale) if known else math.nan
        if not math.isfinite(s) or s <= 0:
            value = self._solve(scale, tol, solve)[1]
            if bool(torch.isfinite(value).all()):
                self._scale, self._value = scale, value
            return value
        found = self._between(s, tol)
        if found is None and (target := self._ahead(s)) is not None:
            self._add(target, scale, label_cost, tol, solve)
            found = self._between(s, tol)
            if found is None:
                self._step /= 2
        if found is None:
            found = self._add(s, scale, label_cost, tol, solve)
        return scale.new_tensor([found])

    def _solve(self, scale: Tensor, tol: float, solve: Solve) -> tuple[Solution, Tensor]:
        solution, value = solve(scale, self.potential, tol)
        self.iterations = self.iterations + solution.iterations
        if bool(torch.isfinite(solution.value).all()):
            self.potential = solution.x_potential.detach()
        return solution, value.detach()

    def _add(self, s: float, like: Tensor, label_cost: float, tol: float, solve: Solve) -> float:
        solution, value = self._solve(like.new_tensor([s]), min(tol, SLOPE_TOLERANCE), solve)
        result = float(value)
        feature = float(solution.transport) - label_cost * s * float(solution.mismatch)
        if math.isfinite(result) and bool(solution.converged.all()):
            if len(self._nodes) >= MAX_NODES:
                far_above = self._nodes[-1].scale - s > s - self._nodes[0].scale
                self._nodes.pop(-1 if far_above else 0)
            insort(self._nodes, Node(s, result, (result - feature) / s))
        return result

    def _between(self, s: float, tol: float) -> float | None:
        """The value from the neighbours, where they determine it."""
        right = bisect_left(self._nodes, s, key=_scale)
        if right < len(self._nodes) and self._nodes[right].scale == s:
            return self._nodes[right].value
        if right in (0, len(self._nodes)):
            return None
        below, above = self._nodes[right - 1], self._nodes[right]
        width = above.scale - below.scale
        t = (s - below.scale) / width
        chord = (1 - t) * below.value + t * above.value
        tangent = min(
            below.value + below.slope * t * width, above.value - above.slope * (1 - t) * width
        )
        allowed = accuracy(tol) * abs(chord)
        gap = tangent - chord
        if gap > allowed:
            return None
        if 0 < 4 * gap < allowed:  # room for wider steps, whose bounds grow with their square
            self._step = min(1.2 * self._step, WIDEST)
        # The cubic with these values and slopes, kept within the bounds.
        secant = (above.value - below.value) / width
        bend = (below.slope - secant) * (1 - t) - (above.slope - secant) * t
        cubic = chord + t * (1 - t) * width * bend
        return min(max(cubic, chord), max(tangent, chord))

    def _ahead(self, s: float) -> float | None:
        """Where to solve so that ``s``, near a solved point, comes to lie between two."""
        if not self._nodes:
            return None
        right = bisect_left(self._nodes, s, key=_scale)
        around = self._nodes[max(right - 1, 0) : right + 1]
        near = min((node.scale for node in around), key=lambda scale: abs(scale - s))
        step = self._step * near
        if abs(s - near) > step / 2:
            return None
        ahead = near + math.copysign(step, s - near)
        return ahead if ahead > 0 else None

    def to(self, device: torch.device | str) -> None:
        """Moves the stored tensors."""
        self._scale, self._value, self.potential = (
            None if t is None else t.to(device) for t in (self._scale, self._value, self.potential)
        )
