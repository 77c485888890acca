"""Who takes part in the Sinkhorn benchmark, each set up as its users would want it.

All solve the same problem: uniform weights, ``C = |x-y|²``, the same absolute ε, no debiasing,
and all return the value and the gradient to x. Two settings:

``iterations``: 50 plain iterations, no stopping test. The reference is the float64 iterate after
50 iterations in the contestant's own order (x or y first). Two have other iterates: GeomLoss
averages and changes ε as it goes (its reference is itself in float64), and our accelerated solver
(its reference is the converged solution).

``residual``: until the L1 violation of the marginals is at most 1e-3, by the contestant's own
rule. Hand-written code and OTT look every 10 iterations; POT measures the L2 violation, and gets
the tolerance with which it stops where the L1 rule would; GeomLoss has no rule, and gets the
shortest schedule of a list that ends at that violation (chosen on at most 1024 of the points),
and a second row with ``scaling=0.99`` and its default diameter.
The reference is the converged solution.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benches.problems import ITERATIONS, RESIDUAL, Solution, Transport
from benches.timing import Answer, Contestant, Ready

#: Nobody runs longer than this in the residual setting.
LONGEST = 5000
#: Where GeomLoss's ε schedule begins, in units of its blur. From the diameter of the data, its
#: default, its marginals lag behind at every length that we tried.
NARROW = 1.05
#: Lengths of GeomLoss's schedule that are tried.
SCHEDULES = (30, 50, 70, 100, 150, 200, 300, 400, 500, 700, 1000, 1500)
CALIBRATION = 1024


@dataclass(frozen=True)
class Case:
    """A problem and the setting, ``"iterations"`` or ``"residual"``."""

    problem: Transport
    mode: str

    @property
    def plain(self) -> bool:
        """Whether the setting is the one of equal iterations."""
        return self.mode == "iterations"

    def reference(self, first: str, form: str = "dual") -> Solution:
        """What a contestant that updates side ``first`` first approximates."""
        if not self.plain:
            return self.problem.converged
        end = self.problem.after(first)
        return end.dual() if form == "dual" else end.primal()


def _points(case: Case) -> tuple[Tensor, Tensor]:
    x = torch.from_numpy(case.problem.x).clone().requires_grad_()
    return x, torch.from_numpy(case.problem.y).clone()


def _read(result: tuple[Any, ...]) -> Answer:
    value, gradient, *rest = result
    iterations = int(rest[0]) if rest and rest[0] is not None else None
    return Answer(float(value), np.asarray(gradient), iterations)


def _ours(accelerate: bool) -> Callable[[Case], Ready]:
    def build(case: Case) -> Ready:
        from ucmkd import ops

        x, y = _points(case)
        rule: dict[str, Any] = (
            {"tol": 0.0, "max_iter": ITERATIONS}
            if case.plain
            else {"tol": RESIDUAL, "max_iter": LONGEST}
        )

        def run() -> tuple[Tensor, Tensor, Tensor]:
            out = ops.sinkhorn(
                x, y, epsilon=case.problem.epsilon, accelerate=accelerate, backend="rust", **rule
            )
            (gradient,) = torch.autograd.grad(out.value, x)
            return out.value.detach(), gradient, out.iterations

        if case.plain and accelerate:
            # Accelerated iterates are others, and closer to the solution.
            return Ready(run, _read, case.problem.converged, "against the converged solution")
        return Ready(run, _read, case.reference("x"))

    return build


def square_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances by one matrix product, as careful users write it."""
    products = torch.addmm((y * y).sum(1)[None, :], x, y.t(), alpha=-2)
    return (products + (x * x).sum(1, keepdim=True)).clamp_min(0)


