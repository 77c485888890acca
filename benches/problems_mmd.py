"""Squared MMD with several kernels, in float64 NumPy and independent of the package."""

from __future__ import annotations

import functools

import numpy as np

from benches.problems import Array, Solution, features, square_distances

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)


class Discrepancy:
    r"""Squared MMD (V-statistic) of two clouds, in float64.

    The kernels, averaged over the scales: Gaussian :math:`e^{-d^2/2(s\sigma)^2}`, Laplace
    :math:`e^{-d/(s\sigma)}`, energy :math:`-d` (which has no scale).

    Attributes:
        x: Student ``(n, d)``, float32.
        y: Teacher ``(n, d)``, float32.
        kernel: ``"gaussian"``, ``"laplace"`` or ``"energy"``.
        sigma: Root of the mean pooled squared distance: the same number for everybody.
        scales: Factors of sigma whose kernels are averaged.
    """

    def __init__(self, n: int, scales: tuple[float, ...], kernel: str = "gaussian") -> None:
        self.n, self.scales, self.kernel = n, scales, kernel
        self.x, self.y = features(n)
        x, y = self.x.astype(np.float64), self.y.astype(np.float64)
        self.sigma = float(np.sqrt(square_distances(x, y).mean()))
        within, slope_within = self._kernel(x, x)
        across, slope_across = self._kernel(x, y)
        value = within.mean() + self._kernel(y, y)[0].mean() - 2 * across.mean()

        def pull(slope: Array, towards: Array) -> Array:
            return slope.sum(1, keepdims=True) * x - slope @ towards

        gradient = -2 / n**2 * (pull(slope_within, x) - pull(slope_across, y))
        self.solution = Solution(float(value), gradient)

    def _kernel(self, x: Array, y: Array) -> tuple[Array, Array]:
        """The averaged kernel and the weights ``w`` of :math:`w_{ij}(x_i-y_j)`."""
        square = square_distances(x, y)
        if x is y:
            np.fill_diagonal(square, 0.0)  # not the root of a rounding error
        if self.kernel == "gaussian":
            return self._gaussian(square)
        distance = np.sqrt(square)
        with np.errstate(divide="ignore"):
            inverse = np.where(distance > 0, 1 / distance, 0.0)  # equal points do not pull
        if self.kernel == "energy":
            return -distance, inverse
        total, slope = np.zeros_like(square), np.zeros_like(square)
        for scale in self.scales:
            width = scale * self.sigma
            part = np.exp(-distance / width) / len(self.scales)
            total += part
            slope += part * inverse / width
        return total, slope

    def _gaussian(self, square: Array) -> tuple[Array, Array]:
        total, slope = np.zeros_like(square), np.zeros_like(square)
        for scale in self.scales:
            width = (scale * self.sigma) ** 2
            part = np.exp(-square / (2 * width)) / len(self.scales)
            total += part
            slope += part / width
        return total, slope


@functools.lru_cache(maxsize=2)
def discrepancy(n: int, scales: tuple[float, ...], kernel: str) -> Discrepancy:
    """The problem, kept while it is in use."""
    return Discrepancy(n, scales, kernel)
