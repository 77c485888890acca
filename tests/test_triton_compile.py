"""The Triton kernels compile without a GPU to the code that was meant.

Every specialisation that a kernel file lists is compiled for compute capability 9.0, the largest
tiles of each kernel for the others too; ``make gpu-report`` compiles everything for all.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("triton")
pytest.importorskip("triton.backends.nvidia.compiler")

from ucmkd.ops import _triton

if _triton.interpreted():
    pytest.skip("TRITON_INTERPRET=1: the interpreter compiles nothing", allow_module_level=True)

from benches.gpu import compile as gpu

MEASURE = ("sm_80", "sm_100", "gfx942")


def listed() -> list[gpu.Job]:
    every = gpu.jobs(("sm_90",))
    for target in MEASURE:
        every += gpu.largest([job._replace(target=target) for job in gpu.jobs(("sm_90",))])
    return every


JOBS = listed()


@pytest.fixture(scope="module")
def compiled() -> Iterator[dict[int, Callable[[], gpu.Measured]]]:
    """All jobs, compiled by as many processes as there are cores."""
    with gpu.pool(min(len(JOBS), os.cpu_count() or 1)) as executor:
        yield dict(enumerate(gpu.submit(JOBS, executor)))


@pytest.mark.parametrize(
    "place", range(len(JOBS)), ids=[f"{job.compilation.name}-{job.target}" for job in JOBS]
)
def test_compiles_to_what_was_meant(
    compiled: dict[int, Callable[[], gpu.Measured]], place: int
) -> None:
    job = JOBS[place]
    measured = compiled[place]()
    assert (measured.name, measured.target) == (job.compilation.name, job.target)
    assert gpu.faults(job.compilation, measured) == []


def kernel_files() -> list[Path]:
    """The files that launch kernels: ``kernel[grid](...)``."""
    files = sorted((gpu.ROOT / "kernels").glob("*.py"))
    return [file for file in files if re.search(r"^    \w+_kernel\[", file.read_text(), re.M)]


def test_every_kernel_is_listed() -> None:
    files = kernel_files()
    assert files
    for file in files:
        module = importlib.import_module(f"ucmkd.kernels.{file.stem}")
        launched = set(re.findall(r"^    (?:\s*)(\w+_kernel)\[", file.read_text(), re.M))
        names = {one.kernel.__name__ for one in gpu.compilations(file.stem)}
        assert launched <= names, f"kernels/{file.name} does not list {launched - names}"
        tables = [v for k, v in vars(module).items() if k.endswith("TABLE") and isinstance(v, dict)]
        assert len(gpu.compilations(file.stem)) >= max(map(len, tables), default=1)
