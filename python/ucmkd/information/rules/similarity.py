"""Rules that compare representations without probabilities: CKA and MMD."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from ucmkd.information.intervals import subsample_interval
from ucmkd.information.rules.evidence import (
    Array,
    Evidence,
    Finding,
    Settings,
    with_half_the_labels,
)
from ucmkd.information.rules.kernel import one_hot


def linear_cka(x: Array, y: Array) -> float:
    r"""Centred kernel alignment with linear kernels, debiased.

    .. math:: \frac{\mathrm{HSIC}_1(K, L)}{\sqrt{\mathrm{HSIC}_1(K,K)\,\mathrm{HSIC}_1(L,L)}},

    :math:`K = XX^\top`, :math:`L = YY^\top` and HSIC₁ the unbiased estimator: of independent
    representations the mean is 0, whatever their widths; the plain form is near 1 where the width
    exceeds n.

    Args:
        x: ``(n, d_x)``, n at least 4.
        y: ``(n, d_y)``.

    Returns:
        At most 1; negative values are sampling error.

    Source: Kornblith et al. 2019 (arXiv 1905.00414); Song et al. 2012 (JMLR 13), equation 5, for
    HSIC₁.

    Raises:
        ValueError: Fewer than 4 rows, or different numbers of rows.
    """
    if len(x) != len(y) or len(x) < 4:
        raise ValueError(f"x and y must hold the same 4 or more rows, got {len(x)} and {len(y)}")
    first, second = _off_diagonal(x), _off_diagonal(y)
    scale = _hsic(first, first) * _hsic(second, second)
    return _hsic(first, second) / float(np.sqrt(scale)) if scale > 0 else 0.0


def _off_diagonal(x: Array) -> Array:
    x = x - x.mean(axis=0)
    gram = x @ x.T
    np.fill_diagonal(gram, 0.0)
    return np.asarray(gram)


def _hsic(k: Array, m: Array) -> float:
    n = len(k)
    rows, columns = k.sum(axis=1), m.sum(axis=1)
    total = rows.sum() * columns.sum() / ((n - 1) * (n - 2))
    found = (k * m).sum() + total - 2.0 / (n - 2) * (rows @ columns)
    return float(found / (n * (n - 3)))


def aligned_mmd(x: Array, y: Array, dims: int) -> float:
    """MMD² between two representations after both are brought into one space.

    Each is reduced to its first principal components, scaled to unit variance, and the first is
    rotated onto the second by the pairs (orthogonal Procrustes); then MMD² with the Gaussian
    kernels of :func:`ucmkd.ops.mmd`, unbiased.

    Args:
        x: ``(n, d_x)``.
        y: ``(n, d_y)``.
        dims: At most so many components.
    """
    from ucmkd.ops import mmd

    width = min(dims, x.shape[1], y.shape[1])
    first, second = _components(x, width), _components(y, width)
    width = min(first.shape[1], second.shape[1])
    first, second = first[:, :width], second[:, :width]
    left, _, right = np.linalg.svd(first.T @ second)
    turned = first @ (left @ right)
    return float(mmd(torch.from_numpy(turned), torch.from_numpy(second), estimator="u"))


def _components(x: Array, width: int) -> Array:
    x = x - x.mean(axis=0)
    left, size, _ = np.linalg.svd(x, full_matrices=False)
    keep = size[:width] > 1e-10 * size[0]
    return np.asarray(left[:, :width][:, keep] * np.sqrt(len(x)))


def cka(evidence: Evidence, settings: Settings) -> Finding:
    """``CKA(H_T; H_S) - CKA(H_S; Y)``: the complementarity criterion with alignment in the place
    of information. The second on the labelled rows, Y one-hot. No theory speaks for its zero.

    Interval: of the margin, by subsets of half the rows.
    """
    labelled = np.zeros(len(evidence.labels), dtype=bool)
    labelled[evidence.labelled] = True
    target = one_hot(np.maximum(evidence.labels, 0), evidence.classes)

    def parts(rows: NDArray[np.intp]) -> tuple[float, float]:
        known = rows[labelled[rows]]
        key = ("cka", rows.tobytes())
        if key not in evidence.memory:
            evidence.memory[key] = linear_cka(evidence.student[known], target[known])
        return linear_cka(evidence.teacher[rows], evidence.student[rows]), evidence.memory[key]

    teacher, student = parts(np.arange(len(labelled)))

    def margin(rows: NDArray[np.intp]) -> float:
        return float(np.subtract(*parts(with_half_the_labels(rows, evidence.labels))))

    low, high = _interval(margin, teacher - student, len(labelled), settings)
    return Finding(teacher - student, low, high, teacher, student)


def mmd(evidence: Evidence, settings: Settings) -> Finding:
    """``-MMD²`` of the two representations (:func:`aligned_mmd`); it ranks and decides nothing.

    Interval: by subsets of half the rows.
    """

    def value(rows: NDArray[np.intp]) -> float:
        return -aligned_mmd(evidence.teacher[rows], evidence.student[rows], settings.dims)

    count = len(evidence.labels)
    found = value(np.arange(count))
    return Finding(found, *_interval(value, found, count, settings), decides=False)


def _interval(
    estimate: Callable[[NDArray[np.intp]], float], value: float, count: int, settings: Settings
) -> tuple[float, float]:
    if not settings.subsamples:
        return math.nan, math.nan
    found = subsample_interval(
        estimate,
        value,
        count,
        subsamples=settings.subsamples,
        confidence=settings.confidence,
        seed=settings.seed,
    )
    return found.low, found.high
