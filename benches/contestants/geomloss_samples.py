"""GeomLoss's ``SamplesLoss``, tensorised and online (KeOps)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benches.contestants.common import CALIBRATION, Case, points, read
from benches.problems import ITERATIONS, RESIDUAL, Solution, Transport, features, transport
from benches.problems_large import ITERATIONS as FEW
from benches.problems_large import Streaming
from benches.problems_sets import Batch
from benches.timing import Contestant, Ready

#: Where the ε schedule begins, in units of the blur. From the diameter of the data, its default,
#: its marginals lag behind at every length that we tried.
NARROW = 1.05
#: Lengths of the schedule that are tried.
SCHEDULES = (20, 30, 50, 70, 100, 150, 200, 300, 400, 500, 700, 1000, 1500)


def quiet_keops() -> None:
    """KeOps announces each formula that it compiles; the table is the place for results."""
    import pykeops

    pykeops.set_verbose(False)


def schedule(epsilon: float, length: int) -> dict[str, Any]:
    """Options for so many iterations near the final ε; GeomLoss's ε is blur², its cost ½C."""
    blur = math.sqrt(epsilon / 2)
    # The schedule is the diameter, then a geometric sequence, then the blur: half a step of room
    # keeps rounding from changing its length.
    scaling = NARROW ** (-1 / (length - 2.5))
    return {"blur": blur, "diameter": NARROW * blur, "scaling": scaling}


def value(x: Tensor, y: Tensor, backend: str = "tensorized", **options: Any) -> Any:
    """``SamplesLoss`` without debiasing, or with; half of our value."""
    from geomloss import SamplesLoss

    return SamplesLoss("sinkhorn", backend=backend, **{"debias": False, **options})(x, y)


def shortest(violation: Callable[[int], float]) -> int:
    """The shortest schedule that reaches the residual, by bisection; the longest if none does."""
    low, high = 0, len(SCHEDULES) - 1
    while low < high:
        middle = (low + high) // 2
        if violation(SCHEDULES[middle]) <= RESIDUAL:
            high = middle
        else:
            low = middle + 1
    return SCHEDULES[low]


def potentials(x: Tensor, y: Tensor, epsilon: float, length: int) -> tuple[Any, Any]:
    """The final potentials of the full cost."""
    both = value(x, y, potentials=True, **schedule(epsilon, length))
    return tuple(2 * p.numpy() for p in both)  # type: ignore[return-value]


@functools.lru_cache(maxsize=8)
def _calibrate(n: int) -> int:
    small = transport(n)
    x, y = torch.from_numpy(small.x), torch.from_numpy(small.y)
    return shortest(lambda length: small.violation(*potentials(x, y, small.epsilon, length)))


def _solver(
    x: Tensor, y: Tensor, length: int | None, backend: str, options: dict[str, Any]
) -> Callable[[], tuple[Tensor, Tensor, int | None]]:
    def run() -> tuple[Tensor, Tensor, int | None]:
        loss = 2 * value(x, y, backend, **options)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        return loss.detach(), gradient, length

    return run


def _in_double(problem: Transport, options: dict[str, Any]) -> Solution:
    x, y = (side.detach().double() for side in points(problem))
    exact = read(_solver(x.requires_grad_(), y, None, "tensorized", options)())
    return Solution(float(exact.value), np.asarray(exact.gradient))


def one(case: Case) -> Ready:
    """One problem, tensorised, both settings."""
    problem = case.problem
    length = ITERATIONS if case.plain else _calibrate(min(problem.n, CALIBRATION))
    options = schedule(problem.epsilon, length)
    run = _solver(*points(problem), length, "tensorized", options)
    if case.plain:
        note = "own iterates; against itself in float64"
        return Ready(run, read, _in_double(problem, options), note)
    return Ready(run, read, problem.converged, "diameter 1.05 blur")


def annealed(case: Case) -> Ready:
    """The schedule that its documentation recommends for accuracy."""
    options = {"blur": math.sqrt(case.problem.epsilon / 2), "scaling": 0.99}
    run = _solver(*points(case.problem), None, "tensorized", options)
    return Ready(run, read, case.problem.converged, "diameter of the data")


def batch(problem: Batch) -> Ready:
    """A batch, at the length that its slowest problem needs."""
    x, y = points(problem)

    def worst(length: int) -> float:
        f, g = potentials(x.detach(), y, problem.epsilon, length)
        return problem.violation(f, g)

    length = shortest(worst)
    run = _solver(x, y, length, "tensorized", schedule(problem.epsilon, length))
    return Ready(run, read, problem.converged, "diameter 1.05 blur")


def streaming(problem: Streaming) -> Ready:
    """Few iterations, online. KeOps compiles its formulas on a small problem before the timing."""
    quiet_keops()
    options = schedule(problem.epsilon, FEW)
    small, other = (torch.from_numpy(side) for side in features(64))
    _solver(small.requires_grad_(), other, None, "online", options)()
    run = _solver(*points(problem), FEW, "online", options)
    # The lengths of GeomLoss's schedule, in units of the final ε.
    factors = [NARROW**2, *(NARROW ** (2 - 2 * k / (FEW - 2.5)) for k in range(FEW - 2)), 1.0]
    return Ready(run, read, problem.averaged(factors), "own iterates")


ONE = Contestant("GeomLoss SamplesLoss, tensorized", ("geomloss",), one)
ANNEALED = Contestant("GeomLoss, scaling 0.99", ("geomloss",), annealed)
BATCH = Contestant("GeomLoss SamplesLoss, batched", ("geomloss",), batch)
ONLINE = Contestant("GeomLoss SamplesLoss, online (KeOps)", ("geomloss", "pykeops"), streaming)
