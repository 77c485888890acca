"""Compiles kernels for GPUs that need not be there, and says what came out."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from benches.gpu import assembly
from benches.gpu.targets import TARGETS, Target, occupancy
from ucmkd.kernels.compilation import Compilation

ROOT = Path(__file__).resolve().parents[2]
#: Outside the checkout, as Triton's own: a fresh clone compiles nothing anew that has not changed.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ucmkd" / "gpu-report"
#: Changes whenever results in the cache no longer mean what this file would write.
VERSION = 1


@dataclass(frozen=True)
class Measured:
    """One specialisation on one target; bytes, counts of instructions, a share for occupancy.

    ``error`` is empty unless it does not compile.
    """

    module: str
    name: str
    target: str
    error: str = ""
    warps: int = 0
    registers: int = 0
    spill_bytes: int = 0
    shared: int = 0
    mma: int = 0
    mma_in_loops: int = 0
    exponentials: int = 0
    instructions: int = 0
    occupancy: float = 0.0


def modules() -> list[str]:
    """The kernel files that list their specialisations."""
    names = sorted(path.stem for path in (ROOT / "kernels").glob("*.py"))
    return [
        name
        for name in names
        if hasattr(importlib.import_module(f"ucmkd.kernels.{name}"), "compilations")
    ]


def compilations(module: str) -> list[Compilation]:
    """The specialisations that a kernel file lists.

    Raises:
        ValueError: Two have the same name.
    """
    listed = list(importlib.import_module(f"ucmkd.kernels.{module}").compilations())
    names = [one.name for one in listed]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"kernels/{module}.py lists a name twice: {', '.join(twice)}")
    return listed


def constants(compilation: Compilation, target: Target) -> dict[str, Any]:
    """The constants as a launch on that target has them.

    AMD's matrix units multiply float32 as it is, and Triton has no ``tf32x3`` there.
    """
    if target.backend != "hip":
        return compilation.constants
    return {k: "ieee" if v == "tf32x3" else v for k, v in compilation.constants.items()}


def _source(compilation: Compilation, target: Target) -> Any:
    from triton.compiler import ASTSource

    kernel, given = compilation.kernel, compilation.signature
    fixed = constants(compilation, target)
    names = kernel.arg_names
    wrong = {*given} & {*fixed} or {*given, *fixed} ^ {*names}
    if wrong:
        raise ValueError(
            f"{compilation.name}: every argument must be in the signature or among the constants "
            f"of the kernel; not so: {', '.join(sorted(wrong))}"
        )
    # What a launch sees: allocations are aligned, d is padded, and the strides are multiples.
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(names)
        if given.get(name, "").startswith("*")
        or (name in given and (name == "d" or name.startswith("stride")))
    }
    return ASTSource(kernel, {n: given.get(n, "constexpr") for n in names}, fixed, aligned)


def _disassemble(cubin: bytes) -> assembly.Code:
    from triton import knobs

    tool = knobs.nvidia.cuobjdump.path

    def said(what: str, path: str) -> str:
        return subprocess.run([tool, what, path], capture_output=True, text=True, check=True).stdout

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return assembly.sass(
            said("--dump-sass", file.name), said("--dump-resource-usage", file.name)
        )


def _reason(error: BaseException) -> str:
    """The innermost cause: the outer errors of the compiler tell where, not why."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[-200:]}"


def measure(compilation: Compilation, target: Target, module: str = "") -> Measured:
    """Compiles one specialisation for one target and reads its machine code.

    A specialisation that does not compile is a result: see ``error``.
    """
    import triton
    from triton.backends.compiler import GPUTarget

    source = _source(compilation, target)
    options = {
        "num_warps": compilation.warps,
        "num_stages": compilation.stages,
        "enable_fp_fusion": True,
    }
    try:
        compiled = triton.compile(
            source, target=GPUTarget(target.backend, target.arch, target.lanes), options=options
        )
    except Exception as error:  # the compiler's own errors have no common class
        return Measured(
            module, compilation.name, target.name, error=_reason(error), warps=compilation.warps
        )
    if target.backend == "cuda":
        code = _disassemble(compiled.asm["cubin"])
    else:
        code = assembly.gcn(compiled.asm["amdgcn"])
    shared, warps = int(compiled.metadata.shared), int(compiled.metadata.num_warps)
    return Measured(
        module, compilation.name, target.name, "", warps, code.registers, code.spill_bytes,
        shared, code.mma, code.mma_in_loops, code.exponentials, code.instructions,
        occupancy(target, code.registers, shared, warps),
    )  # fmt: skip


