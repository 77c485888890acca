"""This package, by its public functions alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benches.contestants.common import LONGEST, Case, points, read
from benches.problems import ITERATIONS, RESIDUAL
from benches.problems_large import ITERATIONS as FEW
from benches.problems_large import Streaming
from benches.problems_sets import Batch
from benches.timing import Contestant, Ready

NAME = "ucmkd"
PLAIN = "ucmkd, no acceleration"


def solver(problem: Any, **rule: Any) -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
    from ucmkd import ops

    x, y = points(problem)

    def run() -> tuple[Tensor, Tensor, Tensor]:
        out = ops.sinkhorn(x, y, epsilon=problem.epsilon, backend="rust", **rule)
        value = out.value.sum() if out.value.dim() else out.value
        (gradient,) = torch.autograd.grad(value, x)
        return out.value.detach(), gradient, out.iterations

    return run


def transport(accelerate: bool) -> Callable[[Case], Ready]:
    """One problem, both settings."""

    def build(case: Case) -> Ready:
        rule: dict[str, Any] = (
            {"tol": 0.0, "max_iter": ITERATIONS}
            if case.plain
            else {"tol": RESIDUAL, "max_iter": LONGEST}
        )
        return Ready(solver(case.problem, accelerate=accelerate, **rule), read, case.reference("x"))

    return build


def batch(problem: Batch) -> Ready:
    """A batch, to the residual."""
    run = solver(problem, tol=RESIDUAL, max_iter=LONGEST)
    return Ready(run, read, problem.converged)


def streaming(problem: Streaming) -> Ready:
    """Few plain iterations of a large problem."""
    run = solver(problem, tol=0.0, max_iter=FEW, accelerate=False)
    return Ready(run, read, problem.after("x"))


def streaming_residual(problem: Streaming) -> Ready:
    """A large problem, to the residual."""
    run = solver(problem, tol=RESIDUAL, max_iter=LONGEST)
    return Ready(run, read, problem.converged, "to the L1 residual 1e-3")


OURS = Contestant(NAME, ("ucmkd",), transport(accelerate=True))
OURS_PLAIN = Contestant(PLAIN, ("ucmkd",), transport(accelerate=False))