def _ten(scores: Tensor, g: Tensor, log_n: float) -> tuple[Tensor, Tensor, Tensor]:
    """Ten iterations in units of ε, and the L1 violation of the columns before the last half."""
    previous = g
    f = torch.zeros_like(g)
    for _ in range(10):
        previous = g
        f = log_n - torch.logsumexp(scores + g, 1)
        g = log_n - torch.logsumexp(scores + f[:, None], 0)
    return f, g, torch.expm1(previous - g).abs().mean()


def _dual(x: Tensor, y: Tensor, f: Tensor, g: Tensor, epsilon: float, log_n: float) -> Tensor:
    """The dual value at fixed potentials; its derivative in x is the envelope gradient."""
    scores = (f[:, None] + g) - square_distances(x, y) / epsilon - 2 * log_n
    return epsilon * (f.mean() + g.mean() - (scores.exp().sum() - 1))


def _by_hand(compiled: bool) -> Callable[[Case], Ready]:
    def build(case: Case) -> Ready:
        x, y = _points(case)
        epsilon, log_n = case.problem.epsilon, math.log(case.problem.n)
        ten: Callable[..., Any] = _ten
        dual: Callable[..., Any] = _dual
        cost: Callable[..., Any] = square_distances
        if compiled:
            torch._dynamo.reset()
            ten, dual, cost = (
                torch.compile(part, dynamic=False, fullgraph=True) for part in (ten, dual, cost)
            )

        def run() -> tuple[Tensor, Tensor, int]:
            with torch.no_grad():
                scores = cost(x, y) / -epsilon
                g = torch.zeros(y.shape[0])
                count = 0
                while count < (ITERATIONS if case.plain else LONGEST):
                    f, g, violation = ten(scores, g, log_n)
                    count += 10
                    if not case.plain and float(violation) <= RESIDUAL:
                        break
            value = dual(x, y, f, g, epsilon, log_n)
            (gradient,) = torch.autograd.grad(value, x)
            return value.detach(), gradient, count

        return Ready(run, _read, case.reference("x"))

    return build


def _schedule(problem: Transport, length: int) -> dict[str, Any]:
    """GeomLoss's options for so many iterations near the final ε; its ε is blur², its cost ½C."""
    blur = math.sqrt(problem.epsilon / 2)
    diameter = NARROW * blur
    # The schedule is the diameter, then a geometric sequence, then the blur: half a step of room
    # keeps rounding from changing its length.
    scaling = NARROW ** (-1 / (length - 2.5))
    return {"blur": blur, "diameter": diameter, "scaling": scaling}


def _geomloss_value(x: Tensor, y: Tensor, **options: Any) -> Any:
    from geomloss import SamplesLoss

    return SamplesLoss("sinkhorn", debias=False, backend="tensorized", **options)(x, y)


def _calibrate(problem: Transport) -> int:
    """The shortest schedule that reaches the residual; the longest if none does."""
    small = problem if problem.n <= CALIBRATION else Transport(CALIBRATION)
    x, y = torch.from_numpy(small.x), torch.from_numpy(small.y)
    for length in SCHEDULES:
        potentials = _geomloss_value(x, y, potentials=True, **_schedule(small, length))
        f, g = (2 * p.numpy() for p in potentials)
        if small.violation(f, g) <= RESIDUAL:
            return length
    return SCHEDULES[-1]


def _geomloss_ready(case: Case, options: dict[str, Any], length: int | None, note: str) -> Ready:
    x, y = _points(case)

    def solve(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, int | None]:
        value = 2 * _geomloss_value(x, y, **options)
        (gradient,) = torch.autograd.grad(value, x)
        return value.detach(), gradient, length

    reference = case.problem.converged
    if case.plain:
        exact = _read(solve(x.detach().double().requires_grad_(), y.double()))
        reference = Solution(exact.value, np.asarray(exact.gradient))
        note = "own iterates; against itself in float64"
    return Ready(lambda: solve(x, y), _read, reference, note)


def _geomloss(case: Case) -> Ready:
    length = ITERATIONS if case.plain else _calibrate(case.problem)
    return _geomloss_ready(case, _schedule(case.problem, length), length, "diameter 1.05 blur")


