"""scikit-learn's digits through worse and worse cameras: teachers that know less and less."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ucmkd.data.base import DIGITS, FloatArray, Views, choose_views, number_ids
from ucmkd.data.bundled import _load, shape_features

BLUR: dict[str, float] = {
    f"blur{sigma:g}": sigma for sigma in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
}  # fmt: skip
"""View to standard deviation of the Gaussian, in pixels."""

NOISE: dict[str, float] = {f"noise{sd:g}": sd for sd in (2.0, 4.0, 8.0, 12.0, 16.0, 24.0)}
"""View to standard deviation of the noise, in grey levels."""

DEGRADED_VIEWS = ("shape", "pixels", *BLUR, *NOISE)
_SEED = 20220


def digits_degraded(*, views: Iterable[str] | None = None) -> Views:
    """scikit-learn's 1797 digits: sharp, ever more blurred, ever noisier, and their shape numbers.

    Views: "shape" and "pixels" as in :func:`ucmkd.data.digits`; "blur0.5" … "blur4", the pixels
    after a Gaussian blur of that many pixels, rounded to grey levels again (without rounding a
    blur could be undone); "noise2" … "noise24", the pixels plus normal noise of that many grey
    levels of 16, the same in every call.

    Args:
        views: The views to compute; None for all.

    Raises:
        ValueError: An unknown view.
        ImportError: scikit-learn is not installed.
    """
    chosen = choose_views("digits_degraded", views, DEGRADED_VIEWS)
    images, labels = _load()
    arrays = {view: _seen(view, images) for view in chosen}
    ids = number_ids("digits", len(labels))
    return Views("digits_degraded", arrays, labels, DIGITS, ids)


def _seen(view: str, images: FloatArray) -> FloatArray:
    if view == "shape":
        return shape_features(images)
    flat = images.reshape(len(images), -1)
    if view in BLUR:
        matrix = _blur_matrix(images.shape[1], BLUR[view])
        blurred = np.einsum("ij,njk,lk->nil", matrix, images.astype(np.float64), matrix)
        return np.rint(blurred).astype(np.float32).reshape(len(images), -1)
    if view in NOISE:
        generator = np.random.default_rng([_SEED, list(NOISE).index(view)])
        noise = generator.standard_normal(flat.shape)
        return (flat + NOISE[view] * noise).astype(np.float32)
    return flat


def _blur_matrix(size: int, sigma: float) -> NDArray[np.float64]:
    """``(size, size)``: the normalised Gaussian, dark beyond the border."""
    reach = np.arange(-4 * size, 4 * size + 1)
    total = np.exp(-0.5 * (reach / sigma) ** 2).sum()
    distance = np.subtract.outer(np.arange(size), np.arange(size))
    return np.exp(-0.5 * (distance / sigma) ** 2) / total
