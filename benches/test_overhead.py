"""The overhead of one small call; :mod:`benches.overhead` says how it is measured."""

from __future__ import annotations

import pytest

from benches import overhead
from benches.conftest import Session


@pytest.mark.parametrize("count", overhead.CASES)
def test_overhead(session: Session, count: int) -> None:
    if not session.wanted("ucmkd"):
        pytest.skip("only peers were asked for")
    section = overhead.measure(count)
    session.sections.append(section)
    assert all(float(line[1]) > 0 for line in section.lines)
