"""Forks, spawned workers, threads and Ctrl-C."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ucmkd import losses, ops

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def clouds(seed: int, n: int = 200, m: int = 170, d: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator), torch.randn(m, d, generator=generator) + 0.5


def both_losses(seed: int, backend: str, **sizes: int) -> Tensor:
    """Values and the sums of the gradients of the two alignments."""
    x, y = clouds(seed, **sizes)
    x.requires_grad_()
    one = losses.sinkhorn_align(x, y, backend=backend)
    two = losses.mmd_align(x, y, backend=backend)
    (gradient,) = torch.autograd.grad(one + two, x)
    return torch.stack([one.detach(), two.detach(), gradient.sum(), gradient.square().sum()])


class Losses(Dataset[Tensor]):
    """A data set that computes alignments, as a teacher cache or a filter would."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        return both_losses(index, ("rust", "torch")[index % 2])


@pytest.mark.parametrize(
    ("method", "workers"), [pytest.param("fork", 2, marks=needs_fork), ("spawn", 1)]
)
def test_data_loader_workers(method: str, workers: int) -> None:
    expected = torch.stack([Losses()[i] for i in range(4)])  # used in the parent before
    loader = DataLoader(
        Losses(), batch_size=2, num_workers=workers, multiprocessing_context=method, timeout=120
    )
    torch.testing.assert_close(torch.cat(list(loader)), expected, rtol=1e-4, atol=1e-5)


def exit_status(pid: int, seconds: float) -> int:
    """Waits for a child; one that hangs is killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pytest.fail(f"the child still ran after {seconds} s")


@needs_fork
@pytest.mark.parametrize("threads", [1, 2])
def test_fork_after_use(backend: str, threads: int) -> None:
    """A child solves although its parent's threads did not come with it."""
    if backend == "torch" and threads > 1:
        pytest.skip("PyTorch's own OpenMP threads do not survive a fork: 1 thread there")
    torch.set_num_threads(threads)
    expected = both_losses(3, backend)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            found = both_losses(3, backend)
            status = 0 if torch.allclose(found, expected, rtol=1e-4, atol=1e-5) else 3
        finally:
            os._exit(status)
    assert exit_status(pid, 60) == 0
    torch.testing.assert_close(both_losses(3, backend), expected)  # and the parent still does


CHILD_FIRST = """
import os, sys, torch
from ucmkd import losses
torch.set_num_threads(2)
torch.randn(1 << 20).exp()  # starts PyTorch's threads, which a child does not have
x, y = torch.randn(200, 16), torch.randn(170, 16)
pid = os.fork()
if pid == 0:
    status = 1
    try:
        status = 0 if torch.isfinite(losses.sinkhorn_align(x, y, backend="rust")) else 3
    finally:
        os._exit(status)
print(pid, flush=True)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@needs_fork
def test_fork_before_use() -> None:
    """The same where the child is the first to solve."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD_FIRST], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.wait(60) == 0
    except subprocess.TimeoutExpired:
        assert process.stdout is not None
        os.kill(int(process.stdout.readline()), signal.SIGKILL)
        process.wait(10)
        pytest.fail("the child hangs")
    finally:
        process.kill()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize("cost", ["sqeuclidean", "l1"])
def test_number_of_threads(backend: str, cost: str) -> None:
    """The same to rounding for any number, the same to the bit for one number."""
    x, y = clouds(5, 301, 257, 5)
    results = {}
    for threads in (1, 2, 1, 2):
        torch.set_num_threads(threads)
        left = x.clone().requires_grad_()
        out = ops.sinkhorn(left, y, epsilon=8.0, cost=cost, tol=1e-4, backend=backend)
        mmd = ops.mmd(left, y, backend=backend)
        (out.value + mmd).backward()
        now = [out.value.detach(), out.x_potential, out.y_potential, mmd.detach(), left.grad]
        if threads in results:
            for one, two in zip(results[threads], now, strict=True):
                assert torch.equal(one, two), "two runs with the same threads differ"
        results[threads] = now
    assert torch.get_num_threads() == 2  # the library leaves the setting alone
    for one, two in zip(results[1], results[2], strict=True):
        size = float(one.abs().max())
        torch.testing.assert_close(one, two, rtol=0, atol=1e-4 * size)


def test_threads_of_python_at_once(backend: str) -> None:
    """Different problems, solved at once by several callers, with two threads each."""
    torch.set_num_threads(2)
    sizes = [dict(n=40 + 30 * k, m=150 - 20 * k) for k in range(6)]
    expected = [both_losses(k, backend, **size) for k, size in enumerate(sizes)]
    with ThreadPoolExecutor(3) as pool:
        jobs = [
            pool.submit(both_losses, k, backend, **size)
            for _ in range(4)
            for k, size in enumerate(sizes)
        ]
        found = [job.result(timeout=120) for job in jobs]
    for i, value in enumerate(found):
        torch.testing.assert_close(value, expected[i % 6], rtol=1e-4, atol=1e-5)


def endless(call: str, backend: str) -> Callable[[], Any]:
    """A solve of ten seconds or more on this machine, as a function."""
    x, y = clouds(1, 300, 280, 4)
    options: dict[str, Any] = dict(epsilon=1e-3, tol=0.0, backend=backend)
    trial = 100 if backend == "rust" else 10
    begin = time.monotonic()
    out = ops.sinkhorn(x, y, max_iter=trial, **options)
    assert int(out.iterations) == trial
    options["max_iter"] = int(trial * 10 / (time.monotonic() - begin))
    matrix = torch.cdist(x, y) ** 2
    x.requires_grad_()
    return {
        "points": lambda: ops.sinkhorn(x, y, **options),
        "matrix": lambda: ops.sinkhorn_cost(matrix, **options),
        "batch": lambda: ops.sinkhorn(x.expand(3, -1, -1), y.expand(3, -1, -1), **options),
        "loss": lambda: losses.sinkhorn_align(x, y, epsilon_scale=None, **options),
    }[call]


def test_the_interpreter_runs_during_a_solve() -> None:
    """The GIL is released: other threads of Python go on."""
    x, y = clouds(1, 500, 500)
    started, done = threading.Event(), threading.Event()

    def solve() -> None:
        started.set()
        ops.sinkhorn(x, y, epsilon=0.5, tol=0.0, max_iter=20_000, backend="rust")
        done.set()

    worker = threading.Thread(target=solve)
    worker.start()
    started.wait()
    ticks = 0
    while not done.is_set():
        time.sleep(0.002)
        ticks += 1
    worker.join()
    assert ticks > 10


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to oneself")
@pytest.mark.parametrize(
    ("call", "threads"), [("points", 1), ("points", 2), ("matrix", 1), ("batch", 2), ("loss", 1)]
)
def test_keyboard_interrupt(backend: str, call: str, threads: int) -> None:
    """Ctrl-C ends a long solve within a second, and the next call works."""
    torch.set_num_threads(threads)
    solve = endless(call, backend)
    sent: list[float] = []

    def interrupt() -> None:
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.3, interrupt)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            solve()
            timer.join()  # an early return must not let the signal hit another test
        waited = time.monotonic() - sent[0]
    finally:
        timer.cancel()
    # A second, and what a busy machine adds.
    assert waited < 2.0, f"the solve went on for {waited:.1f} s"
    x, y = clouds(2, 20, 10)
    assert torch.isfinite(losses.sinkhorn_align(x, y, backend=backend))
