"""POT: ``ot.sinkhorn``, ``ot.solve_sample`` and its batch solver, on the torch backend."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benches.contestants.common import LONGEST, Case, points, read
from benches.problems import ITERATIONS
from benches.problems_sets import Batch
from benches.timing import Contestant, Ready


def log_potentials(log: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The logarithms of both scalings, whichever way the method keeps them."""
    if "log_u" in log:
        return log["log_u"], log["log_v"]
    return log["u"].log(), log["v"].log()


def one(method: str) -> Callable[[Case], Ready]:
    """One problem by ``ot.sinkhorn``, both settings."""

    def build(case: Case) -> Ready:
        import ot

        x, y = points(case.problem)
        n, epsilon = case.problem.n, case.problem.epsilon
        a = torch.full((n,), 1 / n)
        most = ITERATIONS if case.plain else LONGEST
        tolerance = 0.0 if case.plain else case.problem.euclidean_tolerance

        def run() -> tuple[Tensor, Tensor, int]:
            # Gradients through the loop would cost POT far more: the envelope by hand instead.
            cost = ot.dist(x, y)
            with torch.no_grad():
                plan, log = ot.sinkhorn(
                    a, a, cost, epsilon, method=method, numItermax=most, stopThr=tolerance,
                    log=True, warn=False,
                )  # fmt: skip
                f, g = log_potentials(log)
                value = epsilon * (f.mean() + g.mean() + 2 * math.log(n))
            (gradient,) = torch.autograd.grad((plan * cost).sum(), x)
            return value, gradient, int(log["niter"]) + 1

        return Ready(run, read, case.reference("y"))

    return build


def sample(case: Case) -> Ready:
    """One problem by ``ot.solve_sample``, both settings."""
    import ot

    x, y = points(case.problem)
    most = ITERATIONS if case.plain else LONGEST
    tolerance = 0.0 if case.plain else case.problem.euclidean_tolerance

    def run() -> tuple[Tensor, Tensor, None]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 50 iterations do not converge: that is the setting
            value = ot.solve_sample(
                x, y, reg=case.problem.epsilon, max_iter=most, tol=tolerance, grad="envelope"
            ).value
        (gradient,) = torch.autograd.grad(value, x)
        return value.detach(), gradient, None

    return Ready(run, read, case.reference("y", "primal"), "value of the primal")


def batch(method: str) -> Callable[[Batch], Ready]:
    """A batch by ``ot.batch``, with the tolerance at which its slowest problem is done."""

    def build(problem: Batch) -> Ready:
        from ot.batch import solve_sample_batch

        x, y = points(problem)
        tolerance = problem.euclidean_tolerance("x")

        def run() -> tuple[Tensor, Tensor, None]:
            value = solve_sample_batch(
                x, y, reg=problem.epsilon, max_iter=LONGEST, tol=tolerance, method=method,
                reg_type="kl", grad="envelope",
            ).value  # fmt: skip
            (gradient,) = torch.autograd.grad(value.sum(), x)
            return value.detach(), gradient, None

        return Ready(run, read, problem.converged, "value of the primal")

    return build


ONE = (
    Contestant("POT ot.sinkhorn, scaling", ("ot",), one("sinkhorn")),
    Contestant("POT ot.sinkhorn, log", ("ot",), one("sinkhorn_log")),
    Contestant("POT ot.solve_sample", ("ot",), sample),
)
BATCH = (
    Contestant("POT solve_sample_batch, scaling", ("ot",), batch("sinkhorn")),
    Contestant("POT solve_sample_batch, log", ("ot",), batch("log_sinkhorn")),
)
