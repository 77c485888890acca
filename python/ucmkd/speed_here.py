"""``ucmkd info --bench``: what a step of the losses costs here, and which setting is best.

Value and gradient of both losses, every backend that works here in turn, medians; the threads are
set back afterwards.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ucmkd import _backend, losses

SIZES = (64, 256, 1024)
WIDTH = 128
#: Seconds of a whole measurement, about.
SECONDS = 15.0

LOSSES: dict[str, Callable[..., Tensor]] = {
    "sinkhorn_align": losses.sinkhorn_align,
    "mmd_align": losses.mmd_align,
}


class Setting(NamedTuple):
    """Where and how a loss runs; ``threads`` is 0 on a GPU."""

    device: str
    backend: str
    threads: int

    def __str__(self) -> str:
        if not self.threads:
            return f"{self.device}, {self.backend}"
        return f"{self.device}, {self.backend}, {self.threads} thread{'s' * (self.threads > 1)}"


class Case(NamedTuple):
    """A loss of two clouds of ``n`` points."""

    loss: str
    n: int


def settings() -> list[Setting]:
    """What can run here: on the CPU with one thread and with all that PyTorch has."""
    threads = sorted({1, torch.get_num_threads()})
    on_cpu = [name for name in ("rust", "torch") if name != "rust" or _backend.has_rust()]
    found = [Setting("cpu", name, count) for name in on_cpu for count in threads]
    if torch.cuda.is_available():
        works = _backend.backends()
        found += [Setting("cuda", name, 0) for name in ("triton", "torch") if works[name].available]
    return found


def measure(seconds: float = SECONDS) -> dict[Case, dict[Setting, float]]:
    """Median seconds of value and gradient, by case and setting, the settings in turn.

    Raises:
        ValueError: ``seconds`` is not positive.
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds!r}")
    here = settings()
    cases = [Case(name, n) for name in LOSSES for n in SIZES]
    before = torch.get_num_threads()
    try:
        return {case: _case(case, here, seconds / len(cases)) for case in cases}
    finally:
        torch.set_num_threads(before)


def _case(case: Case, here: list[Setting], seconds: float) -> dict[Setting, float]:
    calls = {setting: _call(case, setting) for setting in here}
    times: dict[Setting, list[float]] = {setting: [] for setting in here}
    share = seconds / len(here)
    while waiting := [s for s in here if sum(times[s]) < share]:
        for setting in waiting:
            if setting.threads:
                torch.set_num_threads(setting.threads)
            start = time.perf_counter()
            calls[setting]()
            times[setting].append(time.perf_counter() - start)
    # The first call compiles and fills the caches; of a slow one it is all there is.
    return {setting: statistics.median(each[1:] or each) for setting, each in times.items()}


def _call(case: Case, setting: Setting) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(case.n)
    student, teacher = (
        torch.randn(case.n, WIDTH, generator=generator).to(setting.device) for _ in range(2)
    )
    student.requires_grad_()
    loss = LOSSES[case.loss]

    def call() -> None:
        value = loss(student, teacher + 0.1, backend=setting.backend)
        torch.autograd.grad(value, student)
        if setting.device == "cuda":
            torch.cuda.synchronize()

    return call


def advice(times: dict[Case, dict[Setting, float]]) -> list[str]:
    """One sentence for each device: the fastest setting over all cases."""
    sentences = []
    found = next(iter(times.values()))
    for device in dict.fromkeys(setting.device for setting in found):
        of_device = [setting for setting in found if setting.device == device]

        def slowness(setting: Setting, rivals: list[Setting] = of_device) -> float:
            # The geometric mean of the ratios to the fastest of each case.
            ratios = [by[setting] / min(by[rival] for rival in rivals) for by in times.values()]
            return statistics.geometric_mean(ratios)

        best = min(of_device, key=slowness)
        auto = "triton" if device == "cuda" else "rust"
        how = 'backend="auto" takes it' if best.backend == auto else f'backend="{best.backend}"'
        if best.threads:
            how += f", torch.set_num_threads({best.threads})"
        sentences.append(
            f"On the {device.upper().replace('CUDA', 'GPU')} use {best.backend}: {how}."
        )
    return sentences


def table(times: dict[Case, dict[Setting, float]]) -> list[str]:
    """Lines of text, milliseconds by setting and case."""
    cases = list(times)
    found = list(next(iter(times.values())))
    width = max(len(str(setting)) for setting in found)
    head = f"{'ms, value and gradient':{width}}"
    lines = [f"{head}  " + "  ".join(f"{case.loss} {case.n:>4}" for case in cases)]
    for setting in found:
        cells = (f"{1e3 * times[case][setting]:>{len(case.loss) + 5}.3g}" for case in cases)
        lines.append(f"{setting!s:{max(width, len(head))}}  " + "  ".join(cells))
    return lines
