"""Checks of arguments: every error names the argument, what came, and what is accepted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ucmkd import _backend
from ucmkd.ops import _deferred
from ucmkd.ops._plain import mapped, plain

Number = float | int | Tensor
Reach = Number | None | tuple[Number | None, Number | None]


def points(value: Tensor, name: str) -> Tensor:
    """Points ``(n, d)`` or ``(B, n, d)``, floating, not empty."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(
            f"{name} must be floating (float16, bfloat16, float32 or float64); got {value.dtype}"
        )
    dense(value, name)
    if value.dim() not in (2, 3):
        raise ValueError(f"{name} must have shape (n, d) or (B, n, d); got {tuple(value.shape)}")
    if 0 in value.shape:
        raise ValueError(f"{name} must not be empty; got shape {tuple(value.shape)}")
    return value


def dense(value: Tensor, name: str) -> None:
    """No sparse tensor; raises what an earlier check on a GPU has found since."""
    _deferred.poll()
    if value.layout != torch.strided:
        raise TypeError(f"{name} must be dense; got a tensor of layout {value.layout}")


def pair(x: Tensor, y: Tensor, x_name: str, y_name: str) -> None:
    """Two clouds in one space: same rank, batch, width and device."""
    points(x, x_name)
    points(y, y_name)
    if x.dim() != y.dim():
        raise ValueError(
            f"{x_name} and {y_name} must both be (n, d) or both (B, n, d); "
            f"got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(
            f"{x_name} and {y_name} must have the same width; got {x.shape[-1]} and "
            f"{y.shape[-1]} (map one to the other's width with a learned projector)"
        )
    if x.dim() == 3 and x.shape[0] != y.shape[0]:
        raise ValueError(
            f"{x_name} and {y_name} must have the same batch size; "
            f"got {x.shape[0]} and {y.shape[0]}"
        )
    same_device(x, y, x_name, y_name)


