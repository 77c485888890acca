"""The problem with n = 16,384: float64 tile by tile, because its matrices do not fit."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from benches.problems import EPSILON, Array, Solution, features, square_distances

#: Iterations of the streaming setting.
ITERATIONS = 5
TILE = 1024
#: Mean violation to which float32 iterations bring the potentials before the float64 pass.
CLOSE = 1e-5


class Streaming:
    """Entropic transport of two large clouds, and its iterates in several update orders.

    Potentials are in units of ε here: :math:`P_{ij} = e^{f_i+g_j-C_{ij}/\\varepsilon}/n^2`.

    Attributes:
        x: Student ``(n, d)``, float32.
        y: Teacher ``(n, d)``, float32.
        epsilon: ε, absolute.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.x, self.y = features(n)
        self._x, self._y = self.x.astype(np.float64), self.y.astype(np.float64)
        between = self._x.mean(0) - self._y.mean(0)
        # E|x-y|² = var(x) + var(y) + |mean(x) - mean(y)|²
        mean = self._x.var(0).sum() + self._y.var(0).sum() + between @ between
        self.epsilon = float(EPSILON * mean)
        self._after: dict[str, Solution] = {}

    def _tiles(self, rows: Array, columns: Array) -> Iterator[tuple[slice, Array]]:
        """Pieces of ``-C/ε``, with the rows that they are of."""
        for start in range(0, self.n, TILE):
            part = slice(start, start + TILE)
            yield part, square_distances(rows[part], columns) / -self.epsilon

    def _iterate(self, rows: Array, columns: Array, g: Array) -> tuple[Array, Array]:
        """One iteration from the potential of the columns; the rows' comes first."""
        f, sums = np.empty(self.n), np.zeros(self.n)
        for part, scores in self._tiles(rows, columns):
            scores += g
            top = scores.max(1)
            scores -= top[:, None]
            np.exp(scores, out=scores)
            row = scores.sum(1)
            f[part] = np.log(self.n / row) - top
            sums += (scores / row[:, None]).sum(0) * self.n
        # sums_j is Σ_i e^{f_i + g_j - C_ij/ε} here: at this ε far from under- and overflow.
        return f, np.log(self.n / sums) + g

    def _solution(self, f: Array, g: Array) -> Solution:
        """The dual value at these potentials, with the envelope gradient."""
        gradient = np.empty_like(self._x)
        mass = 0.0
        for part, scores in self._tiles(self._x, self._y):
            plan = np.exp(scores + f[part, None] + g) / self.n**2
            row = plan.sum(1)
            mass += row.sum()
            gradient[part] = 2 * (row[:, None] * self._x[part] - plan @ self._y)
        value = self.epsilon * (f.mean() + g.mean() - (mass - 1))
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            raise FloatingPointError(f"the float64 reference for n = {self.n} is not finite")
        return Solution(float(value), gradient)

    def after(self, first: str) -> Solution:
        """After :data:`ITERATIONS` iterations that update side ``first`` first."""
        if first not in self._after:
            rows, columns = (self._x, self._y) if first == "x" else (self._y, self._x)
            f, g = np.zeros(self.n), np.zeros(self.n)
            for _ in range(ITERATIONS):
                f, g = self._iterate(rows, columns, g)
            self._after[first] = self._solution(*((f, g) if first == "x" else (g, f)))
        return self._after[first]

    def averaged(self, factors: Sequence[float]) -> Solution:
        """GeomLoss's iterates: both sides at once, averaged, at ε times each of the factors.

        Its value is ``<a,f> + <b,g>`` after one more pair of updates, and its gradient that of
        this last f.
        """
        f, g = np.zeros(self.n), np.zeros(self.n)  # in units of ε
        for step, factor in enumerate([factors[0], *factors]):
            new = self._both(f, g, factor)
            f, g = new if step == 0 else ((f + new[0]) / 2, (g + new[1]) / 2)
        last = self._both(f, g, 1.0)
        gradient = np.empty_like(self._x)
        for part, scores in self._tiles(self._x, self._y):
            plan = np.exp(scores + last[0][part, None] + g) / self.n**2
            gradient[part] = 2 * (plan.sum(1)[:, None] * self._x[part] - plan @ self._y)
        return Solution(float(self.epsilon * (last[0].mean() + last[1].mean())), gradient)

    def _both(self, f: Array, g: Array, factor: float) -> tuple[Array, Array]:
        new_f, sums = np.empty(self.n), np.zeros(self.n)
        for part, scores in self._tiles(self._x, self._y):
            # Bounded by the cost over ε: no maximum needs to be taken out at this ε.
            kernel = np.exp(scores / factor)
            new_f[part] = np.log(self.n) - np.log(kernel @ np.exp(g / factor))
            sums += np.exp(f[part] / factor) @ kernel
        return new_f * factor, (np.log(self.n) - np.log(sums)) * factor

    @functools.cached_property
    def converged(self) -> Solution:
        """The solution: float32 iterations on a stored matrix, then one in float64."""
        kernel = np.empty((self.n, self.n), dtype=np.float32)
        least = np.empty(self.n)
        for part, scores in self._tiles(self._x, self._y):
            least[part] = -scores.max(1)
            kernel[part] = np.exp(scores + least[part, None])
        u, v = np.exp(-least).astype(np.float32), np.ones(self.n, dtype=np.float32)
        for step in range(5000):
            power = np.float32(1.0 if step < 20 or step % 10 == 9 else 1.7)
            u = u * (self.n / (kernel @ v) / u) ** power
            v = v * (self.n / (u @ kernel) / v) ** power
            if step % 10 == 9 and np.abs(u * (kernel @ v) / self.n - 1).mean() < CLOSE:
                break
        else:
            raise RuntimeError(f"the float64 reference for n = {self.n} did not converge")
        del kernel
        return self._solution(*self._iterate(self._x, self._y, np.log(v.astype(np.float64))))


@functools.lru_cache(maxsize=1)
def streaming(n: int) -> Streaming:
    """The problem, kept while it is in use."""
    return Streaming(n)
