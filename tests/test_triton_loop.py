"""Sinkhorn on the Triton kernels: the loop on the device, its tiers and its acceleration.

``TRITON_INTERPRET=1`` must be set before Triton is imported, so one test runs this file once more
in a process of its own; there, and on a machine with a GPU, the numerical tests are not skipped.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from ucmkd import ops, reference
from ucmkd.kernels import cached, step
from ucmkd.kernels import softmin as sm
from ucmkd.ops import _triton
from ucmkd.ops import _triton_loop as loop
from ucmkd.ops import _triton_points as points_of
from ucmkd.ops import _triton_tier as tiers

INTERPRETED = _triton.interpreted()
DEVICE = "cpu" if INTERPRETED or not torch.cuda.is_available() else "cuda"
numerical = pytest.mark.skipif(
    not INTERPRETED and DEVICE == "cpu", reason="needs a GPU or TRITON_INTERPRET=1"
)
INF = math.inf
EPS = torch.finfo(torch.float32).eps


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def labels(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def masses(*shape: int, seed: int = 0, only: int | None = None) -> Tensor:
    """Weights with a zero among them, or all on one point."""
    weight = random(*shape, seed=seed).abs() + 0.1
    if only is not None:
        weight = torch.zeros_like(weight)
        weight[..., only] = 1
    elif shape[-1] > 2:
        weight[..., 1] = 0
    return weight / weight.sum(-1, keepdim=True)


class Case(NamedTuple):
    n: int = 17
    m: int = 11
    d: int = 3
    cost: str = "sqeuclidean"
    reach: tuple[float, float] = (INF, INF)
    label: str = ""  # "mismatch" or "distance"
    tier: str = "cached"
    own: bool = False  # a self-term
    epsilon: float = 0.3
    iterations: int = 2
    tol: float = 0.0
    splits: int | None = None
    dtype: torch.dtype = torch.float32
    shift: float = 0.0
    only: int | None = None  # all rows masked but this one
    warm: bool = False
    batch: int = 2
    tolerance: float = 200 * EPS


def problem(case: Case, dtype: torch.dtype) -> tuple[tuple, dict]:
    """The arguments of a solve, in a type of computation."""
    x = (random(case.batch, case.n, case.d) + case.shift).to(case.dtype)
    y = (random(case.batch, case.m, case.d, seed=1) + 0.5 + case.shift).to(case.dtype)
    a = masses(case.batch, case.n, only=case.only)
    b = masses(case.batch, case.m, seed=1)
    points = torch.float32 if case.dtype == torch.float32 else case.dtype
    points = dtype if dtype == torch.float64 else points
    keywords = {
        "epsilon": torch.full((case.batch,), case.epsilon, dtype=dtype, device=DEVICE),
        "reach_x": torch.full((case.batch,), case.reach[0], dtype=dtype, device=DEVICE),
        "reach_y": torch.full((case.batch,), case.reach[1], dtype=dtype, device=DEVICE),
        "cost": case.cost, "relative": True, "tol": case.tol, "max_iter": case.iterations,
    }  # fmt: skip
    if case.label:
        keywords["x_label"] = labels(case.batch, case.n)
        keywords["y_label"] = None if case.own else labels(case.batch, case.m, seed=1)
        keywords["label_cost"] = torch.full((case.batch,), 0.5, dtype=dtype, device=DEVICE)
        if case.label == "distance":
            table = random(3, 3, seed=5).abs()
            keywords["distance"] = (table + table.T if case.own else table).to(dtype)
            keywords["want_distance"] = True
    if case.warm:
        keywords["g0"] = 0.3 * random(case.batch, case.n if case.own else case.m, seed=7).to(dtype)
    y_points = None if case.own else y.to(points)
    weights = (a.to(dtype), (a if case.own else b).to(dtype))
    return (x.to(points), y_points, *weights), keywords


def close(actual: Tensor, expected: Tensor, tolerance: float, name: str = "") -> None:
    assert actual.shape == expected.shape, name
    size = float(expected.abs().max()) if expected.numel() else 1.0
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=tolerance, atol=tolerance * size,
        msg=lambda text: f"{name}: {text}",
    )  # fmt: skip


def compare(actual: reference.Solution, expected: reference.Solution, tolerance: float) -> None:
    """All fields; the residual as an absolute number, and so whether it is at most a tolerance."""
    for name, one, other in zip(expected._fields, actual, expected, strict=True):
        if name == "converged":
            assert one.dtype == torch.bool
        elif name == "iterations":
            assert torch.equal(one, other)
        elif name == "residual":
            assert float((one - other).abs().max()) < tolerance * max(1.0, float(other.max()))
        else:
            close(one, other, tolerance, name)


SIZES = [(1, 1, 1), (2, 17, 64), (17, 2, 100), (129, 127, 3), (18, 19, 513)]
CASES = {
    # Every cost, with and without reach, on both tiers.
    **{
        f"{tier}-{cost}": Case(cost=cost, tier=tier, label=label, reach=reach)
        for tier in ("cached", "streaming")
        for cost, label, reach in (
            ("sqeuclidean", "distance", (INF, INF)),
            ("euclidean", "mismatch", (1.0, 1.0)),
            ("cosine", "", (INF, 0.7)),
            ("l1", "distance", (2.0, INF)),
            ("chordal", "mismatch", (INF, INF)),
        )
    },
    **{
        f"{tier}-{n}x{m}x{d}": Case(n=n, m=m, d=d, tier=tier, iterations=1, batch=1)
        for tier in ("cached", "streaming")
        for n, m, d in SIZES
    },
    **{
        f"{tier}-{name}": case._replace(tier=tier)
        for tier in ("cached", "streaming")
        for name, case in {
            "shifted": Case(shift=100.0),
            "one row": Case(only=3, label="mismatch"),
            "own": Case(own=True, label="distance", cost="euclidean", iterations=3),
            "own relaxed": Case(own=True, reach=(1.0, 1.0), warm=True, iterations=9, tol=1e-2),
            "warm": Case(warm=True),
            "bfloat16": Case(dtype=torch.bfloat16, d=20),
            "float16": Case(dtype=torch.float16, cost="euclidean"),
            "small epsilon": Case(epsilon=2e-3, tolerance=4000 * EPS),
            "small epsilon relaxed": Case(
                epsilon=2e-3, reach=(0.1, 0.01), iterations=3, tolerance=4000 * EPS
            ),
        }.items()
    },
    "split": Case(n=3, m=150, tier="streaming", splits=2, label="mismatch", iterations=1),
    "split relaxed": Case(n=70, m=3, tier="streaming", splits=3, reach=(1.0, 2.0), batch=1),
}


@numerical
@pytest.mark.parametrize("name", CASES)
def test_solution(name: str) -> None:
    case = CASES[name]
    points, keywords = problem(case, torch.float64)
    expected = reference.sinkhorn(*points, **keywords)
    points, keywords = problem(case, torch.float32)
    actual = _triton.solve(*points, **keywords, tier=case.tier, splits=case.splits)
    compare(actual, expected, case.tolerance)


@numerical
@pytest.mark.parametrize("tier", ["cached", "streaming"])
def test_problems_of_a_batch_stop_one_by_one(tier: str) -> None:
    """What is done stands still: the easy problem is that of a solve of its own, to the bit."""
    case = Case(batch=2, tol=1e-3, iterations=40)
    points, keywords = problem(case, torch.float32)
    keywords["epsilon"] = torch.tensor([0.3, 5.0], device=DEVICE)
    both = _triton.solve(*points, **keywords, tier=tier)
    assert int(both.iterations[1]) < int(both.iterations[0]) < 40
    assert bool(both.converged.all())
    for name in ("epsilon", "reach_x", "reach_y"):
        keywords[name] = keywords[name][1:]
    alone = _triton.solve(*(p[1:] for p in points), **keywords, tier=tier)
    for name, one, other in zip(alone._fields, alone, both, strict=True):
        if name not in ("grad_x", "grad_y", "class_mass"):
            assert torch.equal(one, other[1:]), name


@numerical
def test_launching_on_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result does not depend on when the host learns that all problems are done."""

    def to_the_end(iteration, active, most) -> None:
        for k in range(most):
            iteration(k)

    case = Case(tol=1e-2, iterations=12, epsilon=1.0, reach=(1.0, INF))
    points, keywords = problem(case, torch.float32)
    stopped = _triton.solve(*points, **keywords, accelerate=True)
    assert int(stopped.iterations.max()) < 10
    monkeypatch.setattr(loop, "repeat", to_the_end)
    for one, other in zip(
        _triton.solve(*points, **keywords, accelerate=True), stopped, strict=True
    ):
        assert torch.equal(one, other)