def _geomloss_annealed(case: Case) -> Ready:
    options = {"blur": math.sqrt(case.problem.epsilon / 2), "scaling": 0.99}
    return _geomloss_ready(case, options, None, "diameter of the data")


def _pot(method: str) -> Callable[[Case], Ready]:
    def build(case: Case) -> Ready:
        import ot

        x, y = _points(case)
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
                f, g = (
                    (log["log_u"], log["log_v"])
                    if "log_u" in log
                    else (log["u"].log(), log["v"].log())
                )
                value = epsilon * (f.mean() + g.mean() + 2 * math.log(n))
            (gradient,) = torch.autograd.grad((plan * cost).sum(), x)
            return value, gradient, int(log["niter"]) + 1

        return Ready(run, _read, case.reference("y"))

    return build


def _pot_sample(case: Case) -> Ready:
    import ot

    x, y = _points(case)
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

    return Ready(run, _read, case.reference("y", "primal"), "value of the primal")


def _ott(log_domain: bool) -> Callable[[Case], Ready]:
    def build(case: Case) -> Ready:
        import jax
        from ott.geometry import pointcloud
        from ott.problems.linear import linear_problem
        from ott.solvers.linear import sinkhorn

        rule: dict[str, Any] = (
            {
                "threshold": 0.0,
                "min_iterations": ITERATIONS,
                "max_iterations": ITERATIONS,
                "inner_iterations": ITERATIONS,
            }
            if case.plain
            else {"threshold": RESIDUAL, "max_iterations": LONGEST, "inner_iterations": 10}
        )
        solver = sinkhorn.Sinkhorn(lse_mode=log_domain, use_danskin=True, **rule)

        def loss(x: Any, y: Any, epsilon: Any) -> tuple[Any, Any]:
            cloud = pointcloud.PointCloud(x, y, epsilon=epsilon)
            out = solver(linear_problem.LinearProblem(cloud))
            return out.reg_ot_cost, out.n_iters

        both = jax.jit(jax.value_and_grad(loss, has_aux=True))
        x, y = jax.numpy.asarray(case.problem.x), jax.numpy.asarray(case.problem.y)
        epsilon = jax.numpy.asarray(case.problem.epsilon, dtype=x.dtype)

        def run() -> tuple[Any, Any, Any]:
            (value, iterations), gradient = jax.block_until_ready(both(x, y, epsilon))
            return value, gradient, iterations

        return Ready(run, _read, case.reference("y"))

    return build


#: The first is the one that the ratios are to.
OURS = Contestant("ucmkd", ("ucmkd",), _ours(accelerate=True))
OURS_PLAIN = Contestant("ucmkd, no acceleration", ("ucmkd",), _ours(accelerate=False))
EVERYBODY = (
    OURS,
    OURS_PLAIN,
    Contestant("torch by hand, log domain", ("torch",), _by_hand(compiled=False)),
    Contestant("torch by hand, torch.compile", ("torch",), _by_hand(compiled=True)),
    Contestant("GeomLoss SamplesLoss, tensorized", ("geomloss",), _geomloss),
    Contestant("POT ot.sinkhorn, scaling", ("ot",), _pot("sinkhorn")),
    Contestant("POT ot.sinkhorn, log", ("ot",), _pot("sinkhorn_log")),
    Contestant("POT ot.solve_sample", ("ot",), _pot_sample),
    Contestant("OTT-JAX, log domain", ("jax", "ott"), _ott(log_domain=True)),
    Contestant("OTT-JAX, scaling", ("jax", "ott"), _ott(log_domain=False)),
)
CONTESTANTS = {
    "iterations": EVERYBODY,
    "residual": (
        *EVERYBODY,
        Contestant("GeomLoss, scaling 0.99", ("geomloss",), _geomloss_annealed),
    ),
}
