"""The two sides of a mutual information, checked and brought into one form."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array: TypeAlias = "NDArray[np.float64]"
Codes: TypeAlias = "NDArray[np.int64]"
Data: TypeAlias = "Tensor | NDArray[Any]"


class Variable(NamedTuple):
    """One side: a continuous (or mixed) vector or a discrete label.

    Attributes:
        values: ``(n, d)`` float64; for a discrete variable the class codes ``(n, 1)``.
        discrete: Whether only equality of values has a meaning.
    """

    values: Array
    discrete: bool

    @property
    def codes(self) -> Codes:
        """Class codes ``0 … C-1``, ``(n,)``, of a discrete variable."""
        return self.values[:, 0].astype(np.int64)

    @property
    def width(self) -> int:
        return int(self.values.shape[1])

    @property
    def columns(self) -> int:
        """Columns that a covariance has of it: of a discrete variable its classes less one."""
        return len(np.unique(self.values)) - 1 if self.discrete else self.width

    def rows(self, index: NDArray[np.intp]) -> Variable:
        """The samples ``index``; codes stay as they were."""
        return Variable(self.values[index], self.discrete)

    def __len__(self) -> int:
        return len(self.values)


def as_variable(data: Data, name: str) -> Variable:
    """Check one side and make it float64 on the CPU.

    Raises:
        TypeError: No tensor or array, or complex numbers.
        ValueError: A wrong shape, nothing in it, NaN or infinite values, or only one class.
    """
    if isinstance(data, Tensor):
        raw = data.detach().cpu()
        array = raw.double().numpy() if raw.is_floating_point() else raw.numpy()
    elif isinstance(data, np.ndarray):
        array = data
    else:
        raise TypeError(f"{name} must be a tensor or a numpy array, got {type(data).__name__}")
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers or integer classes, got {array.dtype}")
    if array.ndim not in (1, 2) or 0 in array.shape:
        raise ValueError(f"{name} must have shape (n,) or (n, d), not empty, got {array.shape}")
    if array.dtype.kind == "f":
        return Variable(_continuous(array, name), False)
    if array.ndim == 2 and array.shape[1] != 1:
        raise ValueError(
            f"{name} of integers must be one class per sample, (n,), got {array.shape}; "
            "turn measured counts into floating point"
        )
    classes, codes = np.unique(array.reshape(-1), return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"{name} must hold at least 2 classes, got only class {classes[0]}: "
            "a single class carries no information"
        )
    return Variable(codes.reshape(-1, 1).astype(np.float64), True)


def as_pair(x: Data, y: Data) -> tuple[Variable, Variable]:
    """Check both sides, and that row i of one belongs to row i of the other.

    Raises:
        TypeError: See :func:`as_variable`.
        ValueError: See :func:`as_variable`, or different numbers of samples.
    """
    first, second = as_variable(x, "x"), as_variable(y, "y")
    if len(first) != len(second):
        raise ValueError(
            f"x and y must hold the same samples in the same order, got {len(first)} and "
            f"{len(second)}: mutual information is not defined by unpaired samples"
        )
    return first, second


def drop_constant(variable: Variable, name: str) -> tuple[Variable, tuple[str, ...]]:
    """Leave out constant columns, which carry no information, and say so."""
    if variable.discrete:
        return variable, ()
    values = variable.values
    span = values.max(axis=0) - values.min(axis=0)
    varies = span > 1e-12 * np.abs(values).max(axis=0)
    missing = int((~varies).sum())
    if not missing:
        return variable, ()
    note = f"{name}: {missing} of {variable.width} columns are constant and were left out"
    return Variable(values[:, varies], False), (note,)


def one_hot(codes: Codes) -> Array:
    """Classes as indicator columns without the first, ``(n, C - 1)``."""
    return np.asarray(codes[:, None] == np.unique(codes)[1:], dtype=np.float64)


def entropy(codes: Codes) -> float:
    """Plug-in entropy of the class frequencies, in nats."""
    share = np.unique(codes, return_counts=True)[1] / len(codes)
    return float(-(share * np.log(share)).sum())


def _continuous(array: NDArray[Any], name: str) -> Array:
    values = np.asarray(array, dtype=np.float64).reshape(len(array), -1)
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise ValueError(
            f"{name} must be finite, got {bad} missing, NaN or infinite values of {values.size}"
        )
    return values


def to_tensor(values: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))
