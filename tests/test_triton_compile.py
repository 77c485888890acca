"""The Triton kernels of Sinkhorn compile for NVIDIA GPUs, here without one, to what was meant.

Every tabled configuration uses the fast exponential, tensor cores where points are multiplied,
and spills no register.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile

import pytest

pytest.importorskip("triton")

from ucmkd.kernels import cached, cost, matrix, own_step, softmin, step, transport
from ucmkd.kernels.compilation import Compilation
from ucmkd.ops import _triton

pytestmark = pytest.mark.skipif(
    _triton.interpreted(), reason="TRITON_INTERPRET=1: the interpreter compiles nothing"
)

FILES = (cached, cost, matrix, own_step, softmin, step, transport)
TABLED = {entry.name: entry for file in FILES for entry in file.compilations()}
#: Large tiles are the demanding ones; they are compiled for the other architectures, too.
DEMANDING = [name for name in TABLED if name.endswith("many") or "/many/" in name]
CASES = [(name, 90) for name in TABLED]
CASES += [(name, capability) for capability in (80, 100) for name in DEMANDING]


def compiled(entry: Compilation, capability: int) -> tuple[str, str]:
    """Compiles without a GPU; returns the PTX and what ptxas says of it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    nvidia = pytest.importorskip("triton.backends.nvidia.compiler")
    names = entry.kernel.arg_names
    # What a launch sees: allocations are aligned, and d and the strides are padded.
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if entry.signature.get(name, "").startswith("*")
        or (name in entry.signature and (name == "d" or name.startswith("stride")))
    }
    types = {name: entry.signature.get(name, "constexpr") for name in names}
    source = ASTSource(entry.kernel, types, entry.constants, aligned)
    options = {"num_warps": entry.warps, "num_stages": entry.stages, "enable_fp_fusion": True}
    target = GPUTarget("cuda", capability, 32)
    ptx = triton.compile(source, target=target, options=options).asm["ptx"]
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        name = f"sm_{capability}a" if capability >= 90 else f"sm_{capability}"
        said = subprocess.run(
            [nvidia.get_ptxas(capability).path, "-v", f"--gpu-name={name}", file.name,
             "-o", os.devnull],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    return ptx, said.stdout + said.stderr


@pytest.mark.parametrize("name, capability", CASES)
def test_compiles(name: str, capability: int) -> None:
    entry = TABLED[name]
    ptx, log = compiled(entry, capability)
    products = re.search(r"wgmma\.mma_async|mma\.sync|tcgen05\.mma", ptx)
    assert (products is not None) == entry.tensor_cores
    assert ("ex2.approx" in ptx) == entry.exponentials
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)
    assert spills and set(spills) == {("0", "0")}, log


def test_names_are_unique() -> None:
    names = [entry.name for file in FILES for entry in file.compilations()]
    assert len(names) == len(TABLED)