def faults(compilation: Compilation, measured: Measured) -> list[str]:
    """What is wrong with a compiled specialisation, in words; empty if nothing is."""
    if measured.error:
        return [f"does not compile: {measured.error}"]
    limit = TARGETS[measured.target].block_shared
    wrong = []
    if measured.spill_bytes and measured.target.startswith("sm_"):
        wrong.append(f"spills {measured.spill_bytes} bytes")
    if measured.shared > limit:
        wrong.append(f"wants {measured.shared} bytes of shared memory of {limit}")
    # One without exponentials computes a tile of costs, with no loop if d is one block.
    inside = measured.mma_in_loops if compilation.exponentials else measured.mma
    if compilation.tensor_cores and not inside:
        wrong.append(f"has no matrix instruction in a loop ({measured.mma} in all)")
    if compilation.exponentials and not measured.exponentials:
        wrong.append("has no hardware exponential")
    return wrong


def key(compilation: Compilation, target: Target) -> str:
    """Changes with everything that the result depends on: kernel, constants, compiler, reader."""
    import triton

    reader = (Path(assembly.__file__).read_bytes(), Path(__file__).with_name("targets.py"))
    parts = (
        VERSION, triton.__version__, compilation.kernel.cache_key, sorted(
            compilation.signature.items()
        ), sorted(constants(compilation, target).items()), compilation.name, compilation.warps,
        compilation.stages, target, reader[0], reader[1].read_bytes(),
    )  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()


class Job(NamedTuple):
    """A specialisation of a kernel file, and the target to compile it for."""

    module: str
    compilation: Compilation
    target: str


def jobs(targets: Sequence[str]) -> list[Job]:
    """Every specialisation of every kernel file on every target."""
    return [
        Job(module, one, target)
        for module in modules()
        for one in compilations(module)
        for target in targets
    ]


def largest(listed: Sequence[Job], by_type: bool = True) -> list[Job]:
    """Of each kernel, type of points and cost, or of each kernel, the job with the largest tile.

    Of equal tiles the one with most arguments.
    """

    def size(job: Job) -> tuple[int, int]:
        blocks = job.compilation.constants.items()
        area = math.prod(v for k, v in blocks if k.startswith("BLOCK") and v is not None)
        return area, len(job.compilation.signature)

    best: dict[Any, Job] = {}
    for job in listed:
        one = job.compilation
        kind = (next(iter(one.signature.values())), one.constants.get("COST"))
        group = (one.kernel.__name__, job.target, kind if by_type else None)
        if group not in best or size(job) > size(best[group]):
            best[group] = job
    return list(best.values())


def _work(module: str, name: str, target: str, file: Path) -> Measured:
    chosen = next(one for one in compilations(module) if one.name == name)
    result = measure(chosen, TARGETS[target], module)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as part:
        part.write(json.dumps(asdict(result)) + "\n")
    Path(part.name).replace(file)  # whole or not at all
    return result


@contextmanager
def pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes that compile: a fork of one that runs PyTorch's threads may hang."""
    with ProcessPoolExecutor(workers, get_context("spawn")) as executor:
        try:
            yield executor
        finally:
            executor.shutdown(cancel_futures=True)


def submit(
    listed: Sequence[Job], executor: ProcessPoolExecutor, cache: Path = CACHE
) -> list[Callable[[], Measured]]:
    """Starts what is not in the cache yet; returns a function for each job that waits for it.

    The cache has one file for each result, so that an interrupted run keeps what it compiled.
    """
    cache.mkdir(parents=True, exist_ok=True)
    waits: list[Callable[[], Measured]] = []
    for module, one, target in listed:
        file = cache / f"{key(one, TARGETS[target])}.json"
        if file.exists():
            result = Measured(**json.loads(file.read_text()))
            waits.append(lambda result=result: result)  # type: ignore[misc]
        else:
            waits.append(executor.submit(_work, module, one.name, target, file).result)
    return waits
