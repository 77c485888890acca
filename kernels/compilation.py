"""What the kernels compile to, as data: each file of kernels lists its own specialisations."""

from __future__ import annotations

from typing import Any, NamedTuple


class Compilation(NamedTuple):
    """One specialisation of a kernel, to be compiled without a GPU."""

    name: str  # "whole/float/128", unique
    kernel: Any  # the @triton.jit function
    signature: dict[str, str]  # argument -> "*fp32", "*bf16", "*i64", "i32", "fp32"
    constants: dict[str, Any]  # constexpr arguments (and None pointers)
    warps: int
    stages: int
    tensor_cores: bool  # the inner loop must use MMA instructions
    exponentials: bool  # ex2.approx must appear
