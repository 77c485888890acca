"""What the Gaussian model accepts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def _number(name: str, value: Any, accepted: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{name} must be {accepted}, got {type(value).__name__}")
    return float(value)


def positive(name: str, value: Any) -> None:
    """A finite number above zero."""
    if not 0.0 < _number(name, value, "a positive number") < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}")


def not_negative(name: str, value: Any) -> None:
    """A finite number, zero or more."""
    if not 0.0 <= _number(name, value, "a number, zero or more") < math.inf:
        raise ValueError(f"{name} must be a number, zero or more, got {value!r}")


def share(name: str, value: Any) -> None:
    """A number in [0, 1]."""
    if not 0.0 <= _number(name, value, "a number in [0, 1]") <= 1.0:
        raise ValueError(f"{name} must be a number in [0, 1], got {value!r}")


def count(name: str, value: Any, least: int, *, accepted: str = "") -> None:
    """An integer that is at least ``least``; ``accepted`` says so in other words."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be {accepted or f'at least {least}'}, got {value}")


def confidence(value: Any) -> None:
    """A confidence in (0, 1)."""
    if not 0.0 < _number("confidence", value, "a number in (0, 1)") < 1.0:
        raise ValueError(f"confidence must lie in (0, 1), got {value!r}")


def covariance(value: Any, first: float, second: float) -> None:
    """A covariance of two variables of the given variances."""
    bound = math.sqrt(first * second)
    if not abs(_number("noise_covariance", value, "a number")) <= bound * (1 + 1e-9) + 1e-300:
        raise ValueError(
            f"noise_covariance must lie within ±√(noise · teacher_noise) = ±{bound:g}, got "
            f"{value!r}"
        )


def weights(student: ArrayLike, teacher: ArrayLike, sigma: ArrayLike | None) -> tuple[Array, ...]:
    """w* and v* as ``(d, q)`` and Σ as ``(d, d)``."""
    w = _finite("student", student)
    v = _finite("teacher", teacher)
    if w.ndim not in (1, 2) or 0 in w.shape:
        raise ValueError(f"student must have shape (d,) or (d, q), not empty, got {w.shape}")
    if v.shape != w.shape:
        raise ValueError(f"teacher must have the shape of student, {w.shape}, got {v.shape}")
    d = len(w)
    matrix = np.eye(d) if sigma is None else _finite("covariance", sigma)
    if matrix.shape != (d, d):
        raise ValueError(f"covariance must have shape ({d}, {d}), got {matrix.shape}")
    if not np.allclose(matrix, matrix.T, rtol=1e-6, atol=1e-12):
        raise ValueError("covariance must be symmetric")
    least = float(np.linalg.eigvalsh(matrix)[0])
    if least < -1e-9 * float(np.abs(matrix).max()):
        raise ValueError(f"covariance must be positive semi-definite, got the eigenvalue {least:g}")
    return w.reshape(d, -1), v.reshape(d, -1), matrix


def _finite(name: str, value: ArrayLike) -> Array:
    array = np.asarray(value, dtype=np.float64)
    if not bool(np.isfinite(array).all()):
        raise ValueError(f"{name} must be finite, got NaN or infinite entries")
    return array


def correlations(first: float, second: float, between: float) -> tuple[float, float, float]:
    """ρ₁, ρ₂, ρ₁₂ of three variables that exist together."""
    names = ("teacher_label", "student_label", "teacher_student")
    values = tuple(
        _number(name, value, "a correlation in [-1, 1]")
        for name, value in zip(names, (first, second, between), strict=True)
    )
    for name, value in zip(names, values, strict=True):
        if not -1.0 <= value <= 1.0:
            raise ValueError(f"{name} must be a correlation in [-1, 1], got {value!r}")
    r1, r2, r12 = values
    if abs(r2) == 1.0:
        raise ValueError("student_label must lie inside (-1, 1): at ±1 nothing is left to learn")
    if determinant(r1, r2, r12) < -1e-12:
        raise ValueError(
            f"no three variables have the correlations teacher_label={r1:g}, student_label={r2:g}, "
            f"teacher_student={r12:g}: their correlation matrix has a negative determinant"
        )
    return r1, r2, r12


def determinant(first: float, second: float, between: float) -> float:
    """Of the correlation matrix of three variables; negative where there are none."""
    return 1.0 - first**2 - second**2 - between**2 + 2.0 * first * second * between
