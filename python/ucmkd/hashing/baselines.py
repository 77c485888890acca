"""What learned codes must beat: chance, signs of principal components, canonical correlations."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class Projections(NamedTuple):
    """Two linear maps into one space.

    Attributes:
        x: ``(x_features, k)``.
        y: ``(y_features, k)``.
    """

    x: Array
    y: Array

    def signs(self, inputs: ArrayLike, modality: str) -> NDArray[np.bool_]:
        """Codes ``(n, k)``: which projections are positive.

        Args:
            inputs: ``(n, x_features)`` or ``(n, y_features)``, standardised.
            modality: ``"x"`` or ``"y"``.
        """
        return np.asarray(np.asarray(inputs) @ getattr(self, modality) > 0)

    def cosine(self, x: ArrayLike, y: ArrayLike) -> Array:
        """Cosine similarities ``(n, m)`` of the projections.

        Args:
            x: ``(n, x_features)``, standardised.
            y: ``(m, y_features)``, standardised.
        """
        first, second = np.asarray(x) @ self.x, np.asarray(y) @ self.y
        rows = [z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
                for z in (first, second)]  # fmt: skip
        return np.asarray(rows[0] @ rows[1].T)


def random_codes(rows: int, bits: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Fair coins, ``(rows, bits)``.

    Args:
        rows: Number of codes.
        bits: Their length.
        rng: Random numbers.
    """
    return rng.random((rows, bits)) < 0.5


def principal_components(x: ArrayLike, y: ArrayLike, k: int) -> Projections:
    r"""PCA of each modality, the second's rotated onto the first's.

    Components of two modalities have nothing to do with each other, so that their signs cannot be
    compared. The rotation is the orthogonal R of least :math:`\|X P_x - Y P_y R\|_F` on the pairs
    (Procrustes).

    Args:
        x: ``(n, x_features)``, standardised.
        y: ``(n, y_features)``.
        k: Number of components.

    Raises:
        ValueError: Rows that are no pairs, or more components than rows or the smaller width.
    """
    from sklearn.decomposition import PCA

    a, b = _pairs(x, y)
    _check_count(k, a, b)
    own = [PCA(k, svd_solver="full").fit(z).components_.T for z in (a, b)]
    cross = (b @ own[1]).T @ (a @ own[0])
    left, _, right = np.linalg.svd(cross)
    return Projections(own[0], own[1] @ left @ right)


def canonical_correlations(x: ArrayLike, y: ArrayLike, k: int) -> Projections:
    """CCA, k canonical directions; the first k of a larger k are the same.

    Args:
        x: ``(n, x_features)``, standardised.
        y: ``(n, y_features)``.
        k: Number of directions.

    Raises:
        ValueError: Rows that are no pairs, or more directions than the smaller width.
    """
    from sklearn.cross_decomposition import CCA

    a, b = _pairs(x, y)
    _check_count(k, a, b)
    found = CCA(k, scale=False).fit(a, b)
    return Projections(found.x_rotations_, found.y_rotations_)


def _check_count(k: int, a: Array, b: Array) -> None:
    limit = min(len(a), a.shape[1], b.shape[1])
    if not 1 <= k <= limit:
        raise ValueError(f"k must lie in 1..{limit}, got {k}")


def _pairs(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b):
        raise ValueError(f"x and y must be pairs (n, d) and (n, e), got {a.shape} and {b.shape}")
    return a, b
