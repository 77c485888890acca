"""Random problems for the property tests, and the decorator that runs and counts them.

``HYPOTHESIS_PROFILE=ci`` (the default) is fast and the same at each run; ``nightly`` tries new
examples, more than 100,000 in all, and prints a blob that reproduces a failure.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ucmkd import ops, reference

BACKENDS = ("torch", "rust")
COSTS = reference.COSTS
PROFILES = {"ci": 1, "nightly": 40}
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
if PROFILE not in PROFILES:
    raise ValueError(f"HYPOTHESIS_PROFILE must be one of {list(PROFILES)}; got {PROFILE!r}")

#: Examples of each property over all backends, as planned in the profile "ci".
PLANNED: dict[str, int] = {}
#: Examples that ran in this process.
RAN: dict[str, int] = {}


def holds(*, examples: int, **strategies: st.SearchStrategy[Any]) -> Callable[..., Any]:
    """Runs a property ``test(backend, **drawn)`` on each backend, and counts its examples.

    The test fails when fewer examples than asked for have run, so that the numbers are real.
    """

    def decorate(test: Callable[..., None]) -> Callable[[str], None]:
        name = f"{test.__module__}.{test.__name__}"
        PLANNED[name] = examples * len(BACKENDS)
        wanted = examples * PROFILES[PROFILE]

        def run(backend: str) -> None:
            count = 0

            def each(**drawn: Any) -> None:
                nonlocal count
                count += 1
                RAN[name] = RAN.get(name, 0) + 1
                test(backend, **drawn)

            each.__name__ = f"{test.__name__}_on_{backend}"  # part of the seed
            threads = torch.get_num_threads()
            torch.set_num_threads(1)  # the problems are small
            settings(
                max_examples=wanted,
                deadline=None,
                database=None,
                derandomize=PROFILE == "ci",
                print_blob=PROFILE != "ci",
                phases=[Phase.explicit, Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            )(given(**strategies)(each))()
            torch.set_num_threads(threads)
            assert count >= wanted, f"{name} ran {count} examples of {wanted}"

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        run.__module__ = test.__module__
        return pytest.mark.parametrize("backend", BACKENDS)(run)

    return decorate


#: Largest max C/ε drawn: Sinkhorn's rate is at most tanh(max C/2ε)², so that plain iterations,
#: without acceleration, converge to rounding within the 20,000 that a solve may take.
STEEPEST = 5.0

seeds = st.integers(0, 2**32 - 1)
sizes = st.sampled_from([1, 2, 3, 5, 8, 17, 33])
widths = st.sampled_from([1, 2, 3, 8])
kinds = st.sampled_from(["normal", "integer", "clustered"])
costs = st.sampled_from(COSTS)
masses = st.sampled_from([1.0, 0.4, 2.5])
#: In units of the mean cost.
epsilons = st.sampled_from([0.3, 0.5, 1.0, 4.0])
some_reach = st.sampled_from([0.3, 1.0, 6.0])
one_reach = st.one_of(st.none(), some_reach)
reaches = st.tuples(one_reach, one_reach)
relaxed = reaches.filter(lambda pair: pair != (None, None))


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(seed: int, n: int, d: int, kind: str = "normal", spread: float = 1.0) -> Tensor:
    """Points on a fine dyadic grid, so that shifts by such numbers are exact in float64."""
    generator = rng(seed)
    points = spread * torch.randn(n, d, generator=generator, dtype=torch.float64)
    if kind == "integer":  # coincident points and ties
        return points.round()
    if kind == "clustered":
        centres = 4 * torch.randn(3, d, generator=generator, dtype=torch.float64)
        points = 0.1 * points + centres[torch.randint(3, (n,), generator=generator)]
    return (points * 2**16).round() / 2**16


def weights(seed: int, n: int, mass: float = 1.0) -> Tensor:
    w = torch.rand(n, generator=rng(seed), dtype=torch.float64) + 0.05
    return mass * w / w.sum()


@dataclass(frozen=True)
class Problem:
    """One entropic transport problem, in absolute units."""

    x: Tensor
    y: Tensor
    a: Tensor
    b: Tensor
    epsilon: float
    cost: str = "sqeuclidean"
    reach: tuple[float | None, float | None] = (None, None)
    k: Tensor | None = None
    l: Tensor | None = None  # noqa: E741
    label_cost: float = 0.0

    def but(self, **changes: Any) -> Problem:
        return replace(self, **changes)

    def swapped(self) -> Problem:
        return self.but(
            x=self.y, y=self.x, a=self.b, b=self.a, k=self.l, l=self.k, reach=self.reach[::-1]
        )

    def matrix(self) -> Tensor:
        """The cost matrix ``(n, m)`` with the label cost."""
        matrix = reference.cost_matrix(self.x[None], self.y[None], self.cost)[0]
        if self.k is None or self.l is None:
            return matrix
        return matrix + self.label_cost * (self.k[:, None] != self.l[None]).to(matrix.dtype)

    def options(self, backend: str) -> dict[str, Any]:
        """Keywords of ``ops.sinkhorn`` without the points, solved to rounding."""
        return dict(
            epsilon=self.epsilon, cost=self.cost, x_weight=self.a, y_weight=self.b,
            reach=self.reach, x_label=self.k, y_label=self.l, label_cost=self.label_cost,
            tol=1e-10, max_iter=20_000, backend=backend,
        )  # fmt: skip

    def solve(self, backend: str) -> ops.SinkhornOutput:
        out = ops.sinkhorn(self.x, self.y, **self.options(backend))
        assert bool(out.converged), f"residual {float(out.residual):.1e}"
        return out

    def value(self, backend: str) -> float:
        return self.solve(backend).value.item()

    def gradients(self, backend: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Derivatives of the value to x, y, a, b."""
        leaves = [t.clone().requires_grad_() for t in (self.x, self.y, self.a, self.b)]
        x, y, a, b = leaves
        self.but(x=x, y=y, a=a, b=b).solve(backend).value.backward()
        return tuple(t.grad for t in leaves)  # type: ignore[return-value]


