"""64 problems at once; :mod:`benches` says how it is measured."""

from __future__ import annotations

from collections.abc import Callable

from benches.contestants import by_hand, geomloss_samples, ott_jax, ours, pot
from benches.problems_sets import Batch
from benches.test_sinkhorn import BOUNDS
from benches.timing import Contestant

OURS = Contestant(ours.NAME, ("ucmkd",), ours.batch)
CONTESTANTS = (OURS, *by_hand.BATCH, geomloss_samples.BATCH, *pot.BATCH, *ott_jax.BATCH)


def test_batch(compete: Callable[..., None]) -> None:
    compete(
        CONTESTANTS,
        Batch(64, 64),
        title="Sinkhorn, 64 problems of n = m = 64, d = 128, until each L1 residual is 1e-3",
        operator="batch",
        n=64,
        setting="residual",
        measure=OURS.name,
        bounds=BOUNDS["residual"],
        target=8.0,
    )
