"""Distance to the machine; :mod:`benches.machine` says how it is measured."""

from __future__ import annotations

import pytest

from benches import limits, machine
from benches.conftest import Session


@pytest.mark.parametrize("what", ["iterations", "arithmetic", "scaling", "limits"])
def test_machine(session: Session, pytestconfig: pytest.Config, what: str) -> None:
    if not session.wanted("ucmkd"):
        pytest.skip("only peers were asked for")
    sizes = pytestconfig.getoption("--sizes") or machine.SIZES
    rounds = min(session.rounds, 11)
    if what == "iterations":
        section = machine.iterations(sizes, rounds)
    elif what == "arithmetic":
        section = machine.arithmetic(sizes, rounds)
    elif what == "limits":
        section = limits.limits(sizes, rounds)
    elif session.threads == 1:
        pytest.skip("one thread has nothing to be compared with")
    else:
        section = machine.scaling(sizes, rounds, session.threads)
    session.sections.append(section)
    assert len(section.lines) == len(sizes) * (2 if what == "limits" else 1)
