"""MMD, forward and backward, beside the peers; :mod:`benches` says how it is measured."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benches.contestants.mmd import CONTESTANTS, OURS
from benches.problems_mmd import SCALES, discrepancy

#: Largest relative errors of value and gradient. The root of a distance turns the rounding errors
#: of coincident points into 1e-4 of the value, in everything that uses a matrix product.
BOUNDS = {"gaussian": (1e-4, 1e-4), "laplace": (1e-3, 1e-3), "energy": (1e-3, 1e-3)}
#: Kernel, scales, and how many times our time the fastest peer should take.
SETTINGS = {
    "five": ("gaussian", SCALES, 5.0),
    "one": ("gaussian", (1.0,), 4.0),
    "laplace": ("laplace", (1.0,), None),
    "energy": ("energy", (1.0,), None),
}


@pytest.mark.parametrize("setting", list(SETTINGS))
def test_mmd(compete: Callable[..., None], n: int, setting: str) -> None:
    kernel, scales, target = SETTINGS[setting]
    word = {5: "five scales", 1: "one scale"}[len(scales)] if kernel == "gaussian" else "one scale"
    compete(
        CONTESTANTS,
        discrepancy(n, scales, kernel),
        title=f"MMD, {kernel}, {word}, n = m = {n}, d = 128",
        operator="mmd",
        n=n,
        setting=setting,
        measure=OURS.name,
        bounds=BOUNDS[kernel],
        target=target,
    )
