"""One large problem whose matrix is not kept; :mod:`benches` says how it is measured."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benches.contestants import geomloss_samples, ott_jax, ours
from benches.problems_large import ITERATIONS, streaming
from benches.timing import Contestant

OURS = Contestant(ours.PLAIN, ("ucmkd",), ours.streaming)
CONTESTANTS = (
    OURS,
    Contestant(f"{ours.NAME}, to the residual", ("ucmkd",), ours.streaming_residual),
    geomloss_samples.ONLINE,
    ott_jax.ONLINE,
)


def test_streaming(compete: Callable[..., None], pytestconfig: pytest.Config) -> None:
    asked = pytestconfig.getoption("--sizes")
    n = asked[-1] if asked else 16_384
    compete(
        CONTESTANTS,
        streaming(n),
        title=f"Sinkhorn, {ITERATIONS} iterations in O(n) memory, n = m = {n}, d = 128",
        operator="streaming",
        n=n,
        setting="iterations",
        measure=OURS.name,
        bounds=(1e-4, 5e-3),
        target=5.0,
        stop=30.0,  # the peers need minutes, and are what the row is about
    )
