"""Sinkhorn, forward and backward, beside the peers; :mod:`benches` says how it is measured."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benches.conftest import Session
from benches.contestants_sinkhorn import CONTESTANTS, OURS, OURS_PLAIN, Case
from benches.problems import Transport
from benches.report import Table
from benches.timing import race

#: Largest relative errors of value and gradient, by setting. An L1 violation of 1e-3 leaves about
#: 2e-3 in the gradient.
BOUNDS = {"iterations": (1e-3, 1e-2), "residual": (1e-2, 2e-2)}
TITLES = {"iterations": "50 iterations", "residual": "until the L1 residual is 1e-3"}


@pytest.mark.parametrize("mode", ["iterations", "residual"])
def test_sinkhorn(benchmark: BenchmarkFixture, session: Session, n: int, mode: str) -> None:
    benchmark.group = f"sinkhorn, {mode}"
    timed = benchmark.enabled
    rows, ready = race(
        CONTESTANTS[mode], Case(Transport(n), mode), rounds=session.rounds, bounds=BOUNDS[mode],
        timed=timed,
    )  # fmt: skip
    # Equal iterations compares one iteration with one: the accelerated kernel is not the measure.
    measure = OURS_PLAIN.name if mode == "iterations" else OURS.name
    table = Table(
        f"Sinkhorn, {TITLES[mode]}, n = m = {n}, d = 128, eps = 0.05 mean cost",
        "sinkhorn", n, mode, measure, BOUNDS[mode], rows,
    )  # fmt: skip
    session.tables.append(table)
    benchmark.extra_info["contestants"] = [row.as_dict() for row in rows]
    assert measure in ready, rows
    benchmark.pedantic(ready[measure].run, rounds=min(5, session.rounds), warmup_rounds=1)
    for row in rows:
        if row.name == measure:
            assert row.accurate, row
