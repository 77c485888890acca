"""Who takes part on the GPU: this package, and what careful users write in PyTorch.

Everybody computes the value and its gradient to x. This package stops by its own test; all others
run the number of iterations that they need for the same L1 residual, found beforehand in float64
and not timed, so that they need no test and no wait for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benches.contestants import by_hand
from benches.contestants.mmd import MEANS
from benches.contestants.ours import NAME
from benches.gpu.problems import SCALES, Discrepancy, Transport
from benches.problems import RESIDUAL
from benches.timing import Answer, Contestant, Ready

#: Nobody runs longer than this.
LONGEST = 5000


def read(result: tuple[Any, ...]) -> Answer:
    """``(value, gradient)`` or ``(value, gradient, iterations)``."""
    value, gradient, *rest = result
    count = rest[0] if rest else None
    if isinstance(count, Tensor):
        count = int(count.max())
    return Answer(value.detach().double().cpu().numpy(), gradient.detach().cpu().numpy(), count)


def graphed(run: Callable[[], Any]) -> Callable[[], Any]:
    """The call as a CUDA graph: what the device alone takes.

    Raises:
        RuntimeError: The call waits for the device, which no graph can. Found out before the
            capture, because one that breaks off can disturb later calls.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # as the documentation of CUDA graphs asks
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def replay() -> Any:
        graph.replay()
        return result

    return replay


def in_a_graph(name: str, contestant: Contestant) -> Contestant:
    """The same contestant, replayed from a CUDA graph."""

    def build(case: Any) -> Ready:
        made = contestant.build(case)
        return Ready(graphed(made.run), made.read, made.reference, "CUDA graph")

    return Contestant(name, contestant.needs, build)


def count_of(problem: Transport) -> int:
    """The iterations of a plain alternating solver.

    Raises:
        ValueError: The problem has no float64 reference to count them with.
    """
    if problem.iterations is None:
        raise ValueError("the iterations to the residual are not known at this size")
    return problem.iterations


def _ours(problem: Transport) -> Ready:
    from ucmkd import ops

    x, y = problem.points()

    def run() -> tuple[Tensor, Tensor, Tensor]:
        out = ops.sinkhorn(x, y, epsilon=problem.epsilon, tol=RESIDUAL, max_iter=LONGEST)
        (gradient,) = torch.autograd.grad(out.value.sum(), x)
        return out.value, gradient, out.iterations

    return Ready(run, read, problem.solution)  # type: ignore[arg-type]


def _by_hand(compiled: bool) -> Callable[[Transport], Ready]:
    def build(problem: Transport) -> Ready:
        x, y = problem.points()
        epsilon, log_n = problem.epsilon, math.log(problem.shape.n)
        blocks = -(-count_of(problem) // 10)
        parts: tuple[Callable[..., Any], ...] = (by_hand._start, by_hand.ten, by_hand.dual)
        if compiled:
            torch._dynamo.reset()
            parts = tuple(torch.compile(p, dynamic=False, fullgraph=True) for p in parts)
        start, ten, dual = parts

        def run() -> tuple[Tensor, Tensor, int]:
            with torch.no_grad():
                scores = start(x, y, epsilon)
                g = torch.zeros_like(y[..., 0])
                for _ in range(blocks):
                    f, g, _ = ten(scores, g, log_n)
            value = dual(x, y, f, g, epsilon, log_n)
            (gradient,) = torch.autograd.grad(value.sum(), x)
            return value, gradient, 10 * blocks

        return Ready(run, read, problem.solution)  # type: ignore[arg-type]

    return build


def _our_mmd(problem: Discrepancy) -> Ready:
    from ucmkd import ops

    x, y = problem.points()

    def run() -> tuple[Tensor, Tensor]:
        value = ops.mmd(x, y, bandwidth=problem.sigma, scales=SCALES)
        return value, torch.autograd.grad(value, x)[0]

    return Ready(run, read, problem.solution)


def _mmd_by_hand(compiled: bool) -> Callable[[Discrepancy], Ready]:
    def build(problem: Discrepancy) -> Ready:
        x, y = problem.points()
        factors = [-0.5 / (scale * problem.sigma) ** 2 for scale in SCALES]
        mean = MEANS["gaussian"]

        def discrepancy(x: Tensor, y: Tensor) -> Tensor:
            return mean(x, x, factors) + mean(y, y, factors) - 2 * mean(x, y, factors)

        value_of: Callable[..., Tensor] = discrepancy
        if compiled:
            torch._dynamo.reset()
            value_of = torch.compile(discrepancy, dynamic=False, fullgraph=True)

        def run() -> tuple[Tensor, Tensor]:
            value = value_of(x, y)
            return value, torch.autograd.grad(value, x)[0]

        return Ready(run, read, problem.solution)

    return build


OURS = Contestant(NAME, ("ucmkd",), _ours)
BY_HAND = Contestant("torch by hand", ("torch",), _by_hand(compiled=False))
COMPILED = Contestant("torch by hand, torch.compile", ("torch",), _by_hand(compiled=True))
OUR_MMD = Contestant(NAME, ("ucmkd",), _our_mmd)
MMD_BY_HAND = Contestant("torch by hand", ("torch",), _mmd_by_hand(compiled=False))
MMD_COMPILED = Contestant("torch by hand, torch.compile", ("torch",), _mmd_by_hand(compiled=True))
