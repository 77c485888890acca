"""What a call costs beside the numerics: the smallest problem, and where its time goes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor

from benches.problems import features
from benches.report import Section

POINTS, WIDTH = 32, 128
#: Calls of which the parts are the medians.
CALLS = 600
#: Calls in a row of each, before it is the next one's turn.
AT_ONCE = 3
PARTS = ("Rust", "checks", "finite", "dispatch and autograd, forward", "backward")


@torch.library.custom_op("ucmkd_benches::empty", mutates_args=())
def empty(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient without computing anything: what any such operator costs."""
    return x.new_empty(()), torch.empty_like(x)


@empty.register_fake
def _(x, y):  # type: ignore[no-untyped-def]
    return x.new_empty(()), torch.empty_like(x)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1])


def _backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None]:
    return ctx.saved_tensors[0] * grad, None


empty.register_autograd(_backward, setup_context=_setup)


def _points(count: int) -> tuple[Tensor, Tensor]:
    x, y = (torch.from_numpy(side) for side in features(count, width=WIDTH))
    return x.requires_grad_(), y


def _calls() -> dict[str, Callable[[], Tensor]]:
    """The forward calls."""
    from ucmkd import losses, ops

    x, y = _points(POINTS)
    return {
        "empty torch.library operator": lambda: empty(x, y)[0],
        "losses.sinkhorn_align, debias=False": lambda: losses.sinkhorn_align(x, y, debias=False),
        "losses.sinkhorn_align": lambda: losses.sinkhorn_align(x, y),
        "ops.sinkhorn": lambda: ops.sinkhorn(x, y, epsilon=0.1, tol=1e-3).value,
        "ops.mmd, bandwidth given": lambda: ops.mmd(x, y, bandwidth=1.0),
        "losses.mmd_align": lambda: losses.mmd_align(x, y),
    }


def _iterations() -> dict[str, Callable[[], Tensor]]:
    """The smallest case of the Sinkhorn benchmark."""
    from ucmkd import ops

    x, y = _points(2 * POINTS)

    def sinkhorn(count: int) -> Tensor:
        settings = {"tol": 0.0, "max_iter": count, "accelerate": False}
        return ops.sinkhorn(x, y, epsilon=0.08, **settings).value

    return {
        "empty torch.library operator": lambda: empty(x, y)[0],
        "ops.sinkhorn, 1 iteration": lambda: sinkhorn(1),
        "ops.sinkhorn, 50 iterations": lambda: sinkhorn(50),
    }


#: What is measured, by the number of points.
CASES = {POINTS: _calls, 2 * POINTS: _iterations}


class _Clock:
    """Seconds inside the outermost of the functions that share it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **keywords: Any) -> Any:
            self._depth += 1
            start = time.perf_counter()
            try:
                return function(*args, **keywords)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.perf_counter() - start

        return timed


@contextmanager
def _clocked(module: ModuleType, clocks: dict[str, _Clock]) -> Iterator[None]:
    """Puts clocks around functions of a module: by name, ``"*"`` for all the others."""
    before = {}
    for name, function in list(vars(module).items()):
        clock = clocks.get(name, clocks.get("*"))
        plain = isinstance(function, FunctionType) and function.__module__ == module.__name__
        native = type(function).__name__ == "builtin_function_or_method"
        if clock is not None and (plain or native):
            before[name] = function
            setattr(module, name, clock.around(function))
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(module, name, function)


def _samples(calls: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, list[list[float]]]:
    """Seconds of the parts of single calls, in turns, by clocks around the functions inside."""
    from ucmkd import _rust
    from ucmkd.ops import _check

    numerics, checks, finite = clocks = _Clock(), _Clock(), _Clock()
    inputs = {name: _leaves(call()) for name, call in calls.items()}
    samples: dict[str, list[list[float]]] = {name: [] for name in calls}
    with ExitStack() as stack:
        stack.enter_context(_clocked(_rust, {"*": numerics}))
        stack.enter_context(_clocked(_check, {"*": checks, "finite": finite}))
        for _ in range(rounds):
            for name, call in calls.items():
                for turn in range(1 + AT_ONCE):
                    for clock in clocks:
                        clock.seconds = 0.0
                    start = time.perf_counter()
                    value = call()
                    middle = time.perf_counter()
                    torch.autograd.grad(value, inputs[name])
                    backward = time.perf_counter() - middle
                    known = [clock.seconds for clock in clocks]
                    if turn:  # the first finds the caches as another call left them
                        samples[name].append([*known, middle - start - sum(known), backward])
    return samples


def _leaves(value: Tensor) -> list[Tensor]:
    """The leaves that a value depends on."""
    found: dict[int, Tensor] = {}
    waiting = [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        if hasattr(node, "variable"):
            found[id(node.variable)] = node.variable
        waiting.extend(parent for parent, _ in node.next_functions)
    return list(found.values())


def measure(count: int) -> Section:
    """Forward and backward of a case beside an empty operator, in turns."""
    samples = _samples(CASES[count](), CALLS // AT_ONCE)
    without = {
        name: statistics.median(sum(parts[1:]) for parts in rows) for name, rows in samples.items()
    }
    base = next(iter(without.values()))
    lines = []
    for name, rows in samples.items():
        total = statistics.median(sum(parts) for parts in rows)
        medians = (statistics.median(part) for part in zip(*rows, strict=True))
        lines.append([
            name,
            f"{total * 1e6:.1f}",
            f"{without[name] * 1e6:.1f}",
            f"{without[name] / base:.2f}",
            *(f"{part * 1e6:.1f}" for part in medians),
        ])  # fmt: skip
    return Section(
        f"One call at n = m = {count}, d = {WIDTH}, forward + backward, in µs",
        ["", "median", "without Rust", "of empty", *PARTS],
        lines,
        [
            "'of empty': the time outside Rust beside the whole empty operator; at most 2 is the"
            " aim.",
            "The parts come from single calls with clocks around the functions, each of which adds"
            " about 0.2 µs.",
        ],
    )
