"""Many problems at once: a batch, and the minibatches of a training run; float64 NumPy."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from benches.problems import EPSILON, RESIDUAL, Array, Solution, features, square_distances

#: Steps of the training sequence whose value and gradient are compared with float64.
CHECKED = (0, 1, 33, 66, 99)


def solve(
    x: Array, y: Array, epsilon: float, *, residual: float = 1e-8
) -> tuple[float, Array, Array, Array]:
    """Entropic transport with uniform weights: value, gradient to x and to y, final y-potential.

    Half-averaged (symmetric) steps at equal clouds, over-relaxed ones otherwise.
    """
    n, m = len(x), len(y)
    cost = square_distances(x, y)
    same = x is y
    if same:
        np.fill_diagonal(cost, 0.0)
    kernel = np.exp(-cost / epsilon)
    u, v = np.ones(n), np.ones(m)
    for step in range(20_000):
        if same:
            u = v = np.sqrt(u * (n / (kernel @ u)))
        else:
            power = 1.0 if step < 20 or step % 10 == 9 else 1.7
            u = u * (m / (kernel @ v) / u) ** power
            v = v * (n / (u @ kernel) / v) ** power
        if step % 10 == 9:
            plan = u[:, None] * kernel * v / (n * m)
            row, column = plan.sum(1), plan.sum(0)
            gap = np.abs(row - 1 / n).sum() + np.abs(column - 1 / m).sum()
            if gap < residual:
                value = epsilon * (np.log(u).mean() + np.log(v).mean() - (plan.sum() - 1))
                gradient_x = 2 * (row[:, None] * x - plan @ y)
                gradient_y = 2 * (column[:, None] * y - plan.T @ x)
                if not np.isfinite(gradient_x).all():
                    break
                return float(value), gradient_x, gradient_y, epsilon * np.log(v)
    raise RuntimeError("the float64 reference did not converge")


class Batch:
    """``count`` problems of ``n`` points a side, one ε = 0.05 mean cost for all.

    Attributes:
        x: Students ``(B, n, d)``, float32.
        y: Teachers ``(B, n, d)``, float32.
        epsilon: ε, absolute.
    """

    def __init__(self, count: int, n: int) -> None:
        self.count, self.n = count, n
        pairs = [features(n, seed=seed) for seed in range(count)]
        self.x, self.y = (np.stack(side) for side in zip(*pairs, strict=True))
        doubles = [(x.astype(np.float64), y.astype(np.float64)) for x, y in pairs]
        self._costs = np.stack([square_distances(x, y) for x, y in doubles])
        self.epsilon = float(EPSILON * self._costs.mean())
        solved = [solve(x, y, self.epsilon) for x, y in doubles]
        self.converged = Solution(
            np.array([s[0] for s in solved]), np.stack([s[1] for s in solved])
        )

    def violation(self, f: Array, g: Array) -> float:
        """The worst problem's L1 violation, the mean of both sides, at potentials ``(B, n)``."""
        scores = (f[:, :, None] + g[:, None, :] - self._costs) / self.epsilon
        plan = np.exp(scores) / self.n**2
        sides = (np.abs(plan.sum(k) - 1 / self.n).sum(1) for k in (1, 2))
        return float((sum(sides) / 2).max())

    def euclidean_tolerance(self, first: str) -> float:
        """The largest L2 violation when every problem's L1 violation passes the residual.

        For a solver that updates side ``first`` first and looks at the other side's marginal
        (``"x"``: at the rows) after 1, 11, 21, ... iterations.
        """
        kernel = np.exp(-self._costs / self.epsilon)
        kernel = kernel if first == "x" else kernel.transpose(0, 2, 1)
        v = np.ones((self.count, self.n))
        for step in range(20_000):
            u = self.n / np.einsum("bij,bj->bi", kernel, v)
            v = self.n / np.einsum("bij,bi->bj", kernel, u)
            if step % 10 == 0:
                gap = u * np.einsum("bij,bj->bi", kernel, v) / self.n**2 - 1 / self.n
                if np.abs(gap).sum(1).max() <= RESIDUAL:
                    return float(np.linalg.norm(gap, axis=1).max()) * 1.001
        raise RuntimeError("the float64 reference did not converge")


class Step(NamedTuple):
    """One minibatch: the student's points, and which of the teacher's minibatches it meets."""

    x: Array
    teacher: int


class Drift:
    """A training run of ``steps`` minibatches with a frozen teacher, debiased divergence.

    Every step has fresh samples; their features drift from the student's towards the teacher's
    classes as training moves them. ``teachers`` minibatches of frozen teacher features take
    turns: 1 is one fixed set of teacher points, 4 is a pool that is seen again and again.

    Attributes:
        steps: The minibatches.
        teachers: The teacher's minibatches ``(n, d)``, float32.
        epsilon: One absolute ε, 0.05 of the mean cost at the first step.
    """

    def __init__(self, steps: int, n: int, teachers: int) -> None:
        self.n = n
        pool_x, pool_y = features(16 * n, seed=1)
        rng = np.random.default_rng(7)
        self.teachers = [pool_y[k * n : (k + 1) * n] for k in range(teachers)]
        towards = pool_y[rng.permutation(len(pool_y))].mean(0)
        self.steps = []
        for step in range(steps):
            chosen = rng.choice(len(pool_x), n, replace=False)
            x = pool_x[chosen] + 0.5 * step / steps * towards
            x = x / np.linalg.norm(x, axis=1, keepdims=True)
            self.steps.append(Step(x.astype(np.float32), step % teachers))
        first = square_distances(
            self.steps[0].x.astype(np.float64), self.teachers[0].astype(np.float64)
        )
        self.epsilon = float(EPSILON * first.mean())

    @functools.cached_property
    def checked(self) -> tuple[int, ...]:
        """The steps that are compared."""
        return tuple(step for step in CHECKED if step < len(self.steps))

    @functools.cached_property
    def solution(self) -> Solution:
        """The divergence and its gradient at the checked steps."""
        values, gradients = [], []
        for number in self.checked:
            step = self.steps[number]
            x = step.x.astype(np.float64)
            y = self.teachers[step.teacher].astype(np.float64)
            cross = solve(x, y, self.epsilon)
            own_x, own_y = (solve(side, side, self.epsilon) for side in (x, y))
            values.append(cross[0] - own_x[0] / 2 - own_y[0] / 2)
            gradients.append(cross[1] - (own_x[1] + own_x[2]) / 2)
        return Solution(np.array(values), np.stack(gradients))


def euclidean_tolerance(rows: Array, columns: Array, epsilon: float) -> float:
    """The L2 violation of the column marginal where the L1 violation passes the residual.

    For a solver that updates the columns first and looks after 1, 11, 21, ... iterations.
    """
    doubles = [side.astype(np.float64) for side in (rows, columns)]
    kernel = np.exp(-square_distances(*doubles) / epsilon)
    n, m = kernel.shape
    u, v = np.ones(n), np.ones(m)
    for step in range(20_000):
        v = n / (u @ kernel)
        u = m / (kernel @ v)
        if step % 10 == 0:
            gap = v * (u @ kernel) / (n * m) - 1 / m
            if np.abs(gap).sum() <= RESIDUAL:
                return float(np.linalg.norm(gap)) * 1.001
    raise RuntimeError("the float64 reference did not converge")


@functools.lru_cache(maxsize=1)
def drift(steps: int, n: int, teachers: int) -> Drift:
    """The training run, kept while it is in use."""
    return Drift(steps, n, teachers)
