"""Warm starts and the frozen teacher's self-term: fewer iterations, and nothing else changes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from ucmkd import ops
from ucmkd.losses import FeatureAlign, SinkhornAlign, SinkhornState, feature_align, sinkhorn_align
from ucmkd.ops.frozen import FrozenTerm, accuracy
from ucmkd.ops.schedule import epsilon_sequence
from ucmkd.reference import Solution, cost_matrix

WIDTH = 16


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    # Problems this small only wait for a second thread.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def clouds(n: int = 24, m: int = 20, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Five classes on the sphere, in other proportions on either side."""
    centres = torch.randn(5, WIDTH)
    x = centres[torch.randint(5, (n,))] + 0.5 * torch.randn(n, WIDTH)
    y = centres[torch.randint(5, (m,))] + 0.5 * torch.randn(m, WIDTH)
    unit = torch.nn.functional.normalize
    return unit(x, dim=-1).to(dtype), unit(y, dim=-1).to(dtype)


def step(loss: Any, x: Tensor, y: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    value = loss(x, y, **options)
    value.sum().backward()
    assert x.grad is not None
    return value.detach(), x.grad


def drift(x: Tensor, size: float = 0.01) -> Tensor:
    return x + size * torch.randn_like(x) / WIDTH**0.5


SETTINGS: list[dict[str, Any]] = [
    {},
    {"epsilon_scale": None, "epsilon": 0.5},
    {"reach": 1.0},
    {"reach": (None, 0.5), "epsilon_scale": None},
    {"label_cost": 0.5},
    {"label_cost": 0.5, "reach": 0.7, "cost": "euclidean"},
    {"cost": "cosine", "debias": False},
    {"sharp": True},
    {"weights": True},
    {"batched": True},
    {"bank": 48},
    {"bank": 48, "reach": 1.0, "label_cost": 0.5},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_memory_changes_no_converged_result(settings: dict[str, Any], backend: str) -> None:
    options: dict[str, Any] = {"epsilon": 0.3, "tol": 1e-10, "backend": backend, **settings}
    state = SinkhornState(bank=options.pop("bank", 0))
    x, y = clouds()
    if options.pop("weights", False):
        options["student_weight"] = torch.rand(24, dtype=x.dtype)
        options["student_weight"][:3] = 0
        options["student_weight"] /= options["student_weight"].sum()
        options["teacher_weight"] = torch.full((20,), 1 / 20, dtype=x.dtype)
    if "label_cost" in options:
        options["student_label"], options["teacher_label"] = (
            torch.randint(3, (24,)),
            torch.randint(3, (20,)),
        )
    if options.pop("batched", False):
        x, y = torch.stack([x, drift(x)]), torch.stack([y, drift(y, 0.3)])
    changing = state._bank.capacity > 0
    for _ in range(3):
        value, gradient = step(sinkhorn_align, x, y, state=state, **options)
        cold, cold_gradient = step(sinkhorn_align, x, y, **options)
        torch.testing.assert_close(value, cold, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(gradient, cold_gradient, rtol=1e-7, atol=1e-9)
        x = drift(x)
        if changing:
            y = drift(y)


def test_a_drifting_student_needs_few_iterations(backend: str) -> None:
    x, y = clouds(64, 64)
    for epsilon in (0.2,) if backend == "torch" else (0.05, 0.02):
        state = SinkhornState()
        warm, cold, teacher = [], [], []
        for k in range(8):
            sinkhorn_align(x, y, epsilon=epsilon, state=state, backend=backend)
            fresh = SinkhornState()
            sinkhorn_align(x, y, epsilon=epsilon, state=fresh, backend=backend)
            if k:
                warm.append(int(state.iterations.cross))
                cold.append(int(fresh.iterations.cross))
                teacher.append(int(state.iterations.teacher))
            x = drift(x, 0.02)
        assert sum(warm) < 0.5 * sum(cold), (warm, cold)
        # The mean cost drifts, and most values of the self-term lie between two known ones.
        assert sum(count == 0 for count in teacher) >= 4, teacher


def test_a_bank_helps_minibatches_that_overlap(backend: str) -> None:
    students, teachers = clouds(256, 256)
    s, t = torch.randperm(256)[:64], torch.randperm(256)[:64]
    epsilon = 0.1 if backend == "torch" else 0.01
    state = SinkhornState(bank=64)
    warm = cold = 0
    for k in range(8):
        x, y = students[s], teachers[t]
        fresh = SinkhornState()
        for memory in (state, fresh):
            sinkhorn_align(x, y, epsilon=epsilon, debias=False, state=memory, backend=backend)
        if k:
            warm += int(state.iterations.cross)
            cold += int(fresh.iterations.cross)
        for index in (s, t):  # other samples, in another order
            index[torch.randperm(64)[:3]] = torch.randint(256, (3,))
            index.copy_(index[torch.randperm(64)])
    assert warm < 0.8 * cold, (warm, cold)
    assert len(state._bank) == 64


def test_a_fixed_teacher_is_solved_once_and_its_value_is_exact(backend: str) -> None:
    x, y = clouds(dtype=torch.float32)
    state = SinkhornState()
    options: dict[str, Any] = {"epsilon": 0.2, "epsilon_scale": None, "backend": backend}
    first = sinkhorn_align(x, y, state=state, **options)
    assert torch.equal(first, sinkhorn_align(x, y, **options))
    assert int(state.iterations.teacher) > 0
    stored = state._teachers.latest.term._value
    assert stored is not None
    for _ in range(3):
        x = drift(x)
        sinkhorn_align(x, y.clone(), state=state, **options)
        assert state.iterations.teacher == 0
        assert state._teachers.latest.term._value is stored
    # Minibatches far from the last are solved cold: nothing but the cache is left, bit for bit.
    x = -x
    assert torch.equal(
        sinkhorn_align(x, y, state=state, **options), sinkhorn_align(x, y, **options)
    )


CHANGES: list[dict[str, Any]] = [
    {"epsilon": 0.6},
    {"reach": 2.0},
    {"cost": "euclidean"},
    {"tol": 1e-11},
    {"max_iter": 900},
    {"sharp": True},
    {"label_cost": 1.0},
    {"epsilon_scale": "mean"},
    {"teacher_weight": True},
    {"teacher_label": True},
    {"teacher": "in place"},
    {"teacher": "behind autograd"},
    {"teacher": "fewer"},
    {"teacher": "float32"},
    {"student": "fewer"},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_no_change_is_missed(change: dict[str, Any]) -> None:
    x, y = clouds()
    options: dict[str, Any] = {
        "epsilon": 0.5, "epsilon_scale": None, "tol": 1e-10, "label_cost": 0.5,
        "student_label": torch.randint(3, (24,)), "teacher_label": torch.randint(3, (20,)),
        "teacher_weight": torch.full((20,), 1 / 20, dtype=x.dtype),
    }  # fmt: skip
    state = SinkhornState(bank=64)
    sinkhorn_align(x, y, state=state, **options)
    change = dict(change)
    match change.pop("teacher", None):
        case "in place":
            y.mul_(1.1)
        case "behind autograd":
            y.data[3, 5] += 0.5
            assert y._version == 0
        case "fewer":
            y = y[:15]
            options["teacher_weight"] = torch.full((15,), 1 / 15, dtype=x.dtype)
            options["teacher_label"] = options["teacher_label"][:15]
        case "float32":
            x, y = x.float(), y.float()
    if change.pop("student", None):
        x, options["student_label"] = x[:10], options["student_label"][:10]
    if change.pop("teacher_weight", None):
        options["teacher_weight"][:5] *= 0.5
        options["teacher_weight"][5:10] *= 1.5
    if change.pop("teacher_label", None):
        options["teacher_label"][:10] += 1
    options.update(change)
    value, gradient = step(sinkhorn_align, x, y, state=state, **options)
    cold, cold_gradient = step(sinkhorn_align, x, y, **options)
    bound = 1e-5 if x.dtype == torch.float32 else 1e-8
    torch.testing.assert_close(value, cold, rtol=bound, atol=bound)
    torch.testing.assert_close(gradient, cold_gradient, rtol=100 * bound, atol=bound)


def test_interpolated_values_are_within_their_bound() -> None:
    _, y = clouds(8, 64)
    term = FrozenTerm()
    solves = 0

    def solve(at: Tensor, start: Tensor | None, tol: float) -> tuple[Solution, Tensor]:
        nonlocal solves
        solves += 1
        parameters = torch.stack([0.05 * at, 0.7 * at, 0.7 * at, 0.0 * at])
        solution = Solution(
            *torch.ops.ucmkd.sinkhorn(
                y[None], None, None, None, None, None, None, start, parameters, "sqeuclidean", tol,
                1000, 0, "torch",
            )
        )  # fmt: skip
        return solution, solution.value

    scales = 1.5 * torch.exp(0.2 * torch.linspace(0, 6.28, 300).sin().double())
    for s in scales:
        at = s.reshape(1)
        value = term.value(at, 0.0, tol=1e-3, interpolate=True, solve=solve)
        before = solves
        exact = solve(at, None, 1e-13)[1]
        solves = before
        # The bound is that of the chord; the cubic between is far closer.
        assert abs(float(value - exact)) <= 0.05 * accuracy(1e-3) * float(exact)
    assert solves < 100


def test_gradients_to_the_options_and_to_a_learned_teacher_stay() -> None:
    x, y = clouds()
    gradients = []
    for state in (SinkhornState(), None):
        epsilon = torch.tensor(0.3, dtype=x.dtype, requires_grad=True)
        reach = torch.tensor(1.0, dtype=x.dtype, requires_grad=True)
        teacher = y.clone().requires_grad_()
        for _ in range(2):
            epsilon.grad = reach.grad = teacher.grad = None
            sinkhorn_align(
                x, teacher, epsilon=epsilon, reach=reach, tol=1e-11, detach_teacher=False,
                state=state,
            ).backward()  # fmt: skip
        gradients.append((epsilon.grad, reach.grad, teacher.grad))
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-9)


def test_nan_never_stays() -> None:
    x, y = clouds()
    for which in ("student", "teacher"):
        state = SinkhornState(bank=64)
        sinkhorn_align(x, y, state=state)
        bad = (x * float("nan"), y) if which == "student" else (x, y * float("nan"))
        assert torch.isnan(sinkhorn_align(*bad, state=state, check_finite=False, max_iter=5))
        with pytest.raises(ValueError, match=which):
            sinkhorn_align(*bad, state=state)
        value = sinkhorn_align(x, y, state=state, tol=1e-10)
        torch.testing.assert_close(value, sinkhorn_align(x, y, tol=1e-10), rtol=1e-9, atol=1e-9)


def test_a_state_is_copied_pickled_and_moved() -> None:
    x, y = clouds()
    state = SinkhornState(bank=64)
    sinkhorn_align(x, y, state=state)
    x = drift(x)
    copies = [copy.deepcopy(state), pickle.loads(pickle.dumps(state)), state.to("cpu")]
    values = [sinkhorn_align(x, y, state=c) for c in copies]
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])
    assert int(copies[0].iterations.cross) < 8
    state.reset()
    assert torch.equal(sinkhorn_align(x, y, state=state), sinkhorn_align(x, y))


def test_modules_and_other_callers_take_a_state() -> None:
    x, y = clouds()
    for loss in (feature_align, FeatureAlign(), SinkhornAlign(epsilon_schedule=0.25)):
        state = SinkhornState()
        loss(x, y, state=state)
        first = int(state.iterations.cross)
        loss(drift(x), y, state=state)
        assert int(state.iterations.cross) < first
    with pytest.raises(TypeError, match="state must be a SinkhornState"):
        sinkhorn_align(x, y, state={})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bank must be"):
        SinkhornState(bank=-1)


def test_compiled_code_leaves_the_state_alone() -> None:
    x, y = clouds(dtype=torch.float32)
    state = SinkhornState()
    compiled = torch.compile(
        lambda p, q: sinkhorn_align(p, q, state=state, epsilon_schedule=0.5),
        backend="eager",
        fullgraph=True,
    )
    torch.testing.assert_close(compiled(x, y), sinkhorn_align(x, y))
    assert state.iterations == (0, 0, 0)


@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean", "cosine", "l1", "chordal"])
@pytest.mark.parametrize("reach", [None, 0.8])
def test_the_extension_gives_back_the_potential(cost: str, reach: float | None) -> None:
    x, y = clouds()
    k, l = torch.randint(3, (24,)), torch.randint(3, (20,))  # noqa: E741
    a = torch.rand(24, dtype=x.dtype)
    a[:2] = 0
    a /= a.sum()
    options: dict[str, Any] = {
        "epsilon": 0.1, "cost": cost, "reach": reach, "x_label": k, "y_label": l,
        "label_cost": 0.3, "x_weight": a,
    }  # fmt: skip
    solved = ops.sinkhorn(x, y, tol=1e-12, max_iter=5000, **options)
    g = ops.extend_potential(x, solved.x_potential, y, **options)
    torch.testing.assert_close(g, solved.y_potential, rtol=1e-9, atol=1e-9)
    # The formula, point by point.
    points = torch.randn(3, WIDTH, dtype=x.dtype)
    options["y_label"] = torch.tensor([0, 1, 7])
    out = ops.extend_potential(x, solved.x_potential, points, **options)
    matrix = cost_matrix(x[None], points[None], cost)[0]
    matrix = matrix + 0.3 * (k[:, None] != options["y_label"][None]).double()
    sums = (a[:, None] * torch.exp((solved.x_potential[:, None] - matrix) / 0.1)).sum(0)
    tau = 1.0 if reach is None else reach / (reach + 0.1)
    torch.testing.assert_close(out, -tau * 0.1 * sums.log(), rtol=1e-9, atol=1e-9)


def test_the_extension_is_differentiable_and_batched() -> None:
    x, y = torch.randn(2, 6, 3).double(), torch.randn(2, 4, 3).double().requires_grad_()
    f = torch.randn(2, 6).double().requires_grad_()
    for cost in ("sqeuclidean", "euclidean"):
        assert torch.autograd.gradcheck(
            lambda f, y, c=cost: ops.extend_potential(x, f, y, epsilon=0.5, cost=c), (f, y)
        )
    one = ops.extend_potential(x[1], f[1], y[1], epsilon=0.5)
    torch.testing.assert_close(one, ops.extend_potential(x, f, y, epsilon=0.5)[1])
    for bad, match in (({"y_label": torch.zeros(4, dtype=torch.int64)}, "x_label"),
                       ({"epsilon": 0.0}, "epsilon"), ({"cost": "l2"}, "cost")):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            ops.extend_potential(x[0], f[0], y[0], **{"epsilon": 0.5, **bad})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="x_potential"):
        ops.extend_potential(x[0], f[0, :3], y[0], epsilon=0.5)


