"""Arrays that a scikit-learn estimator is given: checked, and turned into tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d
from torch import Tensor


def together(**arguments: object) -> None:
    """Refuse arguments of which only some are given."""
    if len({value is None for value in arguments.values()}) > 1:
        given = next(name for name, value in arguments.items() if value is not None)
        raise ValueError(f"{' and '.join(arguments)} come together, got only {given}")


def class_labels(name: str, y: Any) -> NDArray[Any]:
    """Labels ``(n,)`` of any kind that a classifier accepts."""
    labels = column_or_1d(y, warn=True)
    check_classification_targets(labels)
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise ValueError(f"{name} must not contain NaN or infinity")
    return np.asarray(labels)


def same_columns(
    name: str, given: ArrayLike | None, like: NDArray[np.float64], of: str = "X"
) -> NDArray[np.float64] | None:
    """A checked array with the columns of another, or None."""
    if given is None:
        return None
    array: NDArray[np.float64] = check_array(given, dtype=np.float64, input_name=name)
    if array.shape[1] != like.shape[1]:
        raise ValueError(
            f"{name} must have the {like.shape[1]} columns of {of}, got {array.shape[1]}"
        )
    return array


def moments(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of the columns; that of a constant one is taken as 1."""
    scale = x.std(axis=0)
    return x.mean(axis=0), np.where(scale > 1e-12 * np.abs(x).max(axis=0), scale, 1.0)


def tensor(array: NDArray[np.float64]) -> Tensor:
    """A float32 copy."""
    return torch.from_numpy(array.astype(np.float32))
