"""Reads machine code: registers, spills, matrix instructions and exponentials."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

#: Tensor-core instructions of Ampere (HMMA), Hopper (HGMMA), Blackwell (UTCHMMA) and relatives.
#: HFMA2.MMA is none, whatever its name says.
_NVIDIA_MMA = re.compile(r"[HIDQBO]G?MMA$|UTC[A-Z]*MMA$")
_SASS = re.compile(r"^\s*/\*([0-9a-f]+)\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);", re.M)
_GCN = re.compile(r"^\t([a-z]\w*)(.*)$|^(\.L\w+):", re.M)


class Code(NamedTuple):
    """What was counted in one kernel, instruction by instruction of its text.

    Attributes:
        registers: Per thread.
        spill_bytes: Bytes that one thread's spill stores and loads move, each counted once.
        mma: Matrix instructions.
        mma_in_loops: Those between the target and the place of a backward branch.
        exponentials: Base-2 exponentials.
        instructions: All instructions.
    """

    registers: int
    spill_bytes: int
    mma: int
    mma_in_loops: int
    exponentials: int
    instructions: int


def _inside(places: Iterable[int], loops: list[tuple[int, int]]) -> int:
    return sum(any(first <= place <= last for first, last in loops) for place in places)


def _width(opcode: str) -> int:
    """Bytes of a local load or store: ``STL.64`` moves 8."""
    sizes = [part for part in opcode.split(".") if part in ("U8", "S8", "U16", "S16", "64", "128")]
    bits = int(sizes[0].lstrip("US")) if sizes else 32
    return bits // 8


def sass(text: str, usage: str) -> Code:
    """Counts in the output of ``cuobjdump --dump-sass`` and ``--dump-resource-usage``."""
    found = re.search(r"REG:(\d+)", usage)
    if found is None:
        raise ValueError(f"no register count in: {usage!r}")
    mma, loops, spilled, exponentials, count = [], [], 0, 0, 0
    for match in _SASS.finditer(text):
        place, opcode, operands = int(match[1], 16), match[2], match[3]
        base = opcode.split(".")[0]
        count += 1
        if _NVIDIA_MMA.fullmatch(base):
            mma.append(place)
        elif opcode.startswith("MUFU.EX2"):
            exponentials += 1
        elif base in ("STL", "LDL"):
            spilled += _width(opcode)
        elif base == "BRA":
            goal = re.search(r"0x([0-9a-f]+)", operands)
            if goal and int(goal[1], 16) < place:
                loops.append((int(goal[1], 16), place))
    return Code(int(found[1]), spilled, len(mma), _inside(mma, loops), exponentials, count)


def gcn(text: str) -> Code:
    """Counts in AMD's assembly with its metadata, as the compiler writes it."""

    def number(name: str) -> int:
        found = re.search(rf"\.{name}:\s*(\d+)", text)
        if found is None:
            raise ValueError(f"no {name} in the assembly")
        return int(found[1])

    labels: dict[str, int] = {}
    mma, loops, exponentials, count = [], [], 0, 0
    for match in _GCN.finditer(text):
        place, opcode, label = match.start(), match[1], match[3]
        if label:
            labels[label] = place
            continue
        count += 1
        if opcode.startswith(("v_mfma_", "v_smfma")):
            mma.append(place)
        elif opcode.startswith("v_exp_f"):
            exponentials += 1
        elif opcode.startswith(("s_cbranch", "s_branch")):
            goal = match[2].split()[0]
            if goal in labels:
                loops.append((labels[goal], place))
    # .vgpr_count includes the accumulation registers; scalar spills go to registers, not memory.
    return Code(
        number("vgpr_count"),
        4 * number("vgpr_spill_count"),
        len(mma),
        _inside(mma, loops),
        exponentials,
        count,
    )
