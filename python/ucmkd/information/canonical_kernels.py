"""Kernels in whose spaces nonlinear canonical functions are sought."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ucmkd.information.variables import Array

#: Points that span the space of functions.
CENTRES = 300
#: Directions whose share of the largest eigenvalue is smaller are left out.
SMALLEST = 1e-8


@dataclass(frozen=True)
class Kernel:
    """A kernel between rows of whitened coordinates, about 1 on the diagonal on average.

    - ``"gaussian"``: ``exp(-‖a - b‖² / 2s²d)``, functions that are smooth, whatever they are;
    - ``"turning"``: ``(1 + a·b) / (1 + d) · exp(-(‖a‖ - ‖b‖)² / 2s²)``, functions that are linear
      on every sphere around the centre, with coefficients that change from sphere to sphere:
      what is turned, stretched or mixed by the distance from the centre. Far fewer functions, so
      that they are learned from far fewer samples where they suffice.

    Attributes:
        kind: One of the two.
        scale: s, in units of the standard deviation of a coordinate.
    """

    kind: str
    scale: float

    def __call__(self, a: Array, b: Array) -> Array:
        """``(n_a, n_b)`` for rows ``(n_a, d)`` and ``(n_b, d)``."""
        width = a.shape[1]
        dot = a @ b.T
        first, second = np.square(a).sum(axis=1), np.square(b).sum(axis=1)
        if self.kind == "gaussian":
            square = first[:, None] + second - 2.0 * dot
            return np.asarray(np.exp(-square / (2.0 * self.scale**2 * width)))
        apart = np.sqrt(first)[:, None] - np.sqrt(second)
        weight = np.exp(-np.square(apart) / (2.0 * self.scale**2))
        return np.asarray((1.0 + dot) / (1.0 + width) * weight)


#: Those that are tried.
KERNELS = (
    Kernel("turning", 0.5), Kernel("turning", 1.0),
    Kernel("gaussian", 0.5), Kernel("gaussian", 1.0),
)  # fmt: skip


def features(kernel: Kernel, rows: Array, seed: int) -> Array:
    """Coordinates ``(n, r)`` whose inner products are those of the kernel, after Nyström.

    Exact on ``CENTRES`` random rows, and on all where there are not more. Whose they are does
    not depend on the other side, so that samples to be held out may be among them.

    Source: Williams and Seeger 2001, "Using the Nyström Method to Speed Up Kernel Machines".
    """
    chosen = np.random.default_rng(seed).permutation(len(rows))[:CENTRES]
    centres = rows[chosen]
    values, vectors = np.linalg.eigh(kernel(centres, centres))
    keep = values > SMALLEST * values[-1]
    return np.asarray(kernel(rows, centres) @ (vectors[:, keep] / np.sqrt(values[keep])))


def coordinates(scores: Array) -> Array:
    """Uncorrelated coordinates of variance 1, ``(n, r)``, of normal scores ``(n, d)``."""
    centred = scores - scores.mean(axis=0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    keep = size > 1e-10 * size[0]
    return np.asarray(left[:, keep] * math.sqrt(len(scores)))