@numerical
@pytest.mark.parametrize("reach", [(INF, INF), (5.0, INF)])
def test_acceleration(reach: tuple[float, float]) -> None:
    """The same fixed point in at most half of the iterations."""
    case = Case(n=12, m=9, d=2, epsilon=0.1, tol=1e-3, iterations=400, reach=reach, batch=1)
    points, keywords = problem(case, torch.float64)
    plain = reference.sinkhorn(*points, **keywords)
    exact = reference.sinkhorn(*points, **{**keywords, "tol": 1e-6, "max_iter": 1000})
    points, keywords = problem(case, torch.float32)
    fast = _triton.solve(*points, **keywords, accelerate=True)
    assert bool(fast.converged) and bool(plain.converged)
    assert 2 * int(fast.iterations) <= int(plain.iterations)
    assert float(fast.residual) <= case.tol
    # The error of the value is of second order in the residual, that of a potential of first.
    close(fast.value, exact.value, 1e-5)
    distance = float((fast.x_potential - exact.x_potential).abs().max())
    assert distance < 3 * float((plain.x_potential - exact.x_potential).abs().max()) + 1e-5


def run_step(state: step.State, image: Tensor) -> None:
    """One accelerated step where the map takes the point to ``image``; uniform weights."""
    state.change.copy_(image - state.g)
    b = torch.full_like(image, 1 / image.shape[1])
    strict = torch.zeros(1, device=DEVICE)
    step.step(state, strict[:, None], b, strict, strict, tol=0.0, last=False)


