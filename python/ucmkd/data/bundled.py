"""scikit-learn's bundled digits as two modalities: works offline, on any machine."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ucmkd.data.base import (
    DIGITS,
    Dataset,
    FloatArray,
    IntArray,
    Views,
    choose_views,
    number_ids,
)

DIGITS_VIEWS = ("pixels", "shape")


def digits(*, views: Iterable[str] | None = None) -> Views:
    """scikit-learn's 1797 handwritten digits (8×8), seen in two ways.

    Views: "pixels", the 64 grey values 0…16; "shape", 50 numbers computed from the image: the 34
    distinct magnitudes of its two-dimensional Fourier transform, which do not change when the digit
    is shifted (with wrap-around), and its 8 row and 8 column sums. Phase is lost in them, so this
    is a real, poorer sensor. `unpaired_split` gives both sides different images.

    Args:
        views: The views to compute; None for both.

    Raises:
        ValueError: An unknown view.
        ImportError: scikit-learn is not installed.
    """
    chosen = choose_views("digits", views, DIGITS_VIEWS)
    images, labels = _load()
    arrays = {"pixels": images.reshape(len(images), 64)} if "pixels" in chosen else {}
    if "shape" in chosen:
        arrays["shape"] = shape_features(images)
    ids = number_ids("digits", len(labels))
    return Views("digits", {view: arrays[view] for view in chosen}, labels, DIGITS, ids)


def digits_pixels() -> Dataset:
    """The "pixels" view of the first half of every class: an image modality of its own."""
    return _half("pixels", first=True)


def digits_shape() -> Dataset:
    """The "shape" view of the second half of every class: no image is shared with the other half.

    The file is ordered by writer, so that the two halves come mostly from different hands.
    """
    return _half("shape", first=False)


def shape_features(images: FloatArray) -> FloatArray:
    """Fourier magnitudes and projections of `(n, h, w)` images.

    `|F(u, v)|` of a real image satisfies `|F(u, v)| = |F(-u, -v)|`; one of each such pair is kept:
    34 of 64 numbers for 8×8. The row sums `Σ_x I` and the column sums `Σ_y I` follow.

    Returns:
        `(n, k)` float32; k = 50 for 8×8 images.

    Raises:
        ValueError: `images` is not `(n, h, w)`.
    """
    if images.ndim != 3:
        raise ValueError(f"images must be (n, h, w), got shape {images.shape}")
    height, width = images.shape[1:]
    magnitude = np.abs(np.fft.fft2(images.astype(np.float64)))
    kept = [
        (u, v)
        for u in range(height)
        for v in range(width)
        if (u, v) <= ((-u) % height, (-v) % width)
    ]
    rows, columns = (np.array(axis) for axis in zip(*kept, strict=True))
    parts = (magnitude[:, rows, columns], images.sum(axis=2), images.sum(axis=1))
    return np.concatenate(parts, axis=1).astype(np.float32)


def _load() -> tuple[FloatArray, IntArray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("digits needs scikit-learn: pip install ucmkd[train]") from error
    bundle = load_digits()
    return bundle.images.astype(np.float32), bundle.target.astype(np.int64)


def _half(view: str, *, first: bool) -> Dataset:
    whole = digits(views=[view]).view(view)
    keep = np.zeros(len(whole), dtype=bool)
    for label in range(whole.num_classes):
        members = np.flatnonzero(whole.labels == label)
        middle = len(members) // 2
        keep[members[:middle] if first else members[middle:]] = True
    name = f"digits_{view}"
    return Dataset(name, whole.inputs[keep], whole.labels[keep], DIGITS, whole.ids[keep])
