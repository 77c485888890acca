"""A training run of 100 minibatches; :mod:`benches` says how it is measured."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benches.contestants.sequence import CONTESTANTS, OURS
from benches.problems_sets import drift

STEPS, POINTS = 100, 256
#: Of the divergence, a difference of terms each of which is solved to the residual.
BOUNDS = (1e-3, 2e-2)
TITLES = {1: "one frozen teacher set", 4: "a frozen pool of 4 teacher minibatches"}


@pytest.mark.parametrize("teachers", [1, 4], ids=["fixed", "pool"])
def test_sequence(compete: Callable[..., None], teachers: int) -> None:
    compete(
        CONTESTANTS,
        drift(STEPS, POINTS, teachers),
        title=f"{STEPS} drifting minibatches, {TITLES[teachers]}, debiased, n = m = {POINTS}, "
        "d = 128, L1 residual 1e-3, time of all",
        operator="sequence",
        n=POINTS,
        setting="fixed" if teachers == 1 else "pool",
        measure=OURS.name,
        bounds=BOUNDS,
        target=8.0,
    )