@numerical
def test_mixing_solves_a_linear_problem_quickly() -> None:
    """A linear map with slowly decaying modes converges in about as many steps as it has modes."""
    rates = torch.tensor([[0.999, 0.9, -0.5, 0.3]], device=DEVICE)
    fixed = torch.tensor([[0.3, -0.2, 0.1, 0.4]], device=DEVICE)
    state = step.start(torch.zeros(1, 4, device=DEVICE), 1, torch.ones(1, device=DEVICE),
                       accelerate=True)  # fmt: skip
    for _ in range(12):
        run_step(state, fixed + rates * (state.g - fixed))
    assert int(state.iterations) <= 12
    assert float((state.g - fixed).abs().max()) < 1e-3


@numerical
def test_a_worse_point_is_refused() -> None:
    """After a refused point the next one is the plain step from the last kept point."""
    state = step.start(torch.zeros(1, 4, device=DEVICE), 1, torch.ones(1, device=DEVICE),
                       accelerate=True)  # fmt: skip
    run_step(state, state.g + 0.10)
    assert float(state.g[0, 0]) == pytest.approx(0.10)
    run_step(state, state.g + 0.09)
    mixed = state.g.clone()
    assert float(mixed[0, 0]) > 0.3, "extrapolated"
    run_step(state, state.g + 2.0)
    assert float(state.end[0, 0]) == pytest.approx(float(mixed[0, 0]) + 2.0)
    assert float(state.g[0, 0]) == pytest.approx(0.19)


@numerical
def test_columns_without_mass_in_float32() -> None:
    """A column sum that underflows is computed with a maximum: exact from any potential."""
    cost = 300 * random(1, 40, 9).abs()
    g = 200 * random(1, 9, seed=1)
    a, b = masses(1, 40), masses(1, 9, seed=1)
    kappa, damping = torch.ones(1, device=DEVICE), torch.ones(1, device=DEVICE)
    f, change = torch.empty_like(a), torch.empty_like(b)
    tier = loop.Cached(cost, (a.log2(), b.log2()), kappa, (damping, damping), 1)
    tier.iterate(f, g, change, torch.ones(1, dtype=torch.int32, device=DEVICE))
    scores = (g + b.log2()).double()[:, None, :] - cost.double()
    sigma = -torch.logsumexp(scores * math.log(2), -1) / math.log(2)
    scores = (sigma + a.log2().double())[:, :, None] - cost.double()
    best = -torch.logsumexp(scores * math.log(2), 1) / math.log(2)
    assert float((best - g).max()) > 150, "beyond the range of float32"
    close(f, sigma, 4 * EPS)
    counts = b > 0
    close((g + change)[counts], best[counts], 4 * EPS)
    assert not change[~counts].any()


