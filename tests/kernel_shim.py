"""The specialisations of kernel files that do not list them themselves yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ucmkd.kernels import softmin as sm
from ucmkd.kernels import transport as tr
from ucmkd.kernels.compilation import Compilation

# The first block of coordinates is all of them or not; both ways occur.
VARIANTS = {
    "half": [("sqeuclidean", True), ("euclidean", False)],
    "float": [("sqeuclidean", True), ("euclidean", False)],
    "l1": [("l1", False)],
}


def _signature(kernel: Any, kind: str, constants: dict[str, Any]) -> dict[str, str]:
    points = "*bf16" if kind == "half" else "*fp32"
    types = {"scale": "fp32", "x_ptr": points, "y_ptr": points}
    return {
        name: types.get(name)
        or ("*i64" if "label_ptr" in name else "*fp32" if name.endswith("_ptr") else "i32")
        for name in kernel.arg_names
        if name not in constants
    }


def _one(name: str, kernel: Any, kind: str, constants: dict[str, Any], launch: Any) -> Compilation:
    return Compilation(
        name, kernel, _signature(kernel, kind, constants), constants, launch.warps, launch.stages,
        kind == "half", True,
    )  # fmt: skip


def softmin() -> Iterator[Compilation]:
    """Of kernels/softmin.py."""
    for (kind, rows), launch in sm.TABLE.items():
        sizes = {"BLOCK_M": launch.block_m, "BLOCK_N": launch.block_n}
        if kind == "matrix":
            yield _one(f"softmin/matrix/{rows}", sm.softmin_matrix_kernel, kind, sizes, launch)
        for cost, one in VARIANTS.get(kind, ()):
            constants = {
                "COST": sm.COSTS[cost], "HAS_LABEL": True, "SAME": True, "ONE_BLOCK": one,
                "PRECISION": "ieee", "BLOCK_D": launch.block_d, **sizes,
            }  # fmt: skip
            yield _one(f"softmin/{kind}/{rows}/{cost}", sm.softmin_kernel, kind, constants, launch)


def transport() -> Iterator[Compilation]:
    """Of kernels/transport.py."""
    for (kind, rows), launch in tr.TABLE.items():
        for cost, one in VARIANTS[kind]:
            constants = {
                "COST": sm.COSTS[cost], "HAS_LABEL": True, "SAME": True, "GRADIENT": True,
                "ONE_BLOCK": one, "PRECISION": "ieee",
                "PLAN_PRECISION": "tf32x3" if kind == "half" else "ieee",
                "BLOCK_M": launch.block_m, "BLOCK_N": launch.block_n, "BLOCK_D": launch.block_d,
                "BLOCK_O": launch.block_o,
            }  # fmt: skip
            yield _one(
                f"transport/{kind}/{rows}/{cost}", tr.transport_kernel, kind, constants, launch
            )
