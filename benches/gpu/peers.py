"""The other packages on the GPU: flash-sinkhorn, GeomLoss, POT; each at its best setting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benches.contestants import geomloss_samples
from benches.gpu.contestants import count_of, read
from benches.gpu.problems import Transport
from benches.timing import Contestant, Ready


def flash(autotune: bool, tf32: bool) -> Callable[[Transport], Ready]:
    """flash-sinkhorn 0.4.1, alternating at the final ε; its cost is ours (``half_cost=False``).

    Args:
        autotune: Its default: measures many configurations at the first call of a size.
        tf32: Its default: coordinates rounded to TF32 and products in TF32.
    """

    def build(problem: Transport) -> Ready:
        from flash_sinkhorn import SamplesLoss

        x, y = problem.points()
        count = count_of(problem)
        loss = SamplesLoss(
            loss="sinkhorn", backend="alternating", use_epsilon_scaling=False,
            eps=problem.epsilon, n_iters=count, debias=False, half_cost=False,
            autotune=autotune, allow_tf32=tf32,
        )  # fmt: skip

        def run() -> tuple[Tensor, Tensor, int]:
            value = loss(x, y)
            (gradient,) = torch.autograd.grad(value.sum(), x)
            return value, gradient, count

        return Ready(run, read, problem.solution)  # type: ignore[arg-type]

    return build


def geomloss(backend: str) -> Callable[[Transport], Ready]:
    """GeomLoss, with the shortest schedule that reaches the residual; its value is half of ours."""

    def build(problem: Transport) -> Ready:
        if backend == "online":
            geomloss_samples.quiet_keops()
        count_of(problem)  # no schedule can be chosen where matrices do not fit
        x, y = problem.points()

        def violation(length: int) -> float:
            f, g = geomloss_samples.value(
                x.detach(), y, backend, potentials=True,
                **geomloss_samples.schedule(problem.epsilon, length),
            )  # fmt: skip
            return problem.violation(2 * f, 2 * g)

        length = geomloss_samples.shortest(violation)
        options = geomloss_samples.schedule(problem.epsilon, length)

        def run() -> tuple[Tensor, Tensor, int]:
            value = 2 * geomloss_samples.value(x, y, backend, **options)
            (gradient,) = torch.autograd.grad(value.sum(), x)
            return value, gradient, length

        return Ready(run, read, problem.solution, "diameter 1.05 blur")  # type: ignore[arg-type]

    return build


def pot(method: str) -> Callable[[Transport], Ready]:
    """POT's batch solver, a fixed number of iterations; the value is that of the primal."""

    def build(problem: Transport) -> Ready:
        from ot.batch import solve_sample_batch

        x, y = problem.points()
        count = count_of(problem)

        def run() -> tuple[Tensor, Tensor, int]:
            batched: tuple[Any, ...] = tuple(p if p.dim() == 3 else p[None] for p in (x, y))
            value = solve_sample_batch(
                *batched, reg=problem.epsilon, max_iter=count, tol=0.0, method=method,
                reg_type="kl", grad="envelope",
            ).value  # fmt: skip
            (gradient,) = torch.autograd.grad(value.sum(), x)
            return value, gradient, count

        return Ready(run, read, problem.solution, "value of the primal")  # type: ignore[arg-type]

    return build


FLASH = (
    Contestant("flash-sinkhorn, tuned", ("flash_sinkhorn",), flash(True, True)),
    Contestant("flash-sinkhorn, untuned", ("flash_sinkhorn",), flash(False, True)),
    Contestant("flash-sinkhorn, tuned, no TF32", ("flash_sinkhorn",), flash(True, False)),
)
GEOMLOSS = Contestant("GeomLoss, tensorized", ("geomloss",), geomloss("tensorized"))
ONLINE = Contestant("GeomLoss, online (KeOps)", ("geomloss", "pykeops"), geomloss("online"))
POT = (
    Contestant("POT solve_sample_batch, scaling", ("ot",), pot("sinkhorn")),
    Contestant("POT solve_sample_batch, log", ("ot",), pot("log_sinkhorn")),
)
