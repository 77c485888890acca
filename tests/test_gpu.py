"""Every public loss and operator on a GPU: values, dtypes, graphs, waits, memory, errors.

Without a CUDA device these tests are skipped, but for one: it runs those that need no CUDA runtime
in a process of its own, on CPU tensors with the kernels in Triton's interpreter.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from ucmkd import losses, ops
from ucmkd.ops import _triton

INTERPRETED = _triton.interpreted()
ON_GPU = torch.cuda.is_available() and not INTERPRETED
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
needs_gpu = pytest.mark.skipif(not ON_GPU, reason="needs a CUDA device")
anywhere = pytest.mark.skipif(
    not ON_GPU and not INTERPRETED, reason="needs a CUDA device or TRITON_INTERPRET=1"
)
#: (n, m, d); the interpreter is slow.
SIZES = [(9, 12, 6)] if INTERPRETED else [(9, 12, 6), (97, 130, 70)]
#: Residual of the solves: what is compared is the solution, not where a solver stopped.
TOL = 1e-5
EPS = torch.finfo(torch.float32).eps


def clouds(n: int, m: int, d: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Two overlapping clouds, on the CPU."""
    source = torch.Generator().manual_seed(n + m + d)
    x = torch.randn(n, d, generator=source, dtype=torch.float64)
    y = torch.randn(m, d, generator=source, dtype=torch.float64) + 0.3
    return x.to(dtype), y.to(dtype)


def labels(points: Tensor) -> Tensor:
    return torch.arange(len(points), device=points.device) % 3


def masses(points: Tensor) -> Tensor:
    weight = 1 + torch.arange(len(points), device=points.device, dtype=points.dtype) % 4
    weight[0] = 0
    return weight / weight.sum()


def costs_of(x: Tensor, y: Tensor) -> Tensor:
    return (x[:, None] - y[None, :]).square().sum(-1)


def maps(points: Tensor, first: int = 0) -> Tensor:
    """Four coordinates of nine points as feature maps of 2 x 2."""
    return points[:9, first : first + 4].reshape(9, 1, 2, 2)


def labelled(x: Tensor, y: Tensor) -> Tensor:
    return losses.sinkhorn_align(
        x, y, epsilon=0.5, reach=2.0, tol=TOL, student_weight=masses(x), teacher_weight=masses(y),
        student_label=labels(x), teacher_label=labels(y), label_cost=0.5,
    )  # fmt: skip


def with_cost(cost: str) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: ops.sinkhorn(x, y, epsilon=3.0, cost=cost, tol=TOL).value


def with_kernel(kernel: str) -> Callable[[Tensor, Tensor], Tensor]:
    bandwidth: dict[str, Any] = {} if kernel in ("energy", "polynomial") else {"bandwidth": 2.0}
    return lambda x, y: ops.mmd(x, y, kernel=kernel, **bandwidth)


