"""The compiled kernels. Arrays are C-contiguous, float32 or float64, all of one dtype."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[Any]
_Numbers = NDArray[np.float64]
_Labels = NDArray[np.int64]

def simd_level() -> str:
    """The vector instruction set in use; the environment variable UCMKD_SIMD lowers it."""

def simd_levels() -> list[str]:
    """The vector instruction sets of this machine, slowest first."""

def sinkhorn(
    x: _Floats,
    y: _Floats | None,
    a: _Floats | None,
    b: _Floats | None,
    x_label: _Labels | None,
    y_label: _Labels | None,
    f0: _Floats | None,
    g0: _Floats | None,
    epsilon: _Numbers,
    reach_x: _Numbers,
    reach_y: _Numbers,
    label_cost: _Numbers,
    cost: str,
    relative: bool,
    tol: float,
    max_iter: int,
    want_x: bool,
    want_y: bool,
    accelerate: bool,
    threads: int,
) -> tuple[
    _Numbers,
    _Floats,
    _Floats,
    NDArray[np.int64],
    _Numbers,
    NDArray[np.bool_],
    _Numbers,
    _Floats,
    _Floats,
    _Numbers,
    _Numbers,
    _Floats,
    _Floats,
]:
    """Sinkhorn between point clouds ``(B, n, d)`` and ``(B, m, d)`` (None: the self-term of x).

    Returns value, f, g, iterations, residual, converged, scale, row, column, transport, mismatch,
    grad_x, grad_y (shape ``(0,)`` where not wanted), as in ``ucmkd.reference.Solution``.
    """

def sinkhorn_cost(
    cost: _Floats,
    a: _Floats | None,
    b: _Floats | None,
    f0: _Floats | None,
    g0: _Floats | None,
    epsilon: _Numbers,
    reach_x: _Numbers,
    reach_y: _Numbers,
    tol: float,
    max_iter: int,
    want_plan: bool,
    accelerate: bool,
    threads: int,
) -> tuple[
    _Numbers,
    _Floats,
    _Floats,
    NDArray[np.int64],
    _Numbers,
    NDArray[np.bool_],
    _Numbers,
    _Floats,
    _Floats,
    _Numbers,
    _Floats,
]:
    """Sinkhorn for cost matrices ``(B, n, m)``; the last result is the plan (or shape ``(0,)``)."""

def mmd(
    x: _Floats,
    y: _Floats,
    a: _Floats | None,
    b: _Floats | None,
    bandwidth: _Numbers,
    scales: list[float],
    unbiased: bool,
    want_x: bool,
    want_y: bool,
    threads: int,
) -> tuple[
    _Numbers,
    _Floats,
    _Floats,
    _Floats,
    _Floats,
    _Numbers,
]:
    """Squared MMD ``(B,)`` of x ``(B, n, d)`` and y ``(B, m, d)``, and its gradients.

    Weights of None are uniform; the kernels of ``scales`` times ``bandwidth`` ``(B,)`` are
    averaged. After the values come the gradients with respect to x and y (of size 0 unless
    wanted), a, b and the bandwidths. Raises ValueError for shapes or dtypes that do not agree.
    """

def median_bandwidth(
    x: _Floats,
    y: _Floats,
    a: _Floats | None,
    b: _Floats | None,
    limit: int = 1024,
    threads: int = 1,
) -> _Numbers:
    """Root of the median pooled squared distance ``(B,)``; points of zero weight are left out."""
