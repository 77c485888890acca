"""The training run: the debiased divergence and its gradient at each of its minibatches.

Everybody may keep what a careful user would: the self-term of a frozen teacher minibatch that was
seen before, and the potential on the teacher's points, from which the next solve starts. (The
student's points are fresh at every step: their potentials have no successor.) Whoever updates the
student's side first gets the benefit of it; OTT and POT update their second argument first, and
so get the student as the second.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benches.contestants import by_hand, geomloss_samples, ours, pot, sequence_ott
from benches.contestants.common import LONGEST
from benches.problems import RESIDUAL
from benches.problems_sets import Drift, euclidean_tolerance
from benches.timing import Answer, Contestant, Ready

Step = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


def ready(problem: Drift, begin: Callable[[], Step], note: str = "") -> Ready:
    """A run of all steps from a fresh state; ``begin`` makes the step's function."""
    teachers = [torch.from_numpy(y).clone() for y in problem.teachers]
    students = [torch.from_numpy(s.x).clone().requires_grad_() for s in problem.steps]

    def run() -> list[tuple[Tensor, Tensor]]:
        step = begin()
        return [
            step(x, teachers[s.teacher], s.teacher)
            for x, s in zip(students, problem.steps, strict=True)
        ]

    def read(results: list[tuple[Tensor, Tensor]]) -> Answer:
        values, gradients = zip(*(results[k] for k in problem.checked), strict=True)
        return Answer(
            np.array([float(v.detach()) for v in values]),
            np.stack([g.detach().numpy() for g in gradients]),
        )

    return Ready(run, read, problem.solution, note)


def _ours(keep: bool) -> Callable[[Drift], Ready]:
    def build(problem: Drift) -> Ready:
        from ucmkd import losses

        made = getattr(losses, "SinkhornState", None)
        knows = "state" in inspect.signature(losses.sinkhorn_align).parameters
        available = keep and made is not None and knows

        def begin() -> Step:
            options: dict[str, Any] = {"state": made()} if available else {}

            def step(x: Tensor, y: Tensor, _: int) -> tuple[Tensor, Tensor]:
                value = losses.sinkhorn_align(
                    x, y, epsilon=problem.epsilon, epsilon_scale=None, tol=RESIDUAL,
                    max_iter=LONGEST, backend="rust", **options,
                )  # fmt: skip
                return value, torch.autograd.grad(value, x)[0]

            return step

        return ready(problem, begin, "" if available or not keep else "this version keeps no state")

    return build


def _ten_symmetric(scores: Tensor, f: Tensor, log_n: float) -> tuple[Tensor, Tensor]:
    """Ten averaged updates of a self-term, and the L1 violation before the last."""
    new = f
    previous = f
    for _ in range(10):
        previous = f
        new = log_n - torch.logsumexp(scores + f, -1)
        f = (f + new) / 2
    return f, torch.expm1(previous - new).abs().mean()


