"""Nonlinear canonical functions: few numbers of either side that depend on each other most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, eigh, solve_triangular

from ucmkd.information.canonical_kernels import KERNELS, Kernel, coordinates, features
from ucmkd.information.gaussian import canonical_correlations, gaussian_information
from ucmkd.information.reduction import normal_scores
from ucmkd.information.variables import Array

#: Weights of the penalty on the functions' norms that are tried.
RIDGES = (1e-4, 1e-3, 1e-2)
#: Parts of the samples, each held out once.
FOLDS = 5
#: Most functions of a side.
FUNCTIONS = 3
Values = tuple[Array, Array]


@dataclass(frozen=True)
class Functions:
    """f(x) and g(y) at the samples, largest correlation first.

    Attributes:
        own: ``(f, g)``, ``(n, r)`` each, learned from all samples.
        held_out: The same for each part of the samples, ``(n_part, r)``, learned from the other
            parts. Not to be put together: functions of different parts differ, and which part a
            sample is of would be something that f and g have in common.
        parts: Row numbers of the parts.
        kernel: Of the space the functions come from.
        ridge: The penalty.
    """

    own: Values
    held_out: list[Values]
    parts: list[NDArray[np.intp]]
    kernel: Kernel
    ridge: float


def canonical_functions(x: Array, y: Array, *, seed: int) -> Functions:
    r"""Functions of x and of y with the largest correlations, by kernels and cross-fitting.

    Pairs :math:`(f_i, g_i)` that maximise

    .. math:: \frac{\operatorname{cov}(f(x), g(y))}{\sqrt{
        (\operatorname{var} f + \lambda\|f\|^2)\,(\operatorname{var} g + \lambda\|g\|^2)}},

    uncorrelated with the pairs before them, in the space of one of
    :data:`~ucmkd.information.canonical_kernels.KERNELS`: as many as the narrower side has
    coordinates, at most ``FUNCTIONS``. Kernel and λ are those with the largest
    ``-½ Σ log(1 - ρ²)`` on samples that the functions were not learned from, the mean over
    ``FOLDS`` parts.

    Args:
        x: ``(n, d_x)``; their normal scores are used.
        y: ``(n, d_y)``.
        seed: Of the parts and the centres.

    Source: the regularised kernel canonical correlation of Bach and Jordan 2002, "Kernel
    Independent Component Analysis" (JMLR 3), as in Fukumizu, Bach and Gretton 2007, "Statistical
    Consistency of Kernel Canonical Correlation Analysis" (JMLR 8).
    """
    a, b = coordinates(normal_scores(x)), coordinates(normal_scores(y))
    order = np.random.default_rng([seed, 3]).permutation(len(a))
    parts = [np.sort(part) for part in np.array_split(order, FOLDS)]
    count = min(FUNCTIONS, a.shape[1], b.shape[1])
    best, chosen = -1.0, None
    for kernel in KERNELS:
        space = _Space(features(kernel, a, seed), features(kernel, b, seed), parts)
        for ridge in RIDGES:
            held = space.held_out(ridge, count)
            score = np.mean([gaussian_information(canonical_correlations(*v)) for v in held])
            if score > best:
                best, chosen = float(score), (kernel, ridge, held, space)
    assert chosen is not None
    kernel, ridge, held, space = chosen
    return Functions(space.own(ridge, count), held, parts, kernel, ridge)


class _Space:
    """Features of both sides and their moments, of all samples and without each part."""

    def __init__(self, first: Array, second: Array, parts: list[NDArray[np.intp]]) -> None:
        self.first, self.second, self.parts = first, second, parts
        every = np.ones(len(first), dtype=bool)
        self.all = _Moments.of(first, second, every)
        self.without = []
        for part in parts:
            keep = every.copy()
            keep[part] = False
            self.without.append(_Moments.of(first, second, keep))

    def own(self, ridge: float, count: int) -> Values:
        return self.all.functions(self.first, self.second, ridge, count)

    def held_out(self, ridge: float, count: int) -> list[Values]:
        return [
            moments.functions(self.first[part], self.second[part], ridge, count)
            for moments, part in zip(self.without, self.parts, strict=True)
        ]


@dataclass(frozen=True)
class _Moments:
    """Means and covariances of the features of both sides."""

    mean_x: Array
    mean_y: Array
    xx: Array
    yy: Array
    xy: Array

    @classmethod
    def of(cls, first: Array, second: Array, keep: NDArray[np.bool_]) -> _Moments:
        x, y = first[keep], second[keep]
        mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
        x, y = x - mean_x, y - mean_y
        return cls(mean_x, mean_y, x.T @ x / len(x), y.T @ y / len(x), x.T @ y / len(x))

    def functions(self, x: Array, y: Array, ridge: float, count: int) -> Values:
        """Normal scores of the leading pairs of functions at features ``(n, p)``, ``(n, q)``."""
        root_x = cholesky(self.xx + ridge * np.eye(len(self.xx)), lower=True)
        root_y = cholesky(self.yy + ridge * np.eye(len(self.yy)), lower=True)
        cross = solve_triangular(root_x, self.xy, lower=True)
        cross = solve_triangular(root_y, cross.T, lower=True).T
        left, right = _leading(cross, count)
        f = (x - self.mean_x) @ solve_triangular(root_x.T, left)
        g = (y - self.mean_y) @ solve_triangular(root_y.T, right)
        return normal_scores(f), normal_scores(g)


def _leading(cross: Array, count: int) -> Values:
    """The first singular vectors, ``(p, count)`` and ``(q, count)``."""
    if cross.shape[0] > cross.shape[1]:
        right, left = _leading(cross.T, count)
        return left, right
    size = len(cross)
    values, left = eigh(cross @ cross.T, subset_by_index=(max(0, size - count), size - 1))
    left = left[:, ::-1]
    right = cross.T @ left / np.sqrt(np.maximum(values[::-1], 1e-300))
    return np.asarray(left), np.asarray(right)
