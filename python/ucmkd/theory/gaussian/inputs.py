"""From what a user has, features, labels and a teacher's answers, to the arrays of the estimate."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def matrix(name: str, value: Any, *, vector: bool = False) -> Array:
    """A finite floating tensor or array ``(N, width)``; with ``vector`` also ``(N,)``."""
    if isinstance(value, Tensor):
        value = value.detach().to("cpu", torch.float64).numpy()
    elif not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a tensor or an array, got {type(value).__name__}")
    array = np.asarray(value, dtype=np.float64)
    if vector and array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or 0 in array.shape:
        shape = "(N,) or (N, q)" if vector else "(N, width)"
        raise ValueError(f"{name} must have shape {shape}, not empty, got {array.shape}")
    if not bool(np.isfinite(array).all()):
        raise ValueError(f"{name} must be finite, got NaN or infinite entries")
    return array


def target(labels: Any, outputs: int) -> Array:
    """Classes ``(N,)`` as one-hot rows ``(N, outputs)``; real ``(N,)``, ``(N, q)`` as they are.

    Raises:
        TypeError: Neither tensor nor array, or booleans.
        ValueError: One class only, a class outside the teacher's columns, or another width.
    """
    if not isinstance(labels, Tensor | np.ndarray):
        raise TypeError(f"labels must be a tensor or an array, got {type(labels).__name__}")
    found = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else labels
    if found.dtype.kind == "b":
        raise TypeError("labels must be integer classes or real targets, got booleans")
    if found.dtype.kind not in "iu":
        real = matrix("labels", labels, vector=True)
        if real.shape[1] != outputs:
            raise ValueError(
                f"labels must have the width of teacher_predictions, {outputs}, got {real.shape[1]}"
            )
        if not bool((real.max(axis=0) > real.min(axis=0)).any()):
            raise ValueError("labels must vary, got a constant")
        return real
    if found.ndim != 1 or not len(found):
        raise ValueError(f"labels must have shape (N,), not empty, got {found.shape}")
    low, high = int(found.min()), int(found.max())
    if low < 0 or high >= outputs:
        raise ValueError(
            f"labels must lie in 0..{outputs - 1}, the columns of teacher_predictions, got {low} "
            f"to {high}"
        )
    if low == high:
        raise ValueError(f"labels must hold at least two classes, got {low} only")
    return np.eye(outputs)[found]


#: Fourth moments above this many times a Gaussian's are heavy tails.
HEAVY = 2.0


def principal(features: Array, dims: int | None, most: int) -> Array:
    """The leading principal components ``(N, dims)``, whitened; constant columns are dropped.

    Of standardised columns, so that units do not matter; of the columns as they are where that
    gives heavy tails and this does not (rarely lit pixels, units that hardly ever fire).

    Args:
        features: ``(N, width)``.
        dims: How many; None: as many as there are, up to ``most``.
        most: See ``dims``.

    Raises:
        ValueError: Every column constant, or ``dims`` beyond the rank.
    """
    centred = features - features.mean(axis=0)
    size = centred.std(axis=0)
    varies = size > 1e-9 * np.abs(features).max(axis=0)
    if not bool(varies.any()):
        raise ValueError("student_features must vary, got constant columns only")
    centred, size = centred[:, varies], size[varies]
    found = _leading(centred / size, dims, most)
    if tail_weight(found) > HEAVY:
        plain = _leading(centred, dims, most)
        if plain.shape == found.shape and tail_weight(plain) <= HEAVY:
            return plain
    return found


def _leading(centred: Array, dims: int | None, most: int) -> Array:
    # By the smaller Gram matrix: thousands of columns are common, and only few directions wanted.
    wide = centred.shape[1] > len(centred)
    squares, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    squares, vectors = squares[::-1], vectors[:, ::-1]
    rank = int((squares > 1e-10 * squares[0]).sum())
    if dims is not None and dims > rank:
        raise ValueError(f"dims must be at most the rank of student_features, {rank}, got {dims}")
    keep = min(rank, most) if dims is None else dims
    left = vectors[:, :keep] if wide else centred @ vectors[:, :keep] / np.sqrt(squares[:keep])
    return left * np.sqrt(len(centred))


def tail_weight(components: Array) -> float:
    """``E‖x‖⁴ / (d(d+2))`` of whitened features ``(N, d)``: 1 for Gaussian ones (Mardia 1970)."""
    d = components.shape[1]
    return float(np.mean(np.sum(components**2, axis=1) ** 2)) / (d * (d + 2))