def _by_hand(compiled: bool) -> Callable[[Drift], Ready]:
    def build(problem: Drift) -> Ready:
        epsilon, log_n = problem.epsilon, math.log(problem.n)

        def start(x: Tensor, y: Tensor) -> Tensor:
            return by_hand.square_distances(x, y) / -epsilon

        def cross(x: Tensor, y: Tensor, f: Tensor, g: Tensor) -> Tensor:
            return by_hand.dual(x, y, f, g, epsilon, log_n)

        def own(x: Tensor, f: Tensor) -> Tensor:
            return by_hand.dual(x, x, f, f, epsilon, log_n)

        parts: tuple[Callable[..., Any], ...] = (start, by_hand.ten, _ten_symmetric, cross, own)
        if compiled:
            torch._dynamo.reset()
            parts = tuple(torch.compile(p, dynamic=False, fullgraph=True) for p in parts)
        start, ten, ten_symmetric, cross, own = parts

        def symmetric(x: Tensor) -> Tensor:
            with torch.no_grad():
                scores, f = start(x, x), torch.zeros(problem.n)
                for _ in range(LONGEST // 10):
                    f, violation = ten_symmetric(scores, f, log_n)
                    if float(violation) <= RESIDUAL:
                        break
            return own(x, f)

        def begin() -> Step:
            teacher_value: dict[int, Tensor] = {}
            potential: dict[int, Tensor] = {}

            def step(x: Tensor, y: Tensor, which: int) -> tuple[Tensor, Tensor]:
                if which not in teacher_value:
                    with torch.no_grad():
                        teacher_value[which] = symmetric(y)
                g = potential.get(which, torch.zeros(problem.n))
                with torch.no_grad():
                    scores = start(x, y)
                    for _ in range(LONGEST // 10):
                        f, g, violation = ten(scores, g, log_n)
                        if float(violation) <= RESIDUAL:
                            break
                potential[which] = g
                value = cross(x, y, f, g) - symmetric(x) / 2 - teacher_value[which] / 2
                return value.detach(), torch.autograd.grad(value, x)[0]

            return step

        made = ready(problem, begin)
        if compiled:  # each function, with and without a gradient
            x = torch.from_numpy(problem.steps[0].x).clone().requires_grad_()
            begin()(x, torch.from_numpy(problem.teachers[0]).clone(), 0)
        return made

    return build


def _geomloss(problem: Drift) -> Ready:
    from geomloss import SamplesLoss

    def violation(length: int) -> float:
        return max(_violation(problem, number, length) for number in (0, len(problem.steps) - 1))

    length = geomloss_samples.shortest(violation)
    loss = SamplesLoss(
        "sinkhorn", backend="tensorized", **geomloss_samples.schedule(problem.epsilon, length)
    )

    def step(x: Tensor, y: Tensor, _: int) -> tuple[Tensor, Tensor]:
        value = 2 * loss(x, y)
        return value, torch.autograd.grad(value, x)[0]

    return ready(problem, lambda: step, f"{length} steps near the final ε; has no warm start")


def _violation(problem: Drift, number: int, length: int) -> float:
    step = problem.steps[number]
    x, y = torch.from_numpy(step.x), torch.from_numpy(problem.teachers[step.teacher])
    f, g = (p.ravel() for p in geomloss_samples.potentials(x, y, problem.epsilon, length))
    cost = by_hand.square_distances(x, y).numpy()
    plan = np.exp((f[:, None] + g - cost) / problem.epsilon) / problem.n**2
    return float(sum(np.abs(plan.sum(k) - 1 / problem.n).sum() for k in (0, 1)) / 2)


def _pot(problem: Drift) -> Ready:
    import ot

    epsilon, n = problem.epsilon, problem.n
    a = torch.full((n,), 1 / n)
    first, teacher = problem.steps[0].x, problem.teachers[problem.steps[0].teacher]
    tolerance = euclidean_tolerance(teacher, first, epsilon)
    own_tolerance = euclidean_tolerance(first, first, epsilon)

    def solve(
        x: Tensor, y: Tensor, stop: float, warm: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """The value, without a gradient; the linear cost, whose gradient is the value's."""
        cost = ot.dist(x, y)
        with torch.no_grad():
            plan, log = ot.sinkhorn(
                a, a, cost.detach(), epsilon, method="sinkhorn", numItermax=LONGEST, stopThr=stop,
                log=True, warn=False, warmstart=warm,
            )  # fmt: skip
            f, g = pot.log_potentials(log)
            value = epsilon * (f.mean() + g.mean() + 2 * math.log(n))
        return value, (plan * cost).sum(), (f, g)

    def begin() -> Step:
        kept: dict[int, tuple[Tensor, tuple[Tensor, Tensor] | None]] = {}

        def step(x: Tensor, y: Tensor, which: int) -> tuple[Tensor, Tensor]:
            if which not in kept:
                kept[which] = (solve(y, y, own_tolerance, None)[0], None)
            own_y, warm = kept[which]
            value, linear, warm = solve(y, x, tolerance, warm)
            own, own_linear, _ = solve(x, x, own_tolerance, None)
            kept[which] = (own_y, warm)
            (gradient,) = torch.autograd.grad(linear - own_linear / 2, x)
            return value - own / 2 - own_y / 2, gradient

        return step

    return ready(problem, begin)


#: On two threads the terms run side by side, and the cross term alone takes as long as all: what a
#: state saves costs more than it brings at this size.
OURS = Contestant(ours.NAME, ("ucmkd",), _ours(keep=False))
CONTESTANTS = (
    OURS,
    Contestant("ucmkd, with state=", ("ucmkd",), _ours(keep=True)),
    Contestant("torch by hand, log domain", ("torch",), _by_hand(compiled=False)),
    Contestant("torch by hand, torch.compile", ("torch",), _by_hand(compiled=True)),
    Contestant("GeomLoss SamplesLoss, tensorized", ("geomloss",), _geomloss),
    Contestant("POT ot.sinkhorn, scaling", ("ot",), _pot),
    *sequence_ott.CONTESTANTS,
)
