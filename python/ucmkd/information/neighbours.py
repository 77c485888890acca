"""Nearest neighbours in the maximum norm, by scipy's k-d tree or, in many dimensions, all pairs."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ucmkd.information.variables import Array, to_tensor

#: From this dimension on a tree prunes nothing, and all pairs are quicker.
TREE_DIMENSIONS = 8
#: Distances held at once.
BLOCK = 4_000_000

Counts = NDArray[np.int64]


def kth_distance(points: Array, k: int) -> tuple[Array, Counts]:
    """Distance to the k-th neighbour, ``(n,)``, and the neighbours' rows, ``(n, k)``."""
    if points.shape[1] < TREE_DIMENSIONS:
        distance, index = cKDTree(points).query(points, k=k + 1, p=np.inf)
        return distance[:, k], _without_self(index, k)
    cloud = to_tensor(points)
    size = max(1, BLOCK // len(points))
    far, near = [], []
    for start in range(0, len(points), size):
        block = torch.cdist(cloud[start : start + size], cloud, p=float("inf"))
        value, index = block.topk(k + 1, dim=1, largest=False)
        far.append(value[:, k].numpy())
        near.append(index.numpy())
    return np.concatenate(far), _without_self(np.concatenate(near), k)


def kth_distances(points: Array, neighbours: Counts) -> Array:
    """Distances to the k-th neighbour for several k, ``(n, len(neighbours))``."""
    if points.shape[1] < TREE_DIMENSIONS:
        found = cKDTree(points).query(points, k=neighbours + 1, p=np.inf)[0]
        return np.asarray(found)
    return np.stack([kth_distance(points, int(k))[0] for k in neighbours], axis=1)


def count_within(points: Array, radius: Array, *, strict: bool) -> Counts:
    """Other points within ``radius[i]`` of point i, ``(n,)``; ``strict`` excludes the border."""
    if points.shape[1] == 1:
        return _count_line(points[:, 0], radius, strict)
    if points.shape[1] < TREE_DIMENSIONS:
        # The tree counts the border: step just inside for a strict count.
        edge = np.nextafter(radius, -1.0) if strict else radius
        found = cKDTree(points).query_ball_point(
            points, np.maximum(edge, 0.0), p=np.inf, return_length=True
        )
        # With a zero radius and ``strict`` nothing lies inside, not even the point itself.
        return np.where(edge < 0.0, 0, np.asarray(found, dtype=np.int64) - 1)
    cloud, limit = to_tensor(points), to_tensor(radius)[:, None]
    size = max(1, BLOCK // len(points))
    counts = []
    for start in range(0, len(points), size):
        block = torch.cdist(cloud[start : start + size], cloud, p=float("inf"))
        reach = limit[start : start + size]
        within = block < reach if strict else block <= reach
        counts.append(np.asarray(within.sum(dim=1).numpy(), dtype=np.int64))
    own = np.where(radius > 0.0, 1, 0) if strict else 1
    return np.concatenate(counts) - own


def _count_line(values: Array, radius: Array, strict: bool) -> Counts:
    line = np.sort(values)
    # A point on the border must not fall on its wrong side by the rounding of values ± radius.
    double = np.finfo(np.float64)
    slack = 4.0 * double.eps * (np.abs(values) + radius) + double.tiny
    reach = radius - slack if strict else radius + slack
    upper = np.searchsorted(line, values + reach, side="right")
    lower = np.searchsorted(line, values - reach, side="left")
    return np.maximum(upper - lower - 1, 0)


def _without_self(index: Counts, k: int) -> Counts:
    """Drop each row's own number; among coincident points it need not come first."""
    own = index == np.arange(len(index))[:, None]
    own[~own.any(axis=1), k] = True
    return index[~own].reshape(len(index), k)