@pytest.mark.parametrize("relative", [True, False])
def test_a_schedule_ends_at_the_same_solution_sooner(relative: bool, backend: str) -> None:
    x, y = clouds(32, 32)
    small = 10 if backend == "torch" else 1
    mean = float(cost_matrix(x[None], y[None]).mean())
    if relative:
        options: dict[str, Any] = {"epsilon": 0.01 * small, "tol": 1e-9, "max_iter": 100_000}
        loss = SinkhornAlign(backend=backend, **options)
        staged = SinkhornAlign(backend=backend, epsilon_schedule=0.25, **options)
        (one, gradient), (two, other) = step(loss, x, y), step(staged, x, y)
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-7)
        return
    options = {
        "epsilon": 0.002 * small * mean,
        "tol": 1e-3,
        "max_iter": 100_000,
        "backend": backend,
    }
    cold = ops.sinkhorn(x, y, **options)
    warm = ops.sinkhorn(x, y, epsilon_schedule=0.25, **options)
    assert bool(warm.converged)
    assert int(warm.iterations) < 0.8 * int(cold.iterations)
    torch.testing.assert_close(cold.value, warm.value, rtol=1e-4, atol=0)


def test_the_sequence_of_epsilons() -> None:
    assert epsilon_sequence(1.0, 0.2, 0.5) == [0.5, 0.25]
    assert epsilon_sequence(1.0, 0.25, 0.5) == [0.5]
    assert epsilon_sequence(1.0, 2.0, 0.5) == []
    assert epsilon_sequence(float("nan"), 0.1, 0.5) == []
    for bad in (0, 1, -0.5, True, "x", float("nan")):
        with pytest.raises(ValueError, match="epsilon_schedule"):
            ops.sinkhorn(*clouds(), epsilon=1.0, epsilon_schedule=bad)  # type: ignore[arg-type]


def test_a_pool_of_teachers_is_remembered() -> None:
    """Each of eight keeps its self-term and potentials; a ninth takes the place of the oldest."""
    state = SinkhornState()
    student, _ = clouds()
    teachers = [clouds()[1] for _ in range(9)]
    options: dict[str, Any] = dict(epsilon=0.3, epsilon_scale=None, tol=1e-8)

    def call(k: int) -> Tensor:
        value = sinkhorn_align(student, teachers[k], state=state, **options)
        torch.testing.assert_close(value, sinkhorn_align(student, teachers[k], **options))
        return value

    first = [call(k) for k in range(8)]
    for k in range(8):
        torch.testing.assert_close(call(k), first[k])
        cross, own, teacher = (int(i) for i in state.iterations)
        assert teacher == 0 and cross <= 2 and own <= 2
    call(8)
    call(7)
    assert int(state.iterations.teacher) == 0
    call(0)
    assert int(state.iterations.teacher) > 0
