"""The Triton kernels compile without a GPU to the code that was meant.

The largest tile of each kernel, type of points and cost is compiled for compute capability 9.0,
the largest of each kernel for the others too; ``make gpu-report`` compiles everything for all.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("triton")
pytest.importorskip("triton.backends.nvidia.compiler")

from ucmkd.ops import _triton

if _triton.interpreted():
    pytest.skip("TRITON_INTERPRET=1: the interpreter compiles nothing", allow_module_level=True)

from benches.gpu import compile as gpu

ELSEWHERE = ("sm_80", "sm_100", "gfx942")


def listed() -> list[gpu.Job]:
    every = gpu.jobs(("sm_90",))
    of_each = gpu.largest(every, by_type=False)
    elsewhere = [job._replace(target=target) for target in ELSEWHERE for job in of_each]
    return gpu.largest(every) + elsewhere


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


LISTED = {name: gpu.compilations(name) for name in gpu.modules()}


def test_every_launched_kernel_is_listed() -> None:
    """``some_kernel[grid](...)`` anywhere among the kernel files."""
    files = sorted((gpu.ROOT / "kernels").glob("*.py"))
    launched = {
        name: file.name
        for file in files
        for name in re.findall(r"\b(\w+_kernel)\[", file.read_text())
    }
    assert launched
    names = {one.kernel.__name__ for every in LISTED.values() for one in every}
    assert {name: file for name, file in launched.items() if name not in names} == {}


@pytest.mark.parametrize("name", LISTED)
def test_every_tabled_configuration_is_listed(name: str) -> None:
    tables = {
        key: value
        for key, value in vars(importlib.import_module(f"ucmkd.kernels.{name}")).items()
        if isinstance(value, dict) and value and all(hasattr(v, "warps") for v in value.values())
    }
    listed = {(one.warps, one.stages) for one in LISTED[name]}
    for key, launches in tables.items():
        for kind, launch in launches.items():
            # A launch without loads to pipeline names no stages.
            found = {s for w, s in listed if w == launch.warps}
            assert found, f"{key}[{kind}] is not listed"
            assert getattr(launch, "stages", min(found)) in found, f"{key}[{kind}] is not listed"
