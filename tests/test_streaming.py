"""Sinkhorn beyond the memory budget, class distances, and what else runs over strips."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ucmkd import _backend, ops, reference

Array = NDArray[Any]
EVERYTHING, NOTHING = 1 << 60, 0
NAMES = [
    *("value", "f", "g", "iterations", "residual", "converged", "scale", "row", "column"),
    *("transport", "mismatch", "grad_x", "grad_y", "class_mass"),
]


def solve(x: Array, y: Array | None, budget: int, **options: Any) -> dict[str, Array]:
    numbers = dict(epsilon=0.3, reach_x=np.inf, reach_y=np.inf, label_cost=0.0)
    numbers.update({name: options.pop(name) for name in [*options] if name in numbers})
    parameters = np.stack([np.full(len(x), value) for value in numbers.values()])
    given = dict(
        a=None, b=None, x_label=None, y_label=None, distance=None, f0=None, g0=None,
        parameters=parameters, cost="sqeuclidean", relative=True, tol=1e-10, max_iter=20_000,
        want_x=True, want_y=y is not None, want_distance=False, accelerate=True, threads=2,
    )  # fmt: skip
    out = _backend.rust().sinkhorn(x=x, y=y, budget=budget, **{**given, **options})
    return dict(zip(NAMES, out, strict=True))


def points(*shape: int, dtype: Any = np.float64, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def weights(batch: int, n: int, seed: int) -> Array:
    w = np.random.default_rng(seed).uniform(0.2, 1.0, size=(batch, n))
    if n > 2:
        w[:, n // 2] = 0.0
    return np.asarray(w / w.sum(-1, keepdims=True))


@pytest.mark.parametrize("cost", reference.COSTS)
@pytest.mark.parametrize("reach", [np.inf, 0.7])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("n,m,d", [(1, 2, 1), (2, 17, 3), (127, 129, 3), (17, 1, 100)])
def test_streaming_agrees_with_memory_and_with_the_reference(
    cost: str, reach: float, symmetric: bool, n: int, m: int, d: int
) -> None:
    x, y = points(1, n, d, seed=1), None if symmetric else points(1, m, d, seed=2) + 0.3
    a, b = weights(1, n, 3), weights(1, n if symmetric else m, 4)
    if symmetric:
        b = a
    reaches = {"reach_x": np.full(1, reach), "reach_y": np.full(1, reach)}
    options = dict(a=a, b=None if symmetric else b, cost=cost, **reaches)
    stream, memory = (solve(x, y, budget, **options) for budget in (NOTHING, EVERYTHING))
    # One lane array short of both matrices: the kernel alone is held.
    kernel = solve(x, y, 8 * n * 144, **options)

    def tensor(array: Array | None) -> Any:
        return None if array is None else torch.from_numpy(array)

    exact = reference.sinkhorn(
        tensor(x), tensor(y), tensor(a), tensor(b), epsilon=torch.tensor([0.3]).double(),
        cost=cost, reach_x=tensor(reaches["reach_x"]), reach_y=tensor(reaches["reach_y"]),
        relative=True, tol=1e-10, max_iter=20_000, want_y=not symmetric,
    )  # fmt: skip
    assert stream["converged"].all()
    scale = max(1.0, float(memory["scale"][0]))
    pairs = {
        **{"value": exact.value, "f": exact.x_potential, "g": exact.y_potential},
        **{"row": exact.row, "column": exact.column, "transport": exact.transport},
        **{"scale": exact.scale, "grad_x": exact.grad_x, "grad_y": exact.grad_y},
    }
    for name, want in pairs.items():
        for other in (memory, kernel):
            np.testing.assert_allclose(stream[name], other[name], atol=1e-7 * scale, err_msg=name)
        np.testing.assert_allclose(stream[name], want, atol=1e-7 * scale, err_msg=name)


@pytest.mark.parametrize("cost", reference.COSTS)
def test_single_precision(cost: str) -> None:
    x, y = points(2, 33, 5, dtype=np.float32, seed=5), points(2, 40, 5, dtype=np.float32, seed=6)
    stream = solve(x, y, NOTHING, cost=cost, tol=1e-5)
    exact = solve(x.astype(np.float64), y.astype(np.float64), EVERYTHING, cost=cost)
    scale = exact["scale"].max()
    assert stream["converged"].all()
    for name in ("value", "f", "g", "transport", "grad_x", "grad_y"):
        np.testing.assert_allclose(
            stream[name], exact[name], atol=1e3 * np.finfo(np.float32).eps * scale, err_msg=name
        )


def test_warm_start_ends_at_once() -> None:
    x, y = points(1, 60, 4, seed=7), points(1, 50, 4, seed=8)
    first = solve(x, y, NOTHING)
    for start in ({"g0": first["g"]}, {"f0": first["f"]}):
        again = solve(x, y, NOTHING, tol=1e-8, **start)
        assert again["iterations"][0] <= 2 < first["iterations"][0]
        np.testing.assert_allclose(again["value"], first["value"], rtol=1e-9)


@pytest.mark.parametrize("budget", [EVERYTHING, NOTHING])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_class_distance(budget: int, dtype: Any) -> None:
    rng = np.random.default_rng(9)
    x, y = points(2, 25, 3, dtype=dtype, seed=10), points(2, 31, 3, dtype=dtype, seed=11)
    k, m = rng.integers(4, size=(2, 25)), rng.integers(3, size=(2, 31))
    distance = rng.normal(size=(4, 3)).astype(dtype)
    single = dtype == np.float32
    got = solve(
        x, y, budget, x_label=k, y_label=m, distance=distance, label_cost=np.full(2, 0.7),
        epsilon=np.full(2, 1.0), relative=False, want_distance=True, tol=2e-6 if single else 1e-11,
    )  # fmt: skip
    tolerance = 200 * np.finfo(dtype).eps
    tolerance = max(tolerance, 1e-9)
    exact = torch.from_numpy(distance.astype(np.float64))
    features = reference.cost_matrix(torch.from_numpy(x).double(), torch.from_numpy(y).double())
    apart = exact[k[:, :, None], m[:, None, :]]
    matrix = features + 0.7 * apart
    want = ops.sinkhorn_cost(matrix, epsilon=1.0, tol=1e-11, max_iter=20_000, backend="torch")
    assert got["converged"].all()
    np.testing.assert_allclose(got["value"], want.value, rtol=tolerance)
    sums = want.x_potential[:, :, None] + want.y_potential[:, None, :]
    plan = torch.exp(sums - matrix) / (25 * 31)
    mass = torch.zeros(2, 4, 3, dtype=torch.float64)
    for p, into, i, j in zip(plan, mass, torch.from_numpy(k), torch.from_numpy(m), strict=True):
        into.index_put_((i[:, None].expand(25, 31), j[None, :].expand(25, 31)), p, accumulate=True)
    np.testing.assert_allclose(got["class_mass"], mass, atol=10 * tolerance)
    np.testing.assert_allclose(got["mismatch"], (mass * exact).sum((1, 2)), atol=10 * tolerance)


def test_the_indicator_is_a_class_distance() -> None:
    x = points(1, 40, 3, seed=12)
    k = np.random.default_rng(13).integers(3, size=(1, 40))
    options = dict(x_label=k, label_cost=np.full(1, 0.5))
    plain = solve(x, None, EVERYTHING, **options)
    for budget in (EVERYTHING, NOTHING):
        other = solve(x, None, budget, distance=1.0 - np.eye(3), want_distance=True, **options)
        for name in ("value", "f", "mismatch", "grad_x"):
            np.testing.assert_allclose(other[name], plain[name], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(other["class_mass"].sum(), 1.0, rtol=1e-9)


def test_a_bad_class_distance_is_refused() -> None:
    x, k = points(1, 6, 2), np.arange(6)[None] % 3
    for distance, label, message in [
        (np.zeros((2, 3)), k, "x_label must be in 0..2 to go with distance; got 2"),
        (np.zeros((3, 3)), k - 1, "x_label must be in 0..3 to go with distance; got -1"),
        (np.zeros((3, 3)), None, "distance needs x_label; got None"),
        (np.full((3, 3), np.nan), k, "distance must be finite"),
        (np.zeros((3, 3), np.float32), k, "distance must be None or"),
        (np.arange(9.0).reshape(3, 3), k, "distance must be symmetric in a self-term"),
    ]:
        with pytest.raises(ValueError, match=message):
            solve(x, None, EVERYTHING, distance=distance, x_label=label)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmin_and_plan_application(dtype: Any) -> None:
    rust = _backend.rust()
    rng = np.random.default_rng(14)
    x, y = points(2, 21, 3, dtype=dtype, seed=15), points(2, 37, 3, dtype=dtype, seed=16)
    a, b = weights(2, 21, 17), weights(2, 37, 18)
    f, g = rng.normal(size=(2, 21)), rng.normal(size=(2, 37))
    values = points(2, 37, 5, dtype=dtype, seed=19)
    k, m = rng.integers(4, size=(2, 21)), rng.integers(3, size=(2, 37))
    distance = rng.normal(size=(4, 3)).astype(dtype)
    epsilon, price = np.array([0.4, 0.9]), np.array([0.5, 2.0])
    for cost in reference.COSTS:
        c = reference.cost_matrix(*(torch.from_numpy(p).double() for p in (x, y)), cost).numpy()
        c = c + price[:, None, None] * distance.astype(np.float64)[k[:, :, None], m[:, None, :]]
        eps = epsilon[:, None, None]
        ab, fg = ([v.astype(dtype) for v in pair] for pair in ((a, b), (f, g)))
        got = rust.softmin(
            x, y, fg[0], ab[0], k, m, distance, epsilon, price, cost, 2
        )  # fmt: skip
        terms = ab[0].astype(float)[:, :, None] * np.exp(
            (fg[0].astype(float)[:, :, None] - c) / eps
        )
        rounding = 100 * np.finfo(dtype).eps
        np.testing.assert_allclose(got, -epsilon[:, None] * np.log(terms.sum(1)), atol=rounding)
        got = rust.plan_apply(
            x, y, *ab, k, m, distance, *fg, epsilon, price, cost, values, 2
        )  # fmt: skip
        plan = terms * ab[1][:, None, :] * np.exp(fg[1].astype(float)[:, None, :] / eps)
        want = plan @ values.astype(float)
        np.testing.assert_allclose(got, want, atol=rounding * np.abs(plan).sum(-1).max())


MEMORY = """
import resource, sys
import numpy as np
from ucmkd import _backend
rust = _backend.rust()
n, d = 16384, 8
x, y = (np.random.default_rng(s).normal(size=(1, n, d)).astype(np.float32) for s in (1, 2))
one = np.ones(1)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
parameters = np.array([[0.1], [np.inf], [np.inf], [0.0]])
out = rust.sinkhorn(x, y, None, None, None, None, None, None, None, parameters, "sqeuclidean", True,
    0.0, 1, True, True, False, True, 512 << 20, 2)
