"""Checks on a GPU raise in a later call, once their outcome has arrived."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ucmkd import losses
from ucmkd.ops import _deferred


class Event:
    """Stands for a CUDA event."""

    def __init__(self, arrived: bool) -> None:
        self.arrived = arrived

    def query(self) -> bool:
        return self.arrived


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    _deferred.clear()
    yield
    _deferred.clear()


def call() -> None:
    losses.sinkhorn_align(torch.randn(4, 2), torch.randn(5, 2))


def test_a_failed_check_is_raised_once_by_the_next_call_after_it_arrived() -> None:
    event = Event(False)
    _deferred.expect(torch.tensor(False), event, "student must be finite")
    call()  # nothing is known yet
    event.arrived = True
    with pytest.raises(ValueError, match=r"student must be finite \(found in an earlier call"):
        call()
    call()


def test_what_held_is_dropped_and_order_is_kept() -> None:
    late = Event(False)
    _deferred.expect(torch.tensor(True), Event(True), "first")
    _deferred.expect(torch.tensor(False), late, "second")
    _deferred.expect(torch.tensor(False), Event(True), "third")
    call()
    late.arrived = True
    with pytest.raises(ValueError, match="second"):
        call()
    call()


def test_old_outcomes_are_dropped() -> None:
    for _ in range(2 * _deferred.MOST):
        _deferred.expect(torch.tensor(True), Event(False), "never")
    assert len(_deferred._pending) == _deferred.MOST


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    bad = torch.full((4, 2), torch.nan, device="cuda")
    losses.sinkhorn_align(bad, torch.randn(5, 2, device="cuda"))
    torch.cuda.synchronize()
    with pytest.raises(ValueError, match="student must be finite"):
        losses.sinkhorn_align(torch.randn(4, 2, device="cuda"), torch.randn(5, 2, device="cuda"))