def same_device(x: Tensor, y: Tensor, x_name: str, y_name: str) -> None:
    """Both tensors lie on one device, which holds data."""
    if x.device != y.device:
        raise ValueError(
            f"{x_name} and {y_name} must be on one device; got {x.device} and {y.device}"
        )
    if y.device.type == "meta":
        raise ValueError(f"{y_name} must hold data; got a tensor on the meta device")


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if any input is float64, else float32."""
    for tensor in tensors:
        if tensor.dtype is torch.float64:
            return torch.float64
    return torch.float32


def holds(good: Tensor, message: str, got: Callable[[], object]) -> None:
    """Raises ValueError unless all of ``good``; on a GPU a later call does, without what it got.

    ``got`` is only called for the error. Under ``vmap`` nothing can be checked.
    """
    if mapped():
        return
    if good.device.type == "cuda":
        _deferred.later(good.all(), message)
    elif not bool(good.all()):
        raise ValueError(f"{message}; got {got()}")


_NUMPY = (torch.float32, torch.float64)


def finite(
    value: Tensor, name: str, *, single: bool = False, array: NDArray[Any] | None = None
) -> None:
    """No NaN, no infinity, and no overflow of the squares.

    ``single`` hides the batch index; ``array`` is the same memory, where it is at hand. Not
    checked under ``vmap``.
    """
    if mapped():
        return
    dtype = compute_dtype(value)
    if value.device.type == "cuda":
        norm = torch.linalg.vector_norm(value.detach(), dtype=dtype)
        _deferred.later(
            torch.isfinite(norm),
            f"{name} must be finite, and small enough for squared distances in {value.dtype}; got "
            "NaN, infinite or huge entries (check_finite=False skips this test)",
        )
        return
    # One cheap pass: the norm is finite iff every entry is and the squares do not overflow.
    if array is None and value.device.type == "cpu" and value.dtype in _NUMPY and plain(value):
        array = value.detach().resolve_neg().numpy()
    if isinstance(array, np.ndarray) and array.flags.c_contiguous and _backend.has_rust():
        good = _backend.rust().is_finite(array)
    else:
        good = math.isfinite(torch.linalg.vector_norm(value.detach(), dtype=dtype).item())
    if good:
        return
    value = value.detach().to(dtype)
    bad = ~torch.isfinite(value)
    count = int(bad.sum())
    if not count:
        raise ValueError(
            f"{name} must be small enough for squared distances in {value.dtype}; got entries up "
            f"to {float(value.abs().max()):.3g} (scale the features)"
        )
    first = tuple(int(i) for i in bad.nonzero()[0])[1 if single else 0 :]
    raise ValueError(
        f"{name} must be finite; got {count} NaN or infinite entries, the first at "
        f"index {first} (check_finite=False skips this test)"
    )


#: Smallest normal and largest number of the types that the losses compute in.
_RANGE = {
    dtype: (torch.finfo(dtype).tiny, torch.finfo(dtype).max)
    for dtype in (torch.float32, torch.float64)
}


def weight(
    value: Tensor | None,
    shape: tuple[int, int],
    name: str,
    like: Tensor,
    dtype: torch.dtype | None = None,
) -> Tensor | None:
    """Masses ``(B, n)``, non-negative, not all zero; ``(n,)`` is accepted for a single problem.

    ``dtype`` is the type of the computation, by default that of ``like``.
    """
    if value is None:
        return None
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor or None; got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(f"{name} must be floating; got {value.dtype}")
    dense(value, name)
    same_device(like, value, "the points", name)
    given = tuple(value.shape)
    if value.dim() == 1 and value.shape[0] == shape[1]:
        value = value.unsqueeze(0).expand(shape)
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} must have shape ({shape[1]},) or {shape}; got {given}")
    if torch.compiler.is_compiling():
        return value
    data = value.detach()
    holds(
        data >= 0, f"{name} must be non-negative and not NaN", lambda: f"{float(data.min())} in it"
    )
    dtype = compute_dtype(like) if dtype is None else dtype
    mass = data.to(dtype).sum(-1)
    low, high = _RANGE[dtype]
    holds(
        (mass >= low) & (mass <= high), f"{name} must have a positive finite sum in {dtype}",
        lambda: data.double().sum(-1).tolist(),
    )  # fmt: skip
    return value


def label(value: Tensor | None, shape: tuple[int, int], name: str, like: Tensor) -> Tensor | None:
    """Integer labels ``(B, n)``; ``(n,)`` is accepted for a single problem."""
    if value is None:
        return None
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor or None; got {type(value).__name__}")
    if value.is_floating_point() or value.is_complex():
        raise TypeError(f"{name} must be an integer tensor; got {value.dtype}")
    dense(value, name)
    same_device(like, value, "the points", name)
    given = tuple(value.shape)
    if value.dim() == 1 and value.shape[0] == shape[1]:
        value = value.unsqueeze(0).expand(shape)
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} must have shape ({shape[1]},) or {shape}; got {given}")
    return value.to(torch.int64).contiguous()


def potential(
    value: Tensor | None, shape: tuple[int, int], name: str, like: Tensor, dtype: torch.dtype
) -> Tensor | None:
    """A warm start ``(B, n)`` or ``(n,)``."""
    if value is None:
        return None
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(f"{name} must be a floating torch.Tensor or None; got {type(value)}")
    dense(value, name)
    same_device(like, value, "the points", name)
    given = tuple(value.shape)
    if value.dim() == 1 and value.shape[0] == shape[1]:
        value = value.unsqueeze(0).expand(shape)
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} must have shape ({shape[1]},) or {shape}; got {given}")
    return value.detach().to(dtype).contiguous()


def _accepted(minimum: float, strict: bool, dtype: torch.dtype) -> str:
    return f"must be {'>' if strict else '>='} {minimum:g} and finite in {dtype}"


def number(
    value: Number,
    name: str,
    like: Tensor,
    batch: int,
    *,
    minimum: float,
    strict: bool,
    dtype: torch.dtype | None = None,
) -> Number:
    """A number, or a 0-d or ``(B,)`` floating tensor, checked against a minimum.

    It must stay finite, and positive if ``strict``, in ``dtype``, the type of the computation (by
    default that of ``like``).
    """
    dtype = compute_dtype(like) if dtype is None else dtype
    low, high = _RANGE[dtype]
    low = max(low, minimum) if strict else minimum
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            raise TypeError(f"{name} must be a number or a floating tensor; got {value.dtype}")
        if value.dim() > 1 or (value.dim() == 1 and value.shape[0] not in (1, batch)):
            raise ValueError(
                f"{name} must be a number, a 0-d tensor or of shape ({batch},); "
                f"got shape {tuple(value.shape)}"
            )
        same_device(like, value, "the points", name)
        if not torch.compiler.is_compiling():
            data = value.detach()
            data = data.double() if dtype == torch.float32 else data
            good = (data > minimum if strict else data >= minimum) & (data >= low) & (data <= high)
            holds(good, f"{name} {_accepted(minimum, strict, dtype)}", data.tolist)
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number or a floating tensor; got {type(value).__name__}")
    if not (value > minimum if strict else value >= minimum) or not low <= value <= high:
        raise ValueError(f"{name} {_accepted(minimum, strict, dtype)}; got {value}")
    return float(value)


def label_cost(
    value: Number,
    x_label: Tensor | None,
    y_label: Tensor | None,
    like: Tensor,
    batch: int,
    names: tuple[str, str],
    dtype: torch.dtype | None = None,
) -> tuple[Number, Tensor | None]:
    """λ and the class distances: a number with None, or 1 with a matrix ``(K, L)``."""
    matrix = isinstance(value, Tensor) and value.dim() == 2
    if not matrix:
        value = number(value, "label_cost", like, batch, minimum=0.0, strict=False, dtype=dtype)
    if x_label is None and not (isinstance(value, (int, float)) and value == 0):
        shown = f"matrix {tuple(value.shape)}" if isinstance(value, Tensor) else value
        raise ValueError(
            f"label_cost={shown} needs {names[0]}_label and {names[1]}_label; got neither"
        )
    if not isinstance(value, Tensor) or not matrix:
        return value, None
    if not value.is_floating_point():
        raise TypeError(f"label_cost must be a number or a floating tensor; got {value.dtype}")
    same_device(like, value, "the points", "label_cost")
    if torch.compiler.is_compiling():
        return 1.0, value
    holds(
        torch.isfinite(value.detach()), "label_cost must be finite",
        lambda: "NaN or infinite class distances",
    )  # fmt: skip
    for label, name, classes in zip((x_label, y_label), names, value.shape, strict=True):
        assert label is not None
        inside = (label >= 0) & (label < classes)
        message = (
            f"{name}_label must lie in 0..{classes - 1} to index label_cost of shape "
            f"{tuple(value.shape)}"
        )
        holds(inside, message, lambda label=label, inside=inside: int(label[~inside][0]))  # type: ignore[misc]
    return 1.0, value


def symmetric(distance: Tensor, name: str) -> None:
    """Class distances that a self-term can have: one set of classes, the same either way."""
    if distance.shape[0] != distance.shape[1]:
        raise ValueError(
            f"{name} must be square with debias=True, where each side is compared with itself; "
            f"got shape {tuple(distance.shape)} (debias=False takes any)"
        )
    if torch.compiler.is_compiling():
        return
    gap = (distance - distance.T).detach().abs()
    holds(
        gap == 0,
        f"{name} must be symmetric with debias=True, where each side is compared with itself "
        "(debias=False takes any)",
        lambda: f"entries that differ by up to {float(gap.max()):.3g}",
    )


def reaches(
    value: Reach, like: Tensor, batch: int, dtype: torch.dtype | None = None
) -> tuple[Number, Number]:
    """``reach`` as a pair, infinity where strict."""
    if isinstance(value, tuple) and len(value) != 2:
        raise ValueError(f"reach must be None, a number or a pair; got {len(value)} entries")
    if isinstance(value, list):
        raise TypeError("reach must be None, a number or a tuple of two; got a list")
    first, second = value if isinstance(value, tuple) else (value, value)

    def side(reach: Number | None) -> Number:
        if reach is None:
            return float("inf")
        return number(reach, "reach", like, batch, minimum=0.0, strict=True, dtype=dtype)

    return side(first), side(second)


def equal_mass(reach: Reach, a: Tensor | None, b: Tensor | None, a_name: str, b_name: str) -> None:
    """With two strict marginals the masses must agree."""
    strict = reach is None or (isinstance(reach, tuple) and reach[0] is None and reach[1] is None)
    if not strict or (a is None and b is None) or torch.compiler.is_compiling():
        return
    first = 1.0 if a is None else a.detach().double().sum(-1)
    second = 1.0 if b is None else b.detach().double().sum(-1)
    gap = torch.as_tensor(first - second).abs()

    def show(mass: Tensor | float) -> object:
        return mass.tolist() if isinstance(mass, Tensor) else mass

    holds(
        ~(gap > 1e-4 * torch.as_tensor(first, device=gap.device)),
        f"{a_name} and {b_name} must have the same mass when reach is None (no weights means mass "
        "1): normalise them, or give a reach",
        lambda: f"sums {show(first)} and {show(second)}",
    )


def stopping(tol: float, max_iter: int) -> None:
    """The solver's stopping rule."""
    if isinstance(tol, bool) or not isinstance(tol, Real) or not tol >= 0:
        raise ValueError(f"tol must be a number >= 0; got {tol!r}")
    if isinstance(max_iter, bool) or not isinstance(max_iter, Integral) or max_iter < 1:
        raise ValueError(f"max_iter must be an integer >= 1; got {max_iter!r}")
    if max_iter >= 2**31:  # the kernels count in 32 bits
        raise ValueError(f"max_iter must be below 2**31; got {max_iter}")


def flag(value: bool, name: str) -> None:
    """True or False; not a text that would count as true."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False; got {value!r}")


def one_of(value: str, choices: Sequence[str], name: str) -> None:
    """A word from a list."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
