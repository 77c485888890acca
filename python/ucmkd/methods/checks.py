"""Checks of a method's arguments: errors name the argument, what came and what is accepted.

They run when a method is made, so that a mistake costs nothing: not the training of a teacher,
and not a step. Wrong types are a ``TypeError``, values out of range a ``ValueError``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

COSTS = ("sqeuclidean", "euclidean", "cosine", "l1", "chordal")


def near_name(name: object, known: Iterable[str]) -> str:
    """``"; did you mean 'weight'?"`` where a known name is near, else ``""``."""
    match = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else ""


def number(
    name: str,
    value: Any,
    *,
    minimum: float = 0.0,
    strict: bool = False,
    below: float = math.inf,
) -> None:
    """A finite number, at least (``strict``: above) ``minimum`` and less than ``below``."""
    kind = "above" if strict else "of at least"
    accepted = f"a finite number {kind} {minimum:g}" + (
        f" and below {below:g}" if below < math.inf else ""
    )
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be {accepted}, got {value!r}")
    given = float(value)
    low = given > minimum if strict else given >= minimum  # False for NaN
    if not low or not given < below:
        raise ValueError(f"{name} must be {accepted}, got {value!r}")


def integer(name: str, value: Any, *, minimum: int = 0) -> None:
    """An integer of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer of at least {minimum}, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}")


def flag(name: str, value: Any) -> None:
    """True or False; not a text that would count as true."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be true or false, got {value!r}")


def choice(name: str, value: Any, accepted: Collection[str | None]) -> None:
    """One of a few words."""
    if not (value is None or isinstance(value, str)) or value not in accepted:
        words = ", ".join("None (null)" if word is None else repr(word) for word in accepted)
        near = near_name(value, [word for word in accepted if word is not None])
        raise ValueError(f"{name} must be one of {words}, got {value!r}{near}")


def solver(*, epsilon: Any, tol: Any, max_iter: Any) -> dict[str, Any]:
    """The options of an entropic plan, checked."""
    number("epsilon", epsilon, strict=True)
    number("tol", tol)
    integer("max_iter", max_iter, minimum=1)
    return {"epsilon": epsilon, "tol": tol, "max_iter": max_iter}


def alignment(
    *, cost: Any, epsilon: Any, epsilon_scale: Any, tol: Any, max_iter: Any
) -> dict[str, Any]:
    """The options of :func:`ucmkd.losses.feature_align`, checked."""
    choice("cost", cost, COSTS)
    choice("epsilon_scale", epsilon_scale, ("mean", None))
    plan = solver(epsilon=epsilon, tol=tol, max_iter=max_iter)
    return {"cost": cost, "epsilon_scale": epsilon_scale, **plan}


def logits(name: str, value: Any, num_classes: int) -> None:
    """Logits ``(n, C)``."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor (n, {num_classes}), got {type(value).__name__}")
    if value.ndim != 2 or value.shape[1] != num_classes:
        raise ValueError(
            f"{name} must have shape (n, {num_classes}), one column per class, "
            f"got {tuple(value.shape)}"
        )


def labels(name: str, value: Tensor, num_classes: int) -> None:
    """Classes ``(n,)``, int64; the values are looked at on the CPU only (no synchronisation)."""
    # Narrower integers fail in an index, and uint8 is a mask there.
    if value.ndim != 1 or value.dtype != torch.int64:
        raise ValueError(
            f"{name} must be integers (int64) of shape (n,), got {tuple(value.shape)} of "
            f"{value.dtype}"
        )
    if value.device.type != "cpu" or not len(value):
        return
    low, high = (int(v) for v in value.aminmax())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"{name} must lie in 0..{num_classes - 1}, got values from {low} to {high}"
        )


def rows(named: Mapping[str, Tensor | None]) -> None:
    """One number of rows for all that is given: row i of each is the same sample."""
    given = {name: value.shape[:1] for name, value in named.items() if value is not None}
    first = next(iter(given), "")
    for name, count in given.items():
        if count != given[first]:
            raise ValueError(
                f"{first} and {name} must have the same number of rows, got {_shown(given[first])} "
                f"and {_shown(count)}"
            )


def _shown(count: torch.Size) -> str:
    return str(count[0]) if count else "a number"


def width(name: str, value: Tensor, expected: int) -> None:
    """Features ``(n, expected)``."""
    if value.ndim != 2 or value.shape[1] != expected:
        raise ValueError(
            f"{name} must have shape (n, {expected}) (teacher_width is {expected}), "
            f"got {tuple(value.shape)}"
        )