@numerical
@pytest.mark.parametrize("row_blocks", [0, 1, 3])
def test_sweep_shares(row_blocks: int) -> None:
    """Rows shared among programs any way, or too wide for the registers: the same columns."""
    cost, g = random(2, 70, 150).abs(), random(2, 150)
    a, b = masses(2, 70), masses(2, 150, seed=1)
    kappa = torch.tensor([2.0, 5.0], device=DEVICE)
    f, change = torch.empty_like(a), torch.empty_like(b)
    launch = cached.SweepLaunch(16, 4, 1) if row_blocks else None
    groups = -(-70 // (8 if row_blocks == 0 else 16 * row_blocks))
    sweep = cached.Sweep(groups, row_blocks, 256, launch)
    cached.iterate(
        cost, g, a.log2(), b.log2(), kappa, torch.ones_like(kappa), f, change,
        active=torch.tensor([1, 1], dtype=torch.int32, device=DEVICE),
        partial=torch.empty(2, groups, 150, device=DEVICE), sweep=sweep,
    )  # fmt: skip
    scores = (g + b.log2()).double()[:, None, :] - kappa.double()[:, None, None] * cost.double()
    sigma = -torch.logsumexp(scores * math.log(2), -1) / math.log(2)
    scores = (sigma + a.log2())[:, :, None] - kappa.double()[:, None, None] * cost.double()
    best = -torch.logsumexp(scores * math.log(2), 1) / math.log(2)
    close(f, sigma, 20 * EPS)
    close((g + change)[b > 0], best[b > 0], 20 * EPS)


@numerical
@pytest.mark.parametrize("reach", [(INF, INF), (1.0, 0.5)])
def test_cost_matrix(reach: tuple[float, float]) -> None:
    cost = random(2, 19, 13)  # of any sign
    a, b, start = masses(2, 19), masses(2, 13, seed=1), random(2, 13, seed=2)

    def run(solver, dtype: torch.dtype, *extra: object, **options: object):
        def number(value: float) -> Tensor:
            return torch.full((2,), value, dtype=dtype, device=DEVICE)

        given = [t.to(dtype) for t in (a, b)]
        return solver(
            cost.to(dtype), *extra, *given, epsilon=number(0.2), reach_x=number(reach[0]),
            reach_y=number(reach[1]), g0=start.to(dtype), tol=0.0, max_iter=3, **options,
        )  # fmt: skip

    expected, plan = run(
        reference.solve_dense, torch.float64, None, label_cost=torch.zeros(2, device=DEVICE),
        symmetric=False, relative=False,
    )  # fmt: skip
    actual, found = run(_triton.solve_matrix, torch.float32)
    compare(actual, expected, 100 * EPS)
    close(found, plan, 200 * EPS)
    assert run(_triton.solve_matrix, torch.float32, want_plan=False)[1].numel() == 0


@numerical
def test_operators_run_on_this_backend() -> None:
    """Class distances and cost matrices reach the kernels through the operators."""
    x, y, table = random(6, 4), random(5, 4, seed=1), random(3, 3, seed=2).abs()
    x.requires_grad_()
    table.requires_grad_()
    options = {"x_label": labels(6), "y_label": labels(5, seed=1), "label_cost": table}
    cost = random(6, 5, seed=3).requires_grad_()
    found = []
    for backend in ("triton", "torch"):
        out = ops.sinkhorn(x, y, epsilon=1.0, tol=1e-4, max_iter=50, backend=backend, **options)
        matrix = ops.sinkhorn_cost(cost, epsilon=1.0, tol=1e-4, max_iter=50, backend=backend)
        total = out.value + matrix.value
        found.append((total.detach(), *torch.autograd.grad(total, (x, table, cost))))
    for one, other in zip(*found, strict=True):
        close(one, other, 1e-3)


@numerical
def test_16_bit_points_are_multiplied_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operators hand them over in their type, and give the gradient back in it."""
    seen: list[torch.dtype] = []
    ready = points_of.ready

    def noted(x, y, *rest):
        seen.append(x.dtype)
        return ready(x, y, *rest)

    monkeypatch.setattr(points_of, "ready", noted)
    monkeypatch.setattr(_triton, "together", lambda x, y: False)
    x, y = random(6, 4).bfloat16().requires_grad_(), random(5, 4, seed=1).bfloat16()
    found = []
    for backend in ("triton", "torch"):
        value = ops.sinkhorn(x, y, epsilon=1.0, tol=1e-2, max_iter=9, backend=backend).value
        found.append((value.detach(), *torch.autograd.grad(value, x)))
    assert seen == [torch.bfloat16]
    assert found[0][1].dtype == torch.bfloat16
    close(found[0][0], found[1][0], 1e-3)
    close(found[0][1], found[1][1], 2e-2)


@pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU")
@pytest.mark.parametrize("tier", ["cached", "streaming"])
def test_no_host_sync_and_a_recorded_graph(tier: str) -> None:
    """A solve never waits for the device, and one recorded in a CUDA graph is the same solve."""
    case = Case(n=300, m=200, d=16, tol=1e-3, iterations=30, label="distance", tier=tier)
    points, keywords = problem(case, torch.float32)

    def solve() -> reference.Solution:
        return _triton.solve(*points, **keywords, tier=tier, accelerate=True)

    solve()
    torch.cuda.set_sync_debug_mode("error")
    try:
        eager = solve()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = solve()
    graph.replay()
    torch.cuda.synchronize()
    for one, other in zip(recorded, eager, strict=True):
        assert torch.equal(one, other)


class OnDevice:
    """Flags of a GPU, for the host's side of the loop."""

    is_cuda = True


@pytest.mark.parametrize(
    "recording, late, launched", [(False, 0, 12), (False, 3, 24), (True, 0, 40)]
)
def test_host_never_waits(
    recording: bool, late: int, launched: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is done after iteration 10, and the host learns of a state ``late`` looks afterwards."""
    count = 0
    looks: list[int] = []

    def iteration(k: int) -> None:
        nonlocal count
        assert k == count
        count += 1

    def look(_):
        looks.append(count)
        mine = len(looks)
        seen = count
        return lambda: None if len(looks) < mine + late else seen < 10

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: recording)
    monkeypatch.setattr(loop, "look", look)
    loop.repeat(iteration, OnDevice(), 40)
    assert count == launched
    assert not (recording and looks), "a copy to the host cannot be recorded"


def test_tiers_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UCMKD_CACHE_MB", raising=False)

    def tier(batch: int, n: int, m: int, d: int = 16, kind: str = "float") -> str:
        return tiers.tier_of(batch, n, m, d, kind, torch.device("cpu"))

    columns = tiers.CACHE_BYTES_ELSE // 8192
    assert tier(2, 1024, columns) == "cached"
    assert tier(2, 1024, columns + 1) == "streaming"
    # In the GPU's memory: from the table's width on, up to the budget.
    least = tiers.MATRIX_FROM["A100", "float"]
    assert tier(1, 8192, 8192, least - 1) == "streaming"
    assert tier(1, 8192, 8192, least, "float/root") == "cached"
    assert tier(1, 8192, 8192, least, "half") == "streaming"
    assert tier(2, 8192, 8192, least) == "cached"
    assert tier(2, 8192, 8193, least) == "streaming"
    monkeypatch.setenv("UCMKD_CACHE_MB", "1")
    assert tier(1, 512, 512) == "cached"
    assert tier(1, 512, 513) == "streaming"


@pytest.mark.parametrize(
    "capability, memory, expected",
    [
        ((8, 0), 80e9, "A100"),
        ((9, 0), 80e9, "H100"),
        ((9, 0), 141e9, "H200"),
        ((10, 0), 180e9, "H100"),
        ((12, 0), 32e9, "A100"),
    ],
)
def test_the_row_of_a_gpu(
    capability: tuple[int, int], memory: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Properties:
        total_memory = memory

    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties())
    name, cache = tiers.gpu_of.__wrapped__(torch.device("cuda", 0))
    assert name == expected
    assert cache == tiers.CACHE_BYTES.get(capability[0], tiers.CACHE_BYTES_ELSE)


def test_splits_fill_the_processors() -> None:
    assert sm.count_splits(132, 1000, 132) == 1
    assert sm.count_splits(33, 1000, 132) == 8
    assert sm.count_splits(33, 13, 132) == 3
    assert sm.count_splits(1, 2, 132) == 1


@pytest.mark.parametrize("batch, n, m", [(1, 4000, 2500), (8, 300, 1000), (1, 64, 8192), (3, 1, 1)])
def test_every_row_has_a_program(batch: int, n: int, m: int) -> None:
    sweep = cached.plan_sweep(batch, n, m, 132)
    assert sweep.launch is not None
    rows = sweep.row_blocks * sweep.launch.block_m
    assert sweep.width >= m
    assert sweep.groups * rows >= n > (sweep.groups - 1) * rows
    assert cached.plan_sweep(1, 100, 9000, 132).launch is None


def test_out_of_memory_names_the_size() -> None:
    with (
        pytest.raises(torch.OutOfMemoryError, match=r"the matrix of 3 MiB .* UCMKD_CACHE_MB=0"),
        loop.room_for("the matrix", 3 << 20, "UCMKD_CACHE_MB=0 streams it"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.skipif(INTERPRETED, reason="this is the process that it starts")
def test_numerics_in_the_interpreter() -> None:
    """Runs the numerical tests of this file in a process with TRITON_INTERPRET=1."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-x", "-p", "no:cacheprovider", __file__],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed.group(1)) >= 60, done.stdout
