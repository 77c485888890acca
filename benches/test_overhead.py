"""The overhead of one small call; :mod:`benches.overhead` says how it is measured."""

from __future__ import annotations

import pytest

from benches import overhead
from benches.conftest import Session


def test_overhead(session: Session) -> None:
    if not session.wanted("ucmkd"):
        pytest.skip("only peers were asked for")
    section = overhead.measure()
    session.sections.append(section)
    assert all(float(line[1]) > 0 for line in section.lines)