@st.composite
def problems(
    draw: st.DrawFn,
    costs: st.SearchStrategy[str] = costs,
    reaches: st.SearchStrategy[tuple[float | None, float | None]] = reaches,
    kinds: st.SearchStrategy[str] = kinds,
    sizes: st.SearchStrategy[int] = sizes,
    labelled: bool = True,
) -> Problem:
    """Problems of every kind; strict ones have equal masses."""
    n, m, d = draw(sizes), draw(sizes), draw(widths)
    seed = draw(seeds)
    mass_a, mass_b = draw(masses), draw(masses)
    reach, cost, kind = draw(reaches), draw(costs), draw(kinds)
    if reach == (None, None):
        mass_b = mass_a
    if cost == "chordal" and kind == "integer":
        kind = "normal"  # directions equal up to rounding: the distance has no gradient there
    x, y = (
        cloud(seed, n, d, kind),
        cloud(seed + 1, m, d, kind, spread=0.7) + draw(st.sampled_from([0.0, 0.5, 2.0])),
    )
    mean = float(reference.cost_matrix(x[None], y[None], cost).mean()) or 1.0
    k = l = None  # noqa: E741
    label_cost = 0.0
    if labelled and draw(st.booleans()):
        k, l = (  # noqa: E741
            torch.randint(3, (size,), generator=rng(seed + size)) for size in (n, m)
        )
        label_cost = mean * draw(st.sampled_from([0.0, 0.5, 2.0]))
    p = Problem(
        x, y, weights(seed + 2, n, mass_a), weights(seed + 3, m, mass_b),
        epsilon=mean * draw(epsilons), cost=cost,
        reach=tuple(None if r is None else mean * r for r in reach),  # type: ignore[arg-type]
        k=k, l=l, label_cost=label_cost,
    )  # fmt: skip
    return p.but(epsilon=max(p.epsilon, float(p.matrix().max()) / STEEPEST))


def near(one: Tensor | float, two: Tensor | float, rel: float = 1e-7) -> None:
    """Equal up to ``rel`` of the largest entry: sums of many terms cancel in single entries."""
    first, second = (torch.as_tensor(t, dtype=torch.float64).detach() for t in (one, two))
    assert first.shape == second.shape
    size = max(1e-3, float(second.abs().max())) if second.numel() else 1.0
    torch.testing.assert_close(first, second, rtol=0, atol=rel * size)