assert out[3][0] == 1 and np.isfinite(out[11]).all()
rust.plan_apply(x, y, None, None, None, None, None, out[1], out[2], 0.1 * one, 0 * one,
    "sqeuclidean", y, 2)
print(peak() - before)
"""


def test_peak_memory_at_16384() -> None:
    """A cost matrix would be 1024 MiB; the workspace is 8 MiB for a thread, twice at the end."""
    pytest.importorskip("resource")
    out = subprocess.run(
        [sys.executable, "-c", MEMORY], check=True, capture_output=True, text=True, timeout=300
    )
    assert float(out.stdout) < 64


@contextmanager
def interrupted(after: float) -> Iterator[None]:
    """Sends SIGINT to this process; asserts that KeyboardInterrupt comes within about a second."""
    sent = []

    def send() -> None:
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    # A shell's background job starts with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(after, send)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGINT, before)
    # A second, and as much again for a machine that is busy with other things.
    assert time.monotonic() - sent[0] < 2.0


def endless(rust: Any, name: str) -> Callable[[], object]:
    one, many = np.ones(1), 1 << 60
    x = points(1, 3000, 3, dtype=np.float32)
    if name in ("memory", "streaming", "self-term"):
        y = None if name == "self-term" else x + 1
        budget = NOTHING if name == "streaming" else EVERYTHING
        return lambda: solve(x, y, budget, tol=0.0, max_iter=many)
    if name == "batch":
        x = points(64, 64, 3)
        return lambda: solve(x, x + 1, EVERYTHING, tol=0.0, max_iter=100_000)
    if name == "cost":
        c = points(1, 500, 400) ** 2
        return lambda: rust.sinkhorn_cost(
            c, None, None, None, None, one, np.inf * one, np.inf * one, 0.0, many, True, True, 2
        )
    x = points(1, 60_000, 16, dtype=np.float32)
    f = np.zeros(x.shape[:2], np.float32)
    if name == "softmin":
        return lambda: rust.softmin(
            x, x, f, None, None, None, None, one, one, "euclidean", 2
        )  # fmt: skip
    return lambda: rust.plan_apply(
        x, x, None, None, None, None, None, f, f, one, one, "euclidean", x, 2
    )


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill cannot send SIGINT to itself")
@pytest.mark.parametrize(
    "name", ["memory", "streaming", "self-term", "batch", "cost", "softmin", "plan_apply"]
)
def test_keyboard_interrupt_during_a_long_solve(name: str) -> None:
    call = endless(_backend.rust(), name)
    with interrupted(0.3):
        call()
