"""The rounds: every contestant of a case is built, checked and timed in turn."""

from __future__ import annotations

import gc
import importlib
import random
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benches.problems import Solution

#: A sample repeats its call until it lasts about this long, in seconds.
SAMPLE = 5e-3
#: Seconds of samples per contestant and case; it decides the number of rounds.
BUDGET = 10.0
#: Fewest rounds of a contestant whose single call stays below the cap.
FEWEST = 3
#: A call shorter than this gets an untimed one before each sample, for caches and thread pools.
QUICK = 0.1
#: A single call longer than this many seconds is reported as it is, without further rounds.
CAP = 20.0
#: A call that lasts this many times the cap is stopped.
STOP = 2.0


class TooLong(Exception):
    """A call was stopped."""


@dataclass(frozen=True)
class Answer:
    """What one call computed: the value, the gradient to x, the iterations where it tells them.

    ``value`` is a number or ``(k,)``, for as many problems; then ``gradient`` is ``(k, n, d)``.
    """

    value: float | NDArray[Any]
    gradient: NDArray[Any]
    iterations: int | None = None


@dataclass(frozen=True)
class Ready:
    """A contestant that is set up for one case.

    Attributes:
        run: One value and gradient, finished when it returns; what has to be compiled is.
        read: Turns the result of ``run`` into an :class:`Answer`.
        reference: The float64 solution that its answer is an approximation of.
        note: What a reader of the table should know.
    """

    run: Callable[[], Any]
    read: Callable[[Any], Answer]
    reference: Solution
    note: str = ""


@dataclass(frozen=True)
class Contestant:
    """Somebody who takes part: a name, the modules it needs, how to set it up for a case."""

    name: str
    needs: tuple[str, ...]
    build: Callable[[Any], Ready]


@dataclass
class Row:
    """One line of the table. Times are in seconds; ``status`` is empty when all is well."""

    name: str
    status: str = ""
    median: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 0
    value_error: float | None = None
    gradient_error: float | None = None
    iterations: int | None = None
    accurate: bool = False
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The row as JSON data."""
        return asdict(self)


def errors(answer: Answer, reference: Solution) -> tuple[float, float]:
    """Relative errors of value and gradient (Euclidean norm); the worst of several problems."""
    exact = np.atleast_1d(reference.value)
    value = np.abs(np.atleast_1d(answer.value) - exact) / np.abs(exact)
    right = np.asarray(reference.gradient).reshape(len(exact), -1)
    wrong = np.asarray(answer.gradient, dtype=np.float64).reshape(len(exact), -1) - right
    gradient = np.linalg.norm(wrong, axis=1) / np.linalg.norm(right, axis=1)
    return float(value.max()), float(gradient.max())


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Stops Python code that takes longer; a single call into a library ends first."""
    if (
        not hasattr(signal, "setitimer")
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return

    def stop(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _missing(needs: Sequence[str]) -> str:
    for name in needs:
        try:
            importlib.import_module(name)
        except ImportError as error:
            return f"missing: {error}"
        except Exception as error:  # installed, and at odds with another package
            return f"error: import of {name}: {type(error).__name__}: {_short(error)}"
    return ""


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else text[:157] + "..."


def _seconds(run: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


def race(
    contestants: Sequence[Contestant],
    case: Any,
    *,
    rounds: int,
    bounds: tuple[float, float],
    timed: bool = True,
    cap: float = CAP,
    stop: float = STOP,
) -> tuple[list[Row], dict[str, Ready]]:
    """Checks and times all contestants of a case.

    Args:
        contestants: Who takes part.
        case: Handed to :attr:`Contestant.build`.
        rounds: Most rounds; slow contestants get fewer, at least :data:`FEWEST`.
        bounds: Largest relative errors of value and gradient that count as accurate.
        timed: False: one call each, for its accuracy only.
        cap: A call that takes longer, in seconds, is the only one.
        stop: One that takes this many times as long is stopped.

    Returns:
        A row per contestant, in their order, and those who could be set up, by name.
    """
    rows = [Row(c.name) for c in contestants]
    ready: dict[str, Ready] = {}
    plan: dict[str, Plan] = {}
    for contestant, row in zip(contestants, rows, strict=True):
        row.status = _missing(contestant.needs)
        if row.status:
            continue
        try:
            made = contestant.build(case)
            start = time.perf_counter()
            with limit(stop * cap):
                result = made.run()  # warms up
            once = time.perf_counter() - start
            answer = made.read(result)
            del result
            if timed and once <= cap:
                once = _seconds(made.run, 1)
        except TooLong:
            torch.set_grad_enabled(True)  # GeomLoss switches gradients off while it iterates
            row.status = f"stopped after {stop * cap:g} s"
            continue
        except Exception as error:  # a peer's failure is a result, not the end of the run
            torch.set_grad_enabled(True)
            row.status = f"error: {type(error).__name__}: {_short(error)}"
            continue
        ready[row.name] = made
        row.note, row.iterations = made.note, answer.iterations
        row.value_error, row.gradient_error = errors(answer, made.reference)
        # not (error <= bound): a NaN is not accurate
        row.accurate = row.value_error <= bounds[0] and row.gradient_error <= bounds[1]
        if not row.accurate:
            row.status = "outside the bounds"
        if timed:
            plan[row.name] = _plan(row, once, rounds, cap)
    samples = interleaved({name: ready[name].run for name in plan}, plan)
    for row in rows:
        times = samples.get(row.name)
        if times:
            row.median, row.low, row.high = statistics.median(times), min(times), max(times)
            row.rounds = len(times)
    return rows, ready


class Plan(NamedTuple):
    """How a contestant is sampled."""

    rounds: int
    repeats: int
    quick: bool


def _plan(row: Row, once: float, rounds: int, cap: float) -> Plan:
    if once > cap:
        row.median = row.low = row.high = once
        row.rounds = 1
        row.note = f"{row.note}; one call, over the cap of {cap:g} s".lstrip("; ")
        return Plan(0, 1, False)
    repeats = max(1, round(SAMPLE / once))
    fitting = int(BUDGET / (once * repeats))
    return Plan(min(rounds, max(FEWEST, fitting)), repeats, once < QUICK)


def interleaved(
    calls: dict[str, Callable[[], Any]], plan: dict[str, Plan]
) -> dict[str, list[float]]:
    """Seconds per call of each, in rounds, every round in a new random order."""
    samples: dict[str, list[float]] = {name: [] for name in plan}
    order = random.Random(0)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(max((p.rounds for p in plan.values()), default=0)):
            names = [name for name, p in plan.items() if turn < p.rounds]
            order.shuffle(names)
            for name in names:
                time.sleep(0.01)  # thread pools that spin after work have gone to sleep
                if plan[name].quick:
                    calls[name]()
                samples[name].append(_seconds(calls[name], plan[name].repeats))
            gc.collect()
    finally:
        if collecting:
            gc.enable()
    return samples


def typical(
    calls: dict[str, Callable[[], Any]],
    rounds: int,
    pick: Callable[[list[float]], float] = statistics.median,
) -> dict[str, float]:
    """Seconds of calls that need no check, in interleaved rounds; all run once first."""
    plan = {}
    for name, call in calls.items():
        call()
        once = _seconds(call, 1)
        plan[name] = Plan(rounds, max(1, round(SAMPLE / once)), once < QUICK)
    return {name: pick(times) for name, times in interleaved(calls, plan).items()}
