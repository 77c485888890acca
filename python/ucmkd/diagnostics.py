"""Named scalars of one step, reported from wherever they are known.

What computes something worth watching says so with :func:`report`; who wants to know opens
:func:`collect` around the call. Without a collector, ``report`` does nothing:

>>> from ucmkd import diagnostics
>>> diagnostics.report("plan/entropy", 1.0)
>>> with diagnostics.collect() as found:
...     diagnostics.report("plan/entropy", 2.0)
...     diagnostics.report("plan/entropy", 4.0)
>>> found.means()
{'plan/entropy': 3.0}

A name is ``group/quantity``; the report of a run draws the quantities of a group together. A
collector belongs to the thread (and the asynchronous task) that opened it, and the innermost one
receives.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

__all__ = ["Collector", "collect", "collecting", "report"]

Scalar = Tensor | float


class Collector:
    """What was reported inside one :func:`collect`.

    Attributes:
        values: everything reported under each name, in order; tensors are detached and stay on
            their device (no waiting for it).
    """

    def __init__(self) -> None:
        self.values: dict[str, list[Scalar]] = {}

    def add(self, name: str, value: Scalar) -> None:
        """Keep one value.

        Raises:
            ValueError: ``name`` is empty, or ``value`` a tensor of more than one number.
        """
        if not name:
            raise ValueError("name must not be empty")
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(
                    f"the value of {name!r} must be one number, got shape {tuple(value.shape)}"
                )
            value = value.detach().reshape(())
        self.values.setdefault(name, []).append(value)

    def means(self) -> dict[str, float]:
        """The mean of every name, as numbers; one of a device's tensors waits for the device."""
        return {name: sum(map(float, given)) / len(given) for name, given in self.values.items()}


_ACTIVE: ContextVar[Collector | None] = ContextVar("ucmkd_diagnostics", default=None)


@contextmanager
def collect() -> Iterator[Collector]:
    """Receive what is reported inside the ``with`` block, by this thread."""
    collector = Collector()
    token = _ACTIVE.set(collector)
    try:
        yield collector
    finally:
        _ACTIVE.reset(token)


def collecting() -> bool:
    """Whether somebody listens, so that what is only reported need not be computed.

    False inside ``torch.compile``: what is compiled reports nothing.
    """
    return not torch.compiler.is_compiling() and _ACTIVE.get() is not None


def report(name: str, value: Scalar) -> None:
    """Hand one scalar to the collector that is open, if any.

    Args:
        name: ``group/quantity``; a name that comes several times is averaged.
        value: a number, or a tensor of one; detached.

    Raises:
        ValueError: (with a collector) an empty name or a tensor of more than one number.
    """
    if collecting():
        collector = _ACTIVE.get()
        assert collector is not None
        collector.add(name, value)
