"""The GPUs that the kernels are compiled for, and how many programs fit on one of their cores.

Limits are those of the CUDA C++ Programming Guide (table of technical specifications per compute
capability) and of AMD's CDNA 3 instruction set guide. A core is a streaming multiprocessor of an
NVIDIA GPU or a compute unit of an AMD one.
"""

from __future__ import annotations

from typing import NamedTuple

#: Shared memory that the CUDA driver keeps of each resident block.
RESERVED = 1024


class Target(NamedTuple):
    """A kind of GPU.

    Attributes:
        name: ``"sm_90"`` or ``"gfx942"``.
        backend: ``"cuda"`` or ``"hip"``.
        arch: What Triton calls it.
        lanes: Threads of a warp.
        block_shared: Most bytes of shared memory of one program.
        core_shared: Bytes of shared memory of one core.
        warps: Most warps on one core.
        blocks: Most programs on one core.
    """

    name: str
    backend: str
    arch: int | str
    lanes: int
    block_shared: int
    core_shared: int
    warps: int
    blocks: int


TARGETS = {
    target.name: target
    for target in (
        Target("sm_80", "cuda", 80, 32, 163 << 10, 164 << 10, 64, 32),
        Target("sm_90", "cuda", 90, 32, 227 << 10, 228 << 10, 64, 32),
        Target("sm_100", "cuda", 100, 32, 227 << 10, 228 << 10, 64, 32),
        Target("gfx942", "hip", "gfx942", 64, 64 << 10, 64 << 10, 32, 16),
    )
}


def register_warps(target: Target, registers: int) -> int:
    """Warps of so many registers a thread that fit on one core.

    NVIDIA: 65,536 registers, given to warps in units of 256 and spread over four partitions.
    CDNA 3: 512 registers a lane in each of four SIMD units, in units of 8, at most 8 warps a unit.
    """
    registers = max(registers, 1)
    if target.backend == "hip":
        each = -(-registers // 8) * 8
        return 4 * min(8, 512 // each)
    each = -(-registers * target.lanes // 256) * 256
    return min(65536 // each // 4 * 4, target.warps)


def programs(target: Target, registers: int, shared: int, warps: int) -> int:
    """Programs of a launch that are resident on one core at a time; 0 if not even one fits."""
    if shared > target.block_shared:
        return 0
    kept = shared + (RESERVED if target.backend == "cuda" else 0)
    room = target.core_shared // kept if kept else target.blocks
    return min(register_warps(target, registers) // warps, room, target.blocks)


def occupancy(target: Target, registers: int, shared: int, warps: int) -> float:
    """Resident warps as a share of the most that the core can hold."""
    return programs(target, registers, shared, warps) * warps / target.warps
