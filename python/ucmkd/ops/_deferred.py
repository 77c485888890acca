"""Checks of values on a GPU, whose outcome the host does not wait for.

To look at a tensor on a GPU the host would have to wait for all work before it. The outcome of a
check is copied to the host beside the computation instead, and the next call of any operator
raises what has arrived by then. During the capture of a CUDA graph nothing is checked.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

#: Outcomes kept at most; older ones are dropped unread, the device being that far behind.
MOST = 256


class _Event(Protocol):
    def query(self) -> bool: ...


class _Pending(NamedTuple):
    good: Tensor  # 0-d, on the host
    arrived: _Event
    message: str


_pending: deque[_Pending] = deque(maxlen=MOST)
_lock = threading.Lock()


def later(good: Tensor, message: str) -> None:
    """Has ``message`` raised by a later :func:`poll` unless ``good``, a 0-d tensor on a GPU."""
    if torch.cuda.is_current_stream_capturing():
        return
    with torch.cuda.device(good.device):
        host = torch.empty((), dtype=torch.bool, pin_memory=True)
        host.copy_(good, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
    expect(host, event, message)


def expect(good: Tensor, arrived: _Event, message: str) -> None:
    """The same for a tensor on the host that is valid once ``arrived`` says so."""
    with _lock:
        _pending.append(_Pending(good, arrived, message))


def poll() -> None:
    """Raises ValueError for the first check known to have failed."""
    if not _pending:
        return
    with _lock:
        while _pending and _pending[0].arrived.query():
            found = _pending.popleft()
            if not bool(found.good):
                _pending.clear()
                raise ValueError(
                    f"{found.message} (found in an earlier call: the values of tensors on a GPU "
                    "are looked at without waiting for them)"
                )


def clear() -> None:
    """Forgets all outcomes."""
    with _lock:
        _pending.clear()