#: Name (before a slash: of the function) -> the call on two clouds.
CALLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sinkhorn_align": lambda x, y: losses.sinkhorn_align(x, y, epsilon=0.5, tol=TOL),
    "sinkhorn_align/labelled": labelled,
    "sinkhorn_align/sharp": lambda x, y: losses.sinkhorn_align(
        x, y, epsilon=0.5, tol=TOL, sharp=True
    ),
    "feature_align": lambda x, y: losses.feature_align(x, y, epsilon=0.5, tol=TOL),
    "mmd_align": losses.mmd_align,
    "mmd_align/labelled": lambda x, y: losses.mmd_align(
        x, y, student_label=labels(x), teacher_label=labels(y), bandwidth=2.0
    ),
    "energy_align": losses.energy_align,
    "coral_align": losses.coral_align,
    "cmd_align": losses.cmd_align,
    "label_align": lambda x, y: losses.label_align(x[:, :3], x[:, 3:6], labels(x)),
    "dkd_loss": lambda x, y: losses.dkd_loss(x[:, :3], y[: len(x), :3], labels(x)),
    "rkd_loss": lambda x, y: losses.rkd_loss(x[:9], y[:9]),
    "kd_loss": lambda x, y: losses.kd_loss(x[:, :3], y[: len(x), :3]),
    "attention_loss": lambda x, y: losses.attention_loss(maps(x), maps(y)),
    "fsp_loss": lambda x, y: losses.fsp_loss(maps(x), maps(x, 2), maps(y), maps(y, 2)),
    "bss_loss": lambda x, y: losses.bss_loss(x[:, :3], y[: len(x), :3], crossed=labels(x).bool()),
    "one_loss": lambda x, y: losses.one_loss(
        torch.stack((x[:, :3], x[:, 3:6], y[: len(x), :3]), 1), x[:, :3].softmax(1), labels(x)
    ),
    **{f"sinkhorn/{c}": with_cost(c) for c in ("sqeuclidean", "euclidean", "l1", "cosine")},
    **{f"mmd/{k}": with_kernel(k) for k in ("gaussian", "laplace", "energy", "polynomial")},
    "sinkhorn_cost": lambda x, y: ops.sinkhorn_cost(costs_of(x, y), epsilon=3.0, tol=TOL).value,
    "transport_plan": lambda x, y: ops.transport_plan(x, y, epsilon=3.0, tol=TOL),
    "transport_plan_cost": lambda x, y: ops.transport_plan_cost(
        costs_of(x, y), epsilon=3.0, tol=TOL
    ),
    "barycentric_map": lambda x, y: ops.barycentric_map(x, y, epsilon=3.0, tol=TOL),
    "round_plan": lambda x, y: ops.round_plan(
        torch.softmax(-costs_of(x, y).flatten(), 0).reshape(len(x), len(y)), masses(x), masses(y)
    ),
    "extend_potential": lambda x, y: ops.extend_potential(x, x[:, 0].detach(), y, epsilon=3.0),
    "energy_distance_1d": lambda x, y: ops.energy_distance_1d(x[:, 0], y[:, 0]),
    "sliced_energy": lambda x, y: ops.sliced_energy(
        x, y, directions=torch.eye(x.shape[1], device=x.device, dtype=x.dtype)
    ),
}
#: What a training step calls; here nothing may wait for the device.
STEPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sinkhorn_align": lambda x, y: losses.sinkhorn_align(x, y, epsilon=0.5, check_finite=False),
    "mmd_align": lambda x, y: losses.mmd_align(x, y, check_finite=False),
    "mmd_align/bandwidth": lambda x, y: losses.mmd_align(x, y, bandwidth=2.0, check_finite=False),
    "feature_align": lambda x, y: losses.feature_align(x, y, epsilon=0.5, check_finite=False),
}


@contextmanager
def backend(name: str) -> Iterator[None]:
    """``UCMKD_BACKEND``; an operator that lacks it takes another, which is meant here."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("UCMKD_BACKEND", name)
        yield


def evaluate(call: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[Any, Any]:
    """The result, and the gradient of its sum to x where it has one."""
    x = x.detach().requires_grad_()
    out = call(x, y)
    gradient = torch.autograd.grad(out.sum(), x)[0] if out.requires_grad else None
    return out.detach(), gradient


def on_device(call: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[Any, Any]:
    with backend("triton" if INTERPRETED else "auto"):
        return evaluate(call, x.to(DEVICE), y.to(DEVICE))


def reference(call: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[Any, Any]:
    """The same in float64, plain PyTorch on the CPU, of the values as they are stored."""
    with backend("torch"):
        return evaluate(call, x.double(), y.double())


def relative(actual: Tensor, exact: Tensor) -> float:
    assert actual.shape == exact.shape
    return float((actual.cpu().double() - exact).norm() / exact.norm())


def compare(name: str, n: int, m: int, d: int, dtype: torch.dtype) -> None:
    x, y = clouds(n, m, d, dtype)
    exact, slope = reference(CALLS[name], x, y)
    out, gradient = on_device(CALLS[name], x, y)
    assert out.device.type == DEVICE.type
    # A residual of 1e-5 leaves 2e-5 in a gradient or a plan; float32 leaves some hundred roundings.
    wide = 4 * TOL + 2000 * EPS
    assert relative(out, exact) < (wide if out.dim() else 1000 * EPS)
    assert (gradient is None) == (slope is None)
    if gradient is not None and slope is not None:
        assert gradient.dtype == dtype and gradient.device.type == DEVICE.type
        assert relative(gradient, slope) < wide + 2 * torch.finfo(dtype).eps


def test_every_public_function_is_here() -> None:
    public = {n for module in (losses, ops) for n in module.__all__ if n.islower()}
    assert {name.split("/")[0] for name in CALLS} == public


@anywhere
@pytest.mark.parametrize("n, m, d", SIZES)
@pytest.mark.parametrize("name", CALLS)
def test_agrees_with_the_cpu(name: str, n: int, m: int, d: int) -> None:
    compare(name, n, m, d, torch.float32)


@anywhere
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["sinkhorn_align", "feature_align", "mmd_align", "sinkhorn/l1"])
def test_16_bit_features(name: str, dtype: torch.dtype) -> None:
    """Computed in float32 from the stored values; the gradient comes back in the input's type."""
    compare(name, *SIZES[-1], dtype)


