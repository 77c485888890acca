"""Which implementation runs an operator: ``triton``, ``rust`` or ``torch``."""

from __future__ import annotations

import os
import warnings
from types import ModuleType
from typing import NamedTuple

import torch

BACKENDS = ("triton", "rust", "torch")

_rust: ModuleType | None
try:
    from ucmkd import _rust as _rust_extension

    _rust, _rust_reason = _rust_extension, ""
except ImportError as error:  # a source tree without the compiled extension
    _rust, _rust_reason = None, f"the compiled extension ucmkd._rust cannot be imported: {error}"


def setting(name: str) -> str | None:
    """An environment variable, asked for at every call of an operator."""
    if _rust is None or torch.compiler.is_compiling():
        return os.environ.get(name)
    return _rust.environment(name)


class BackendStatus(NamedTuple):
    """What :func:`backends` says of one backend."""

    available: bool
    detail: str


def has_rust() -> bool:
    """Whether the compiled extension is there."""
    return _rust is not None


def rust() -> ModuleType:
    """Returns the compiled extension; only called after :func:`choose` has picked it."""
    if _rust is None:
        raise RuntimeError(_rust_reason)
    return _rust


def backends() -> dict[str, BackendStatus]:
    """Says which backends work here and why the others do not.

    Returns:
        A dictionary from ``"triton"``, ``"rust"`` and ``"torch"`` to
        ``BackendStatus(available, detail)``. ``detail`` names the device or SIMD level of an
        available backend, and the reason for a missing one.
    """
    from ucmkd.ops import _triton

    ok, detail = _triton.available()
    if _rust is None:
        rust_status = BackendStatus(False, _rust_reason)
    else:
        rust_status = BackendStatus(True, f"CPU, SIMD level {_rust.simd_level()}")
    return {
        "triton": BackendStatus(ok, detail),
        "rust": rust_status,
        "torch": BackendStatus(True, "any device, plain PyTorch (the reference)"),
    }


def _why_not(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """The reason why a backend cannot take this input, or ''."""
    if name == "rust":
        if device.type != "cpu":
            return f"it runs on the CPU, and the input is on {device}"
        return _rust_reason
    if name == "triton":
        if dtype == torch.float64:
            return "its kernels compute in float32, and the input is float64"
        from ucmkd.ops import _triton

        ok, detail = _triton.available()
        if not ok:
            return detail
        if device.type == "cpu" and not _triton.interpreted():
            return "the input is on the CPU, and TRITON_INTERPRET=1 is not set"
        if device.type not in ("cpu", "cuda"):
            return f"the input is on {device}"
    return ""


#: Bytes that the n × m matrices of one problem may take on the CPU; above, they are streamed.
CACHE_BUDGET = 512 << 20


def cache_budget() -> int:
    """The environment variable ``UCMKD_CACHE_MB`` in bytes, or :data:`CACHE_BUDGET`."""
    text = setting("UCMKD_CACHE_MB")
    if text is None:
        return CACHE_BUDGET
    try:
        megabytes = float(text)
    except ValueError:
        megabytes = -1.0
    if not 0 <= megabytes < 1e12:
        raise ValueError(f"UCMKD_CACHE_MB must be a number of megabytes >= 0; got {text!r}")
    return int(megabytes * (1 << 20))


_told: set[str] = set()


def _tell_once(key: str, message: str) -> None:
    if key not in _told and not torch.compiler.is_compiling():
        _told.add(key)
        warnings.warn(f"ucmkd: {message}", stacklevel=4)


def choose(
    backend: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    supported: tuple[str, ...] = BACKENDS,
) -> str:
    """Chooses the implementation for one call.

    ``"auto"`` takes Triton on a GPU, Rust on the CPU, and plain PyTorch otherwise (float64 on a
    GPU; where Triton is missing there, a warning says once why). The environment variable
    ``UCMKD_BACKEND`` replaces ``"auto"``.

    Args:
        backend: ``"auto"`` or one of :data:`BACKENDS`.
        device: Where the input lies.
        dtype: In which type it is computed.
        supported: The backends that the operator has.

    Raises:
        ValueError: The name is unknown, or that backend was named in the call and cannot run.
    """
    if backend not in ("auto", *BACKENDS):
        raise ValueError(
            f"backend must be 'auto', {', '.join(map(repr, BACKENDS))}; got {backend!r}"
        )
    if backend != "auto":
        reason = _why_not(backend, device, dtype)
        if backend not in supported:
            reason = f"this operator has {', '.join(supported)} only"
        if reason:
            raise ValueError(f"backend={backend!r} cannot run here: {reason}")
        return backend
    wanted = setting("UCMKD_BACKEND")
    wanted = "auto" if wanted is None else wanted
    if wanted not in ("auto", *BACKENDS):
        raise ValueError(
            f"UCMKD_BACKEND must be 'auto', {', '.join(map(repr, BACKENDS))}; got {wanted!r}"
        )
    if wanted != "auto":
        if wanted in supported and not (reason := _why_not(wanted, device, dtype)):
            return wanted
        reason = "" if wanted not in supported else _why_not(wanted, device, dtype)
        reason = reason or f"this operator has {', '.join(supported)} only"
        key = f"{wanted}/{device.type}/{dtype}/{supported}"
        _tell_once(key, f"UCMKD_BACKEND={wanted} is not used: {reason}")
    if device.type == "cpu":
        return "rust" if _rust is not None and "rust" in supported else "torch"
    if "triton" in supported and dtype != torch.float64:
        reason = _why_not("triton", device, dtype)
        if not reason:
            return "triton"
        _tell_once(
            f"triton/{device.type}", f"plain PyTorch computes on {device.type}, slower: {reason}"
        )
    return "torch"


def chooses_rust(backend: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether :func:`choose` takes Rust for an input on the CPU; quick where nothing is set.

    A backend that is named is not checked here.
    """
    if _rust is None:
        return False
    if backend == "rust" or (backend == "auto" and setting("UCMKD_BACKEND") is None):
        return True
    return choose(backend, device, dtype) == "rust"
