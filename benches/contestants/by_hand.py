"""Sinkhorn as careful users write it in PyTorch, and ``torch.compile`` of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benches.contestants.common import LONGEST, Case, points, read
from benches.problems import ITERATIONS, RESIDUAL
from benches.problems_sets import Batch
from benches.timing import Contestant, Ready


def square_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances by one matrix product; also of batches."""
    products = x @ y.mT
    norms = (x * x).sum(-1, keepdim=True) + (y * y).sum(-1).unsqueeze(-2)
    return torch.add(norms, products, alpha=-2).clamp_min(0)


def _start(x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    return square_distances(x, y) / -epsilon


def ten(scores: Tensor, g: Tensor, log_n: float) -> tuple[Tensor, Tensor, Tensor]:
    """Ten iterations in units of ε, and the L1 violation of the columns before the last half."""
    previous = g
    f = torch.zeros_like(g)
    for _ in range(10):
        previous = g
        f = log_n - torch.logsumexp(scores + g.unsqueeze(-2), -1)
        g = log_n - torch.logsumexp(scores + f.unsqueeze(-1), -2)
    return f, g, torch.expm1(previous - g).abs().mean(-1)


def dual(x: Tensor, y: Tensor, f: Tensor, g: Tensor, epsilon: float, log_n: float) -> Tensor:
    """The dual value at fixed potentials; its derivative in x is the envelope gradient."""
    potentials = f.unsqueeze(-1) + g.unsqueeze(-2)
    scores = potentials - square_distances(x, y) / epsilon - 2 * log_n
    return epsilon * (f.mean(-1) + g.mean(-1) - (scores.exp().sum((-2, -1)) - 1))


def _parts(compiled: bool) -> tuple[Callable[..., Any], ...]:
    parts: tuple[Callable[..., Any], ...] = (_start, ten, dual)
    if not compiled:
        return parts
    torch._dynamo.reset()
    return tuple(torch.compile(part, dynamic=False, fullgraph=True) for part in parts)


def solver(
    problem: Any, compiled: bool, most: int, stop: bool
) -> Callable[[], tuple[Tensor, Tensor, int]]:
    x, y = points(problem)
    epsilon, log_n = problem.epsilon, math.log(problem.n)
    start, block, value_of = _parts(compiled)

    def run(longest: int = most) -> tuple[Tensor, Tensor, int]:
        with torch.no_grad():
            scores = start(x, y, epsilon)
            g = torch.zeros(y.shape[:-1])
            count = 0
            while count < longest:
                f, g, violation = block(scores, g, log_n)
                count += 10
                if stop and float(violation.max()) <= RESIDUAL:
                    break
        value = value_of(x, y, f, g, epsilon, log_n)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        return value.detach(), gradient, count

    if compiled:
        run(10)
    return run


def transport(compiled: bool) -> Callable[[Case], Ready]:
    """One problem, both settings."""

    def build(case: Case) -> Ready:
        most = ITERATIONS if case.plain else LONGEST
        run = solver(case.problem, compiled, most, stop=not case.plain)
        return Ready(run, read, case.reference("x"))

    return build


def batch(compiled: bool) -> Callable[[Batch], Ready]:
    """A batch, until its slowest problem is at the residual."""

    def build(problem: Batch) -> Ready:
        return Ready(solver(problem, compiled, LONGEST, stop=True), read, problem.converged)

    return build


LOG = Contestant("torch by hand, log domain", ("torch",), transport(compiled=False))
COMPILED = Contestant("torch by hand, torch.compile", ("torch",), transport(compiled=True))
BATCH = (
    Contestant("torch by hand, batched", ("torch",), batch(compiled=False)),
    Contestant("torch by hand, batched, torch.compile", ("torch",), batch(compiled=True)),
)