@anywhere
@pytest.mark.parametrize("name", ["sinkhorn_align", "mmd_align", "barycentric_map"])
def test_bit_equal_from_run_to_run(name: str) -> None:
    x, y = clouds(*SIZES[-1], torch.float32)
    first, second = (on_device(CALLS[name], x, y) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


@anywhere
def test_float64_stays_float64() -> None:
    """The kernels compute in float32; float64 is taken by PyTorch, and a named backend refuses."""
    x, y = clouds(*SIZES[0])
    exact, slope = reference(CALLS["sinkhorn_align"], x, y)
    out, gradient = on_device(CALLS["sinkhorn_align"], x, y)
    assert out.dtype == gradient.dtype == torch.float64
    # The value is of second order in the residual of the solve, the gradient of first.
    assert relative(out, exact) < 1e-9 and relative(gradient, slope) < 4 * TOL
    with pytest.raises(ValueError, match=r"backend='triton' cannot run here: .* float64"):
        ops.sinkhorn(x.to(DEVICE), y.to(DEVICE), epsilon=1.0, backend="triton")


@anywhere
@pytest.mark.parametrize("name", ["sinkhorn_align", "mmd_align", "sinkhorn/l1", "mmd/gaussian"])
def test_tensors_on_different_devices(name: str) -> None:
    x, y = clouds(*SIZES[0], torch.float32)
    elsewhere = "cpu" if ON_GPU else "meta"
    with pytest.raises(ValueError, match=r"must be on one device; got .*(cuda|cpu).* and "):
        CALLS[name](x.to(DEVICE), y.to(elsewhere))


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", STEPS)
def test_nothing_waits_for_the_device(name: str, dtype: torch.dtype) -> None:
    x, y = (points.to(DEVICE) for points in clouds(97, 130, 70, dtype))
    evaluate(STEPS[name], x, y)  # compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        out, gradient = evaluate(STEPS[name], x, y)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert bool(out.isfinite()) and bool(gradient.isfinite().all())


@needs_gpu
@pytest.mark.parametrize("name", STEPS)
def test_cuda_graph(name: str) -> None:
    """Captured once, replayed on other points in the same memory."""
    x, y = (points.to(DEVICE) for points in clouds(97, 130, 70, torch.float32))
    x.requires_grad_()

    def step() -> tuple[Tensor, Tensor]:
        value = STEPS[name](x, y)
        return value, torch.autograd.grad(value, x)[0]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value, gradient = step()
    with torch.no_grad():
        x += 0.2 * torch.randn_like(x)
        y += 0.5
    graph.replay()
    expected = evaluate(STEPS[name], x, y)
    assert relative(value.detach(), expected[0].cpu().double()) < 100 * EPS
    assert relative(gradient, expected[1].cpu().double()) < 100 * EPS


@needs_gpu
@pytest.mark.parametrize("name", ["sinkhorn_align", "mmd_align/bandwidth"])
def test_compiled(name: str) -> None:
    torch._dynamo.reset()
    x, y = (points.to(DEVICE) for points in clouds(97, 130, 70, torch.float32))
    out, gradient = evaluate(torch.compile(STEPS[name], fullgraph=True), x, y)
    exact, slope = evaluate(STEPS[name], x, y)
    assert relative(out, exact.cpu().double()) < 100 * EPS
    assert relative(gradient, slope.cpu().double()) < 1000 * EPS


@needs_gpu
@pytest.mark.parametrize("name", ["sinkhorn_align", "mmd_align"])
def test_autocast(name: str) -> None:
    x, y = (points.to(DEVICE) for points in clouds(97, 130, 70, torch.float32))
    plain, slope = evaluate(STEPS[name], x, y)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        out, gradient = evaluate(STEPS[name], x, y)
    assert out.dtype == gradient.dtype == torch.float32
    assert torch.equal(out, plain) and torch.equal(gradient, slope)


@needs_gpu
def test_a_large_problem_in_little_memory() -> None:
    """65,536 points a side in 64 dimensions: the matrix would take 17 GB."""
    n, d = 65536, 64
    x, y = (torch.randn(n, d, device=DEVICE) for _ in range(2))
    x.requires_grad_()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    out = ops.sinkhorn(x, y, epsilon=10.0, tol=0.0, max_iter=3)
    (gradient,) = torch.autograd.grad(out.value, x)
    torch.cuda.synchronize()
    assert bool(gradient.isfinite().all()) and bool(out.value.isfinite())
    assert torch.cuda.max_memory_allocated() - before < 16 * (x.nbytes + y.nbytes)


@pytest.mark.skipif(INTERPRETED, reason="this is the process that it starts")
def test_in_the_interpreter() -> None:
    """Runs the tests of this file that need no CUDA runtime with TRITON_INTERPRET=1."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", __file__],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= 30, done.stdout
