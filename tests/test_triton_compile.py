"""The Triton kernels compile for NVIDIA GPUs, here without one, to the code that was meant.

Every tabled configuration uses the fast exponential, tensor cores for 16-bit points, and spills
no register.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile

import pytest

pytest.importorskip("triton")

from ucmkd.kernels import softmin as sm
from ucmkd.kernels import transport as tr
from ucmkd.ops import _triton

pytestmark = pytest.mark.skipif(
    _triton.interpreted(), reason="TRITON_INTERPRET=1: the interpreter compiles nothing"
)


def compiled(
    kernel, pointers: dict[str, str], constants: dict[str, object], launch, capability: int
):
    """Compiles without a GPU; returns the PTX and what ptxas says of it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    nvidia = pytest.importorskip("triton.backends.nvidia.compiler")
    scalars = {
        name: "fp32" if name == "scale" else "i32"
        for name in kernel.arg_names
        if name not in pointers and name not in constants
    }
    # What a launch sees: allocations are aligned, and d is padded.
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(kernel.arg_names)
        if name in pointers or name == "d"
    }
    given = {**pointers, **scalars, **dict.fromkeys(constants, "constexpr")}
    source = ASTSource(kernel, {name: given[name] for name in kernel.arg_names}, constants, aligned)
    options = {"num_warps": launch.warps, "num_stages": launch.stages, "enable_fp_fusion": True}
    target = GPUTarget("cuda", capability, 32)
    ptx = triton.compile(source, target=target, options=options).asm["ptx"]
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        name = "sm_90a" if capability == 90 else f"sm_{capability}"
        said = subprocess.run(
            [nvidia.get_ptxas(capability).path, "-v", f"--gpu-name={name}", file.name,
             "-o", os.devnull],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    return ptx, said.stdout + said.stderr


def assert_no_spills(log: str) -> None:
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)
    assert spills == [("0", "0")], log


def pointers_of(kernel, kind: str) -> dict[str, str]:
    points = "*bf16" if kind == "half" else "*fp32"
    return {
        name: "*i64" if "label_ptr" in name else points if name in ("x_ptr", "y_ptr") else "*fp32"
        for name in kernel.arg_names
        if name.endswith("_ptr")
    }


# The first block of coordinates is all of them or not; both ways occur.
VARIANTS = {
    "half": [("sqeuclidean", True), ("euclidean", False)],
    "float": [("sqeuclidean", True), ("euclidean", False)],
    "l1": [("l1", False)],
}
COMPILED = [
    (kind, rows, cost, one)
    for kind, variants in VARIANTS.items()
    for rows in ("few", "many")
    for cost, one in variants
]


def assert_instructions(ptx: str, kind: str) -> None:
    assert "ex2.approx" in ptx
    assert (("wgmma.mma_async" in ptx) or ("mma.sync" in ptx)) == (kind == "half")


@pytest.mark.parametrize("kind, rows, cost, one", COMPILED)
@pytest.mark.parametrize("capability", [80, 90])
def test_softmin_compiles(kind: str, rows: str, cost: str, one: bool, capability: int) -> None:
    if capability == 80 and rows == "few":
        pytest.skip("the large tiles are the demanding ones")
    launch = sm.TABLE[kind, rows]
    constants = {
        "COST": sm.COSTS[cost], "HAS_LABEL": True, "SAME": True, "ONE_BLOCK": one,
        "PRECISION": "ieee", "BLOCK_M": launch.block_m, "BLOCK_N": launch.block_n,
        "BLOCK_D": launch.block_d,
    }  # fmt: skip
    kernel = sm.softmin_kernel
    ptx, log = compiled(kernel, pointers_of(kernel, kind), constants, launch, capability)
    assert_instructions(ptx, kind)
    assert_no_spills(log)


@pytest.mark.parametrize("kind, rows, cost, one", COMPILED)
def test_transport_compiles(kind: str, rows: str, cost: str, one: bool) -> None:
    launch = tr.TABLE[kind, rows]
    constants = {
        "COST": sm.COSTS[cost], "HAS_LABEL": True, "SAME": True, "GRADIENT": True,
        "ONE_BLOCK": one, "PRECISION": "ieee",
        "PLAN_PRECISION": "tf32x3" if kind == "half" else "ieee",
        "BLOCK_M": launch.block_m, "BLOCK_N": launch.block_n, "BLOCK_D": launch.block_d,
        "BLOCK_O": launch.block_o,
    }  # fmt: skip
    kernel = tr.transport_kernel
    ptx, log = compiled(kernel, pointers_of(kernel, kind), constants, launch, 90)
    assert_instructions(ptx, kind)
    assert_no_spills(log)


@pytest.mark.parametrize("rows", ["few", "many"])
def test_matrix_softmin_compiles(rows: str) -> None:
    launch = sm.TABLE["matrix", rows]
    kernel = sm.softmin_matrix_kernel
    constants = {"BLOCK_M": launch.block_m, "BLOCK_N": launch.block_n}
    ptx, log = compiled(kernel, pointers_of(kernel, "float"), constants, launch, 90)
    assert_instructions(ptx, "matrix")
    assert_no_spills(log)
