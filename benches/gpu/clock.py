"""Times on the device: CUDA events, interleaved rounds, medians; and memory."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benches.timing import SAMPLE, Contestant, Ready, TooLong, errors, limit
from benches.timing import Row as BaseRow
from benches.timing import _missing as missing
from benches.timing import _short as short

#: Fewest and most rounds of a contestant.
FEWEST, MOST = 3, 25
#: A call that takes more seconds is the only one; building one, with its first call, is stopped.
CAP, BUILD = 5.0, 40.0
#: Seconds of a case after which no further contestant is built.
PATIENCE = 75.0


@dataclass
class Row(BaseRow):
    """One line of the table; ``memory`` is what a call allocates beyond its inputs, in bytes."""

    memory: int | None = None


class Clock:
    """Measures calls on one device.

    Args:
        device: ``cuda``, or ``cpu`` for a dry run.
        flush: Overwrite the L2 cache before each sample, as other work would in a training step.
    """

    def __init__(self, device: torch.device, *, flush: bool = False) -> None:
        self.device, self.flush = device, flush
        self._waste = torch.empty(0)
        if flush and device.type == "cuda":
            size = 2 * torch.cuda.get_device_properties(device).L2_cache_size
            self._waste = torch.empty(size, dtype=torch.uint8, device=device)

    def seconds(self, run: Callable[[], Any], repeats: int = 1) -> float:
        """Seconds of one call, the mean of so many in a row."""
        if self.device.type != "cuda":
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            return (time.perf_counter() - start) / repeats
        if self.flush:
            repeats = 1
            self._waste.zero_()
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self.device)
        first.record()
        for _ in range(repeats):
            run()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last)) / 1e3 / repeats

    def memory(self, run: Callable[[], Any]) -> int | None:
        """Bytes that a call allocates at its peak beyond what was allocated before it."""
        if self.device.type != "cuda":
            return None
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        run()
        torch.cuda.synchronize(self.device)
        return int(torch.cuda.max_memory_allocated(self.device)) - before

    def rest(self) -> None:
        """Returns memory that nobody holds to the driver."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _prepare(
    contestant: Contestant, row: Row, case: Any, clock: Clock, bounds: tuple[float, float]
) -> Ready | None:
    """Builds a contestant, checks its answer; returns None if it cannot be timed."""
    row.status = missing(contestant.needs)
    if row.status:
        return None
    try:
        with limit(BUILD):
            made = contestant.build(case)
            made.run()  # compiles and warms up
            row.memory = clock.memory(made.run)
            answer = made.read(made.run())
    except TooLong:
        row.status = f"stopped after {BUILD:g} s"
    except Exception as error:  # a peer's failure is a result, not the end of the run
        row.status = f"error: {type(error).__name__}: {short(error)}"
    torch.set_grad_enabled(True)  # GeomLoss switches gradients off while it iterates
    if row.status:
        clock.rest()
        return None
    row.note, row.iterations = made.note, answer.iterations
    if made.reference is None:
        finite = bool(np.isfinite(answer.value).all() and np.isfinite(answer.gradient).all())
        row.status = f"not checked: no float64 reference; {'' if finite else 'not '}finite"
    else:
        row.value_error, row.gradient_error = errors(answer, made.reference)
        # not (error > bound): a NaN is not accurate
        row.accurate = row.value_error <= bounds[0] and row.gradient_error <= bounds[1]
        row.status = "" if row.accurate else "outside the bounds"
    return made


def race(
    contestants: Sequence[Contestant],
    case: Any,
    clock: Clock,
    *,
    bounds: tuple[float, float],
    seconds: float,
) -> list[Row]:
    """Builds, checks and times all contestants of a case.

    Args:
        contestants: Who takes part.
        case: Handed to :attr:`Contestant.build`.
        clock: Of the device.
        bounds: Largest relative errors of value and gradient that count as accurate.
        seconds: For all rounds of the case; every contestant has :data:`FEWEST` all the same,
            unless one call of it takes longer than :data:`CAP`.

    Returns:
        A row for each contestant, in their order.
    """
    rows = [Row(contestant.name) for contestant in contestants]
    ready: dict[str, Ready] = {}
    repeats: dict[str, int] = {}
    samples: dict[str, list[float]] = {}
    begun = time.perf_counter()
    for contestant, row in zip(contestants, rows, strict=True):
        if time.perf_counter() - begun > PATIENCE:
            row.status = f"not run: the others took more than {PATIENCE:g} s"
            continue
        made = _prepare(contestant, row, case, clock, bounds)
        if made is None:
            continue
        once = clock.seconds(made.run)
        samples[row.name] = [once] if once > CAP else []
        if once <= CAP:
            ready[row.name] = made
            repeats[row.name] = max(1, round(SAMPLE / once))
    order, start = random.Random(0), time.perf_counter()
    for turn in range(MOST):
        if turn >= FEWEST and time.perf_counter() - start > seconds:
            break
        names = list(ready)
        order.shuffle(names)
        for name in names:
            ready[name].run()  # clocks and caches as in a loop of this contestant
            samples[name].append(clock.seconds(ready[name].run, repeats[name]))
    for row in rows:
        if times := samples.get(row.name):
            row.median, row.low, row.high = statistics.median(times), min(times), max(times)
            row.rounds = len(times)
    return rows
