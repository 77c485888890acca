"""How far the kernels are from what the machine can do, measured in the same run.

Reads: the best of several ways of PyTorch to read an array (a matrix-vector product, a dot
product, a sum of a view that repeats it), at the size of the kernel matrix (so that it lies in
the same cache) and far beyond the caches. Iterations: the time of 60 plain iterations
less that of 10, so that set-up, cost and gradient cancel, per matrix entry and iteration.

Arithmetic: the cost matrix takes ``2nmd`` floating-point operations and the gradient to x as many
more. What does not depend on d (exponentials, the iteration) cancels in the difference between
d = 256 and d = 128 of a solve with one iteration; the gradient's part is what the same difference
grows by when a gradient is asked for. The peak is that of the fastest library's product of large
square matrices (PyTorch's is tuned for some processors only). All are the least of several rounds.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benches.problems import features
from benches.report import Section
from benches.timing import typical

SIZES = (256, 1024, 4096)
#: Elements of an array that no cache holds (512 MiB).
LARGE = 2**27
#: Side of the matrices of the peak.
PEAK = 2048


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _on(count: int, call: Callable[[], object]) -> Callable[[], None]:
    """The call with so many threads of PyTorch, which the Rust kernels follow."""

    def run() -> None:
        with _threads(count):
            call()

    return run


def bandwidth(elements: int, rounds: int) -> tuple[float, str]:
    """Bytes per second of the fastest way to read so many float32, and its name."""
    side = 1 << ((elements.bit_length() - 1) // 2)
    matrix = torch.rand(elements // side, side)
    flat, column = matrix.reshape(-1), torch.rand(side)
    # A view that shows the matrix again and again: a small one is read in less than a call takes.
    times_read = max(1, LARGE // 16 // elements)
    repeated = matrix.expand(times_read, *matrix.shape)
    calls: dict[str, Callable[[], object]] = {
        "torch.mv": lambda: torch.mv(matrix, column),
        "torch.dot": lambda: torch.dot(flat, flat),
        f"torch.sum, {times_read} reads": lambda: repeated.sum(),
    }
    times = typical(calls, rounds, min)
    times = {k: t / times_read if "sum" in k else t for k, t in times.items()}
    name = min(times, key=lambda key: times[key])
    return 4 * elements / times[name], name


def _solve(
    n: int, iterations: int, width: int = 128, *, backward: bool = True
) -> Callable[[], Any]:
    from ucmkd import ops

    x, y = (torch.from_numpy(side) for side in features(n, width=width))
    x.requires_grad_(backward)

    def run() -> Tensor:
        value = ops.sinkhorn(
            x, y, epsilon=0.08, tol=0.0, max_iter=iterations, accelerate=False, backend="rust"
        ).value
        if backward:
            (value,) = torch.autograd.grad(value, x)
        return value

    return run


def iterations(sizes: tuple[int, ...], rounds: int) -> Section:
    """Nanoseconds per entry and iteration beside reading the matrix once."""
    large, how = bandwidth(LARGE, min(rounds, 5))
    lines = []
    for n in sizes:
        speed, way = bandwidth(n * n, rounds)
        times = typical({str(k): _solve(n, k, backward=False) for k in (10, 60)}, rounds, min)
        each = (times["60"] - times["10"]) / 50 / n**2
        lines.append([
            f"n = m = {n}",
            f"{each * 1e9:.4f}" if each > 0 else "below the noise",
            f"{4e9 / speed:.4f}",
            f"{speed / 1e9:.1f}",
            f"{100 * 4 / speed / each:.0f} %" if each > 0 else "-",
            way,
        ])  # fmt: skip
    return Section(
        "One iteration beside one read of the float32 matrix (aim: 60 % of the read bandwidth)",
        ["", "ns/entry", "read ns/entry", "read GB/s", "of it", "read by"],
        lines,
        [f"An array of {LARGE >> 18} MiB, beyond the caches: {large / 1e9:.1f} GB/s by {how}."],
    )


def peak(rounds: int) -> tuple[float, str]:
    """Operations per second of the fastest float32 matrix product, and whose it is."""
    a, b = torch.rand(PEAK, PEAK), torch.rand(PEAK, PEAK)
    p, q = a.numpy(), b.numpy()
    calls: dict[str, Callable[[], object]] = {
        "torch.mm": lambda: torch.mm(a, b),
        "numpy.matmul": lambda: np.matmul(p, q),
    }
    if importlib.util.find_spec("jax"):
        import jax

        product, u, v = jax.jit(jax.numpy.matmul), jax.numpy.array(p), jax.numpy.array(q)
        calls["jax.numpy.matmul"] = lambda: product(u, v).block_until_ready()
    times = typical(calls, min(rounds, 7), min)
    name = min(times, key=lambda key: times[key])
    return 2 * PEAK**3 / times[name], name


def arithmetic(sizes: tuple[int, ...], rounds: int) -> Section:
    """The speed of the cost and gradient passes beside a matrix product."""
    most, whose = peak(rounds)
    lines = []
    for n in sizes:
        x, y = (torch.from_numpy(side) for side in features(n))
        calls: dict[str, Callable[[], object]] = {
            f"{width} {backward}": _solve(n, 1, width, backward=backward)
            for width in (128, 256)
            for backward in (False, True)
        }
        calls["mm"] = lambda x=x, y=y: torch.mm(x, y.t())
        times = typical(calls, rounds, min)
        work = 2 * n * n * 128
        cost = times["256 False"] - times["128 False"]
        gradient = times["256 True"] - times["128 True"] - cost
        shown = [
            f"{work / t / 1e9:.0f} GFLOP/s, {100 * work / t / most:.0f} %"
            if t > 0
            else "below the noise"
            for t in (cost, gradient, times["mm"])
        ]
        lines.append([f"n = m = {n}", *shown])
    return Section(
        "Cost and gradient passes beside the peak of a matrix product (aim: 60 %)",
        ["", "cost", "gradient", "torch.mm of x and y"],
        lines,
        [f"Peak: {most / 1e9:.0f} GFLOP/s, {whose} of {PEAK} x {PEAK} float32."],
    )


def scaling(sizes: tuple[int, ...], rounds: int, threads: int) -> Section:
    """One thread against all."""
    from ucmkd import ops

    lines = []
    for n in sizes:
        x, y = (torch.from_numpy(side) for side in features(n))
        x.requires_grad_()

        def mmd(x: Tensor = x, y: Tensor = y) -> object:
            return torch.autograd.grad(ops.mmd(x, y, bandwidth=1.0, backend="rust"), x)

        shown = []
        for call in (_solve(n, 50), mmd):
            times = typical({str(k): _on(k, call) for k in (1, threads)}, rounds, min)
            shown += [
                f"{times['1'] * 1e3:.3g}",
                f"{times[str(threads)] * 1e3:.3g}",
                f"{times['1'] / times[str(threads)]:.2f}",
            ]
        lines.append([f"n = m = {n}", *shown])
    head = [part for what in ("Sinkhorn, 50 its", "MMD") for part in (f"{what}: 1 thread ms",
            f"{threads} threads ms", "ratio")]  # fmt: skip
    return Section(
        f"{threads} threads against one, d = 128, forward + backward (aim for 2: 1.7)",
        ["", *head],
        lines,
        [],
    )
