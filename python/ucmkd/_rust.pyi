"""The compiled kernels. Arrays are C-contiguous, float32 or float64, all of one dtype."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[Any]
_Numbers = NDArray[np.float64]
_Labels = NDArray[np.int64]

def environment(name: str) -> str | None:
    """An environment variable; ``os.environ`` takes longer to say that one is not set."""

def simd_level() -> str:
    """The vector instruction set in use; the environment variable UCMKD_SIMD lowers it."""

def simd_levels() -> list[str]:
    """The vector instruction sets of this machine, slowest first."""

def is_finite(x: _Floats) -> bool:
    """Whether the sum of squares is finite: no NaN, no infinity, no overflow of the squares."""

def equal(x: _Floats, y: _Floats) -> bool:
    """Whether two arrays of one dtype and shape are equal entry by entry; NaN equals nothing."""

def distance(x: _Floats, y: _Floats) -> float:
    """The Euclidean distance of two arrays of one dtype and shape."""

def scaled(x: _Floats, factor: _Floats | float) -> _Floats:
    """``factor`` times ``x``: one number, or one for each ``x[k]``."""

def sinkhorn(
    x: _Floats,
    y: _Floats | None,
    a: _Floats | None,
    b: _Floats | None,
    x_label: _Labels | None,
    y_label: _Labels | None,
    distance: _Floats | None,
    f0: _Floats | None,
    g0: _Floats | None,
    parameters: _Numbers,
    cost: str,
    relative: bool,
    tol: float,
    max_iter: int,
    want_x: bool,
    want_y: bool,
    want_distance: bool,
    accelerate: bool,
    budget: int,
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
    _Floats,
]:
    """Sinkhorn between point clouds ``(B, n, d)`` and ``(B, m, d)`` (None: the self-term of x).

    With ``distance`` D of shape (K, L) the cost of a pair is c(x_i, y_j) + label_cost D[k_i, l_j],
    and the labels are its indices; without it D is 1 where the labels differ. ``budget`` is the
    number of bytes that (n, m) matrices may take; beyond it they are computed anew in every
    iteration, in a workspace of about 8 MiB (16 MiB for float64) for each thread.

    Returns value, f, g, iterations, residual, converged, scale, row, column, transport, mismatch
    (sum P D), grad_x, grad_y, and the plan's mass between the classes ``(B, K, L)`` (shape
    ``(0,)`` where not wanted), as in ``ucmkd.reference.Solution``. Ctrl-C ends it.
    """

class Solved:
    """What :func:`divergence` found; the solutions of the terms become arrays when asked for."""

    value: _Floats
    scale: _Numbers
    def gradient(self, side: int) -> _Floats | None:
        """That to x (0) or y (1); None where it was not wanted."""

    def gradient_times(self, side: int, factor: float) -> _Floats:
        """That gradient times a number, in memory of its own."""

    def less_half(self, other: _Numbers) -> _Floats:
        """``value - other / 2``, subtracted before it is rounded."""

    def report(
        self,
    ) -> tuple[_Floats, _Floats, NDArray[np.int64], _Floats, NDArray[np.bool_]]:
        """Potentials, iterations, residual and convergence of the cross term."""

    def term(self, k: int) -> tuple[Any, ...]:
        """Term 0 (cross), 1 (of x) or 2 (of y) as :func:`sinkhorn` returns it, less gradients."""

def divergence(
    x: _Floats,
    y: _Floats,
    a: _Floats | None,
    b: _Floats | None,
    x_label: _Labels | None,
    y_label: _Labels | None,
    distance: _Floats | None,
    g0: _Floats | None,
    own_x_start: _Floats | None,
    own_y_start: _Floats | None,
    parameters: _Numbers,
    cost: str,
    relative: bool,
    tol: float,
    max_iter: int,
    want_x: bool,
    want_y: bool,
    want_distance: bool,
    accelerate: bool,
    own_x: bool,
    own_y: bool,
    check_finite: bool,
    budget: int,
    threads: int,
) -> Solved | None:
    """OT(x, y) less half of OT(x, x) (``own_x``) and of OT(y, y) (``own_y``), with gradients.

    ``parameters (4, B)`` holds epsilon, the reaches and the label cost. Points are ``(B, n, d)``,
    or ``(n, d)`` for a single problem: then the value is 0-d and the gradients are ``(n, d)``.
    None: ``check_finite`` found points that are not.
    """

def softmin(
    x: _Floats,
    y: _Floats,
    f: _Floats,
    a: _Floats | None,
    x_label: _Labels | None,
    y_label: _Labels | None,
    distance: _Floats | None,
    epsilon: _Numbers,
    label_cost: _Numbers,
    cost: str,
    threads: int,
) -> _Floats:
    """The y-potential -eps log sum_i a_i exp((f_i - C_ij) / eps), shape ``(B, m)``, in strips."""

def plan_apply(
    x: _Floats,
    y: _Floats | None,
    a: _Floats | None,
    b: _Floats | None,
    x_label: _Labels | None,
    y_label: _Labels | None,
    distance: _Floats | None,
    f: _Floats | None,
    g: _Floats,
    epsilon: _Numbers,
    label_cost: _Numbers,
    cost: str,
    values: _Floats,
    threads: int,
) -> _Floats:
    """sum_j P_ij values_j with P_ij = a_i b_j exp((f_i + g_j - C_ij) / eps), shape ``(B, n, k)``.

    ``values`` has the shape ``(B, m, k)``; nothing of size n times m is held. Without ``f`` the
    rows of the plan are normalised, whatever their masses: sum_j P_ij values_j / sum_j P_ij.
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
