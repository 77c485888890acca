"""What a call adds to the resident memory of its process at the most. Linux only.

The peak of the resident set, not a count of tensors: with it comes what the allocator, the products
of matrices and the exchange between processes take, which is what a machine must have.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _bytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return 1024 * int(value.split()[0])
    raise RuntimeError(f"no {field} in {_STATUS}")


def available() -> bool:
    """Whether this system tells the peak and lets a process set it back."""
    try:
        _RESET.write_text("5")
        return _bytes("VmHWM") > 0
    except (OSError, RuntimeError):
        return False


def peak_growth(call: Callable[[], object]) -> int:
    """Bytes between the resident memory before ``call`` and its peak during it.

    Call it in a process of its own, after a small call of the same kind has loaded what is loaded
    once. Memory that was freed before is given back to the system first, where the C library can:
    what is taken from it again would not be seen.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    _RESET.write_text("5")
    before = _bytes("VmRSS")
    call()
    return _bytes("VmHWM") - before
