"""The training run by OTT-JAX: one jitted step, warm start by ``init``, kept teacher terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benches.contestants.common import LONGEST
from benches.contestants.ott_jax import NEEDS, Choice, compiled, fastest, solver
from benches.problems import RESIDUAL
from benches.problems_sets import Drift
from benches.timing import Answer, Contestant, Ready

#: The acceleration is chosen on so many steps, by answers this far from float64.
SHORT = 12
ACCEPTED = (1e-3, 2e-2)


def _symmetric(log_domain: bool) -> Any:
    """The solver of a self-term as OTT's own divergence sets it up."""
    from ott.solvers.linear import acceleration, sinkhorn

    return sinkhorn.Sinkhorn(
        lse_mode=log_domain, use_danskin=True, parallel_dual_updates=True, threshold=RESIDUAL,
        max_iterations=LONGEST, inner_iterations=5,
        momentum=acceleration.Momentum(start=0, value=0.5),
    )  # fmt: skip


def _ready(problem: Drift, choice: Choice, log_domain: bool) -> Ready:
    import jax
    from ott.geometry import pointcloud
    from ott.problems.linear import linear_problem

    cross_solver, own_solver = solver(choice, log_domain), _symmetric(log_domain)
    epsilon = jax.numpy.float32(problem.epsilon)

    def own(x: Any, epsilon: Any) -> Any:
        cloud = pointcloud.PointCloud(x, x, epsilon=epsilon)
        return own_solver(linear_problem.LinearProblem(cloud)).reg_ot_cost

    def loss(x: Any, y: Any, start: Any, own_y: Any, epsilon: Any) -> tuple[Any, Any]:
        # The first argument's potential is where its iterations start from.
        cloud = pointcloud.PointCloud(y, x, epsilon=epsilon)
        first = start if log_domain else jax.numpy.exp(start / epsilon)
        second = jax.numpy.zeros_like(start) + (0.0 if log_domain else 1.0)
        out = cross_solver(linear_problem.LinearProblem(cloud), init=(first, second))
        return out.reg_ot_cost - own(x, epsilon) / 2 - own_y / 2, out.f

    students = [jax.numpy.asarray(s.x) for s in problem.steps]
    teachers = [jax.numpy.asarray(y) for y in problem.teachers]
    zero = jax.numpy.zeros(problem.n)
    teacher_term = compiled(own, teachers[0], epsilon)
    step = compiled(
        jax.value_and_grad(loss, has_aux=True),
        students[0], teachers[0], zero, jax.numpy.float32(0), epsilon,
    )  # fmt: skip

    def run() -> list[tuple[Any, Any]]:
        kept: dict[int, tuple[Any, Any]] = {}
        results = []
        for x, s in zip(students, problem.steps, strict=True):
            y = teachers[s.teacher]
            if s.teacher not in kept:
                kept[s.teacher] = (teacher_term(y, epsilon), zero)
            own_y, start = kept[s.teacher]
            (value, potential), gradient = jax.block_until_ready(step(x, y, start, own_y, epsilon))
            kept[s.teacher] = (own_y, potential)
            results.append((value, gradient))
        return results

    def read(results: list[tuple[Any, Any]]) -> Answer:
        values, gradients = zip(*(results[k] for k in problem.checked), strict=True)
        return Answer(
            np.array([float(v) for v in values]), np.stack([np.asarray(g) for g in gradients])
        )

    return Ready(run, read, problem.solution, choice.name)


def _build(log_domain: bool) -> Callable[[Drift], Ready]:
    def build(problem: Drift) -> Ready:
        short = Drift(min(SHORT, len(problem.steps)), problem.n, len(problem.teachers))
        choice, _ = fastest(lambda c: _ready(short, c, log_domain), ACCEPTED)
        return _ready(problem, choice, log_domain)

    return build


CONTESTANTS = (
    Contestant("OTT-JAX, log domain", NEEDS, _build(log_domain=True)),
    Contestant("OTT-JAX, kernel mode", NEEDS, _build(log_domain=False)),
)
