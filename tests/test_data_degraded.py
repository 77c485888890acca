"""Blurred and noisy digits."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ucmkd.data import digits, digits_degraded, load
from ucmkd.data.degraded import BLUR, DEGRADED_VIEWS, NOISE


def test_views_are_what_they_say() -> None:
    found, sharp = digits_degraded(), digits()
    assert tuple(found.views) == DEGRADED_VIEWS
    np.testing.assert_array_equal(found.views["pixels"], sharp.views["pixels"])
    np.testing.assert_array_equal(found.views["shape"], sharp.views["shape"])
    images = sharp.views["pixels"].reshape(-1, 8, 8).astype(np.float64)
    for view, sigma in BLUR.items():
        # The reference cuts its kernel off; let it reach over the whole picture.
        wanted = gaussian_filter(images, (0, sigma, sigma), mode="constant", truncate=32 / sigma)
        gap = np.abs(found.views[view].reshape(-1, 8, 8) - wanted)
        assert gap.max() <= 0.5 + 1e-6  # rounded to grey levels
    for view, sd in NOISE.items():
        noise = found.views[view] - sharp.views["pixels"]
        assert noise.std() == pytest.approx(sd, rel=0.01)
    assert not np.array_equal(
        found.views["noise4"] - sharp.views["pixels"],
        2 * (found.views["noise2"] - sharp.views["pixels"]),
    )


def test_the_same_in_every_call() -> None:
    first = load("digits_degraded", views=["noise8"]).view("noise8")
    again = digits_degraded(views=["pixels", "noise8"]).view("noise8")
    np.testing.assert_array_equal(first.inputs, again.inputs)
    with pytest.raises(ValueError, match="blur"):
        digits_degraded(views=["blur9"])
