"""The problems on the device, and their float64 solutions there, independent of the package."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benches.problems import EPSILON, OVER, RESIDUAL, Solution, features

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
#: Bytes that one float64 matrix of all problems may take; above, there is no reference.
LARGEST = 16e9


@dataclass(frozen=True)
class Shape:
    """``batch`` problems of ``n`` points a side in ``d`` dimensions; ε in mean costs."""

    batch: int
    n: int
    d: int
    epsilon: float = EPSILON

    @property
    def entries(self) -> int:
        """Entries of all cost matrices."""
        return self.batch * self.n**2


def square_distances(x: Tensor, y: Tensor) -> Tensor:
    """``(..., n, m)``; exactly 0 on the diagonal if both are the same tensor."""
    square = torch.matmul(x, y.mT).mul_(-2)
    square += x.square().sum(-1)[..., :, None]
    square += y.square().sum(-1)[..., None, :]
    square.clamp_min_(0)
    if x is y:
        square.diagonal(dim1=-2, dim2=-1).zero_()
    return square


class Clouds:
    """Students and teachers ``(n, d)``, or ``(B, n, d)`` for B > 1, float32 on the device."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        self.shape, self.device = shape, device
        pairs = [features(shape.n, seed=seed, width=shape.d) for seed in range(shape.batch)]
        x, y = (torch.from_numpy(np.stack(side)).to(device) for side in zip(*pairs, strict=True))
        self.x, self.y = (x, y) if shape.batch > 1 else (x[0], y[0])

    def points(self) -> tuple[Tensor, Tensor]:
        """Copies for one contestant; the student's wants a gradient."""
        return self.x.clone().requires_grad_(), self.y.clone()

    def doubles(self) -> tuple[Tensor, Tensor]:
        """``(B, n, d)`` in float64."""
        size = (self.shape.batch, self.shape.n, self.shape.d)
        return self.x.double().reshape(size), self.y.double().reshape(size)


class Transport(Clouds):
    """Entropic transport with uniform weights, ``C = |x-y|²``, one ε for all.

    Attributes:
        epsilon: ε, absolute.
        iterations: Plain alternating iterations, x first from g = 0, until the L1 violation of
            the row marginal is at most 1e-3 in every problem. None without a reference.
        solution: Value and gradient to x, or None where a float64 matrix takes too much memory.
    """

    def __init__(self, shape: Shape, device: torch.device) -> None:
        super().__init__(shape, device)
        x, y = self.doubles()
        mean = x.square().sum(-1).mean() + y.square().sum(-1).mean()
        across = (x.mean(1) * y.mean(1)).sum(-1).mean()
        self.epsilon = float(shape.epsilon * (mean - 2 * across))
        self.iterations: int | None = None
        self.solution: Solution | None = None
        if 8 * shape.entries <= LARGEST:
            self._solve(x, y)

    def _solve(self, x: Tensor, y: Tensor) -> None:
        n = self.shape.n
        kernel = square_distances(x, y)
        least = kernel.amin(-1)
        kernel.sub_(least[..., None]).mul_(-1 / self.epsilon).exp_()

        def rows(v: Tensor) -> Tensor:
            return torch.matmul(kernel, v[..., None])[..., 0]

        def columns(u: Tensor) -> Tensor:
            return torch.matmul(u[..., None, :], kernel)[..., 0, :]

        def violation(u: Tensor, kv: Tensor) -> float:
            return float((u * kv / n - 1).abs().mean(-1).max())

        v = torch.ones_like(least)
        kv = rows(v)
        for step in range(1, 20_000):
            u = n / kv
            v = n / columns(u)
            kv = rows(v)
            if violation(u, kv) <= RESIDUAL:
                self.iterations = step
                break
        for step in range(20_000):  # over-relaxed steps shorten the way to the end
            power = 1.0 if step % 10 == 9 else OVER
            u = u * (n / rows(v) / u) ** power
            v = v * (n / columns(u) / v) ** power
            if step % 10 == 9 and violation(u, rows(v)) < 1e-8:
                break
        else:
            raise RuntimeError(f"the float64 reference of {self.shape} did not converge")
        f, g = self.epsilon * u.log() + least, self.epsilon * v.log()
        row = u * rows(v) / n**2
        towards = u[..., None] * torch.matmul(kernel, v[..., None] * y) / n**2
        gradient = 2 * (row[..., None] * x - towards)
        if not bool(gradient.isfinite().all()):
            raise FloatingPointError(f"the float64 reference of {self.shape} is not finite")
        value = f.mean(-1) + g.mean(-1) - self.epsilon * (row.sum(-1) - 1)
        self.solution = Solution(value.cpu().numpy(), gradient.cpu().numpy())

    def violation(self, f: Tensor, g: Tensor) -> float:
        """The worst problem's L1 violation, the mean of both sides, for the full cost."""
        x, y = self.doubles()
        size = (self.shape.batch, self.shape.n)
        scores = square_distances(x, y).neg_()
        scores += f.double().reshape(size)[..., :, None]
        scores += g.double().reshape(size)[..., None, :]
        plan = scores.mul_(1 / self.epsilon).exp_()
        sides = [plan.sum(k) / self.shape.n**2 - 1 / self.shape.n for k in (-1, -2)]
        return float((sum(side.abs().sum(-1) for side in sides) / 2).max())  # type: ignore[union-attr]


class Discrepancy(Clouds):
    r"""Squared MMD (V-statistic), the mean of five Gaussians :math:`e^{-d^2/2(s\sigma)^2}`.

    Attributes:
        sigma: Root of the mean squared distance of x and y.
        solution: Value and gradient to x.
    """

    def __init__(self, shape: Shape, device: torch.device) -> None:
        super().__init__(shape, device)
        x, y = (side[0] for side in self.doubles())
        n = shape.n
        self.sigma = float(square_distances(x, y).mean().sqrt())

        def kernel(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
            square = square_distances(p, q)
            total, slope = torch.zeros_like(square), torch.zeros_like(square)
            for scale in SCALES:
                width = (scale * self.sigma) ** 2
                part = (square / (-2 * width)).exp_().div_(len(SCALES))
                total += part
                slope += part.div_(width)
            return total, slope

        def pull(slope: Tensor, towards: Tensor) -> Tensor:
            return slope.sum(1, keepdim=True) * x - slope @ towards

        within, slope = kernel(x, x)
        value, gradient = within.mean(), pull(slope, x)
        across, slope = kernel(x, y)
        value, gradient = value - 2 * across.mean(), gradient - pull(slope, y)
        value = value + kernel(y, y)[0].mean()
        self.solution = Solution(float(value), (gradient * (-2 / n**2)).cpu().numpy())


@functools.lru_cache(maxsize=1)
def transport(shape: Shape, device: torch.device) -> Transport:
    """The problem, kept while it is in use."""
    return Transport(shape, device)


@functools.lru_cache(maxsize=1)
def discrepancy(shape: Shape, device: torch.device) -> Discrepancy:
    """The problem, kept while it is in use."""
    return Discrepancy(shape, device)
