"""MMD, forward and backward, beside the peers; :mod:`benches` says how it is measured."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benches.conftest import Session
from benches.contestants_mmd import CONTESTANTS, OURS
from benches.problems import SCALES, Discrepancy
from benches.report import Table
from benches.timing import race

#: Largest relative errors of value and gradient.
BOUNDS = (1e-3, 1e-3)


@pytest.mark.parametrize("scales", [SCALES, (1.0,)], ids=["five", "one"])
def test_mmd(
    benchmark: BenchmarkFixture, session: Session, n: int, scales: tuple[float, ...]
) -> None:
    word = "five scales" if len(scales) == 5 else "one scale"
    benchmark.group = f"mmd, {word}"
    rows, ready = race(
        CONTESTANTS, Discrepancy(n, scales), rounds=session.rounds, bounds=BOUNDS,
        timed=benchmark.enabled,
    )  # fmt: skip
    table = Table(f"MMD, {word}, n = m = {n}, d = 128", "mmd", n, word, OURS.name, BOUNDS, rows)
    session.tables.append(table)
    benchmark.extra_info["contestants"] = [row.as_dict() for row in rows]
    assert OURS.name in ready, rows
    benchmark.pedantic(ready[OURS.name].run, rounds=min(5, session.rounds), warmup_rounds=1)
    assert rows[0].accurate, rows[0]
