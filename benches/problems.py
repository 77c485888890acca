"""The problems and their float64 solutions, in NumPy and independent of the package."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
WIDTH = 128
CLASSES = 10
#: ε in units of the mean cost.
EPSILON = 0.05
#: Iterations of the setting of equal iterations.
ITERATIONS = 50
#: L1 violation of the marginals of the setting of equal residuals.
RESIDUAL = 1e-3
#: Factor of the over-relaxed steps on the way to the float64 solution.
OVER = 1.7


@dataclass(frozen=True)
class Solution:
    """A value and its gradient to x, in float64; or those of several problems, stacked."""

    value: float | Array
    gradient: Array


def features(n: int, seed: int = 0, width: int = WIDTH) -> tuple[Array, Array]:
    """Two clouds of unit vectors ``(n, width)`` in float32: ten classes, student beside teacher.

    The student's classes lie near the teacher's, as after some training; the points of a class
    scatter around it.
    """
    rng = np.random.default_rng([seed, n])
    centres = rng.standard_normal((CLASSES, width))
    moved = centres + 0.5 * rng.standard_normal((CLASSES, width))

    def cloud(of: Array) -> Array:
        points = of[rng.integers(CLASSES, size=n)] + 0.7 * rng.standard_normal((n, width))
        return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)

    return cloud(moved), cloud(centres)


def square_distances(x: Array, y: Array) -> Array:
    """``|x_i - y_j|²``, ``(n, m)``, not negative."""
    square = (x * x).sum(1)[:, None] + (y * y).sum(1)[None, :] - 2 * x @ y.T
    return np.maximum(square, 0.0)


@dataclass(frozen=True)
class Iterate:
    """The potentials after some iterations, and the marginals of their plan."""

    f: Array
    g: Array
    row: Array
    column: Array
    gradient: Array
    epsilon: float

    def dual(self) -> Solution:
        """``<a,f> + <b,g> - ε (mass - 1)`` with the envelope gradient."""
        mass = self.row.sum()
        return Solution(
            float(self.f.mean() + self.g.mean() - self.epsilon * (mass - 1)), self.gradient
        )

    def primal(self) -> Solution:
        """``<P,C> + ε KL(P|ab)`` of the plan as it is, with the same gradient."""
        linear = self.row @ self.f + self.column @ self.g
        mass = self.row.sum()
        return Solution(float(linear - self.epsilon * (mass - 1)), self.gradient)


class Transport:
    """Entropic transport with uniform weights and ``C = |x-y|²``, ε = 0.05 mean(C), in float64.

    The kernel matrix is held with the smallest cost of each row taken out, which at this ε
    neither overflows nor underflows; a result that is not finite raises.

    Attributes:
        x: Student ``(n, d)``, float32.
        y: Teacher ``(n, d)``, float32.
        epsilon: ε, absolute.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.x, self.y = features(n)
        cost = square_distances(self.x.astype(np.float64), self.y.astype(np.float64))
        self.epsilon = float(EPSILON * cost.mean())
        self._least = cost.min(1)
        self._kernel = np.exp((self._least[:, None] - cost) / self.epsilon)
        self._after: dict[str, Iterate] = {}

    def _end(self, u: Array, v: Array) -> Iterate:
        plan = (u[:, None] * self._kernel * v[None, :]) / self.n**2
        row, column = plan.sum(1), plan.sum(0)
        x, y = self.x.astype(np.float64), self.y.astype(np.float64)
        gradient = 2 * (row[:, None] * x - plan @ y)
        eps = self.epsilon
        f, g = eps * np.log(u) + self._least, eps * np.log(v)
        if not (np.isfinite(gradient).all() and np.isfinite(f).all() and np.isfinite(g).all()):
            raise FloatingPointError(f"the float64 reference for n = {self.n} is not finite")
        return Iterate(f, g, row, column, gradient, eps)

    def _step(self, u: Array, v: Array, first: str) -> tuple[Array, Array]:
        # From potentials of zero: f = 0 is u = exp(-least/ε) here.
        if first == "x":
            u = self.n / (self._kernel @ v)
            return u, self.n / (u @ self._kernel)
        v = self.n / (u @ self._kernel)
        return self.n / (self._kernel @ v), v

    def _start(self) -> tuple[Array, Array]:
        return np.exp(-self._least / self.epsilon), np.ones(self.n)

    def after(self, first: str) -> Iterate:
        """The iterate after :data:`ITERATIONS` iterations that update side ``first`` first."""
        if first not in self._after:
            u, v = self._start()
            for _ in range(ITERATIONS):
                u, v = self._step(u, v, first)
            self._after[first] = self._end(u, v)
        return self._after[first]

    @functools.cached_property
    def converged(self) -> Solution:
        """The solution, to an L1 residual of 1e-8; over-relaxed steps shorten the way there."""
        u, v = self._start()
        for step in range(20_000):
            if step < 20 or step % 10 == 9:
                u, v = self._step(u, v, "x")
            else:
                u = u * (self.n / (self._kernel @ v) / u) ** OVER
                v = v * (self.n / (u @ self._kernel) / v) ** OVER
            if step % 10 == 9:
                row = u * (self._kernel @ v) / self.n**2
                if np.abs(row - 1 / self.n).sum() < 1e-8:
                    return self._end(u, v).dual()
        raise RuntimeError(f"the float64 reference for n = {self.n} did not converge")

    @functools.cached_property
    def euclidean_tolerance(self) -> float:
        """The L2 violation of the column marginal where the L1 violation passes the residual.

        For a solver that updates y first and looks at the L2 violation after 1, 11, 21, ...
        iterations: with it, that solver stops where one that looks at the L1 violation would.
        """
        u, v = self._start()
        for step in range(20_000):
            u, v = self._step(u, v, "y")
            if step % 10 == 0:
                gap = v * (u @ self._kernel) / self.n**2 - 1 / self.n
                if np.abs(gap).sum() <= RESIDUAL:
                    return float(np.linalg.norm(gap)) * 1.001
        raise RuntimeError(f"the float64 reference for n = {self.n} did not converge")

    def violation(self, f: Array, g: Array) -> float:
        """L1 violation, the mean of both sides, of potentials for the full cost."""
        u = np.exp((f.ravel().astype(np.float64) - self._least) / self.epsilon)
        v = np.exp(g.ravel().astype(np.float64) / self.epsilon)
        plan = u[:, None] * self._kernel * v[None, :] / self.n**2
        sides = (np.abs(plan.sum(k) - 1 / self.n).sum() for k in (0, 1))
        return float(sum(sides) / 2)


@functools.lru_cache(maxsize=2)
def transport(n: int) -> Transport:
    """The problem with ``n`` points, kept while it is in use: its reference takes long."""
    return Transport(n)
