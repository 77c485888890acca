"""Sinkhorn, forward and backward, beside the peers; :mod:`benches` says how it is measured."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benches.contestants import by_hand, geomloss_samples, ott_jax, pot
from benches.contestants.common import Case
from benches.contestants.ours import OURS, OURS_PLAIN
from benches.problems import transport

#: Largest relative errors of value and gradient, by setting. The gradient is of the order of the
#: residual: an L1 violation of 1e-3 leaves about 2e-3 in it, whoever solves.
BOUNDS = {"iterations": (1e-4, 1e-4), "residual": (1e-4, 5e-3)}
TITLES = {"iterations": "50 iterations", "residual": "until the L1 residual is 1e-3"}
PEERS = (
    by_hand.LOG,
    by_hand.COMPILED,
    geomloss_samples.ONE,
    *pot.ONE,
    *ott_jax.ONE,
)
#: Equal iterations compares one iteration with one: the accelerated kernel takes no part.
CONTESTANTS = {
    "iterations": (OURS_PLAIN, *PEERS),
    "residual": (OURS, OURS_PLAIN, *PEERS, geomloss_samples.ANNEALED),
}


@pytest.mark.parametrize("mode", ["iterations", "residual"])
def test_sinkhorn(compete: Callable[..., None], n: int, mode: str) -> None:
    contestants = CONTESTANTS[mode]
    compete(
        contestants,
        Case(transport(n), mode),
        title=f"Sinkhorn, {TITLES[mode]}, n = m = {n}, d = 128, eps = 0.05 mean cost",
        operator="sinkhorn",
        n=n,
        setting=mode,
        measure=contestants[0].name,
        bounds=BOUNDS[mode],
        target=3.0 if mode == "iterations" else 2.0 if n <= 64 else 4.0,
    )
