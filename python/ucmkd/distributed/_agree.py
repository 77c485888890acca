"""Before any work: do all ranks come with the same question? If not, every rank says so.

One small message of fixed size per rank. A rank whose own input is refused sends that, so that the
others do not wait for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from ucmkd.distributed._group import Ranks

_REFUSED = 1


def describe(tensor: Tensor | None, *, rows: int | None = None) -> str:
    """What must agree between the ranks: shape but for the dimension ``rows``, type, gradient."""
    if tensor is None:
        return "None"
    shape: list[Any] = list(tensor.shape)
    if rows is not None:
        shape[rows] = "n"
    gradient = ", with gradient" if torch.is_grad_enabled() and tensor.requires_grad else ""
    return f"({', '.join(map(str, shape))}) {str(tensor.dtype).removeprefix('torch.')}{gradient}"


def shown(value: Any) -> str:
    """An option as text, equal for equal values: 1 and 1.0, a tensor and its numbers."""
    if isinstance(value, Tensor):
        return shown(value.tolist())
    if isinstance(value, list | tuple):
        return f"({', '.join(map(shown, value))})"
    if isinstance(value, bool) or not isinstance(value, Real):
        return repr(value)
    if isinstance(value, Integral):
        return repr(int(value))
    number = float(value)
    return repr(int(number)) if number.is_integer() else repr(number)


def agree(
    ranks: Ranks, local: Callable[[], tuple[Sequence[int], dict[str, str]]]
) -> list[tuple[int, ...]]:
    """The sizes of every rank, once all ranks have come with equal arguments.

    Args:
        ranks: The group.
        local: Checks this rank's arguments; returns up to six sizes and, by the argument's name,
            what must be the same everywhere.

    Raises:
        TypeError, ValueError: On every rank: what ``local`` raised on one of them, or the first
            argument that differs, with what each rank has.
    """
    sizes: Sequence[int] = ()
    facts: dict[str, str] = {}
    error: TypeError | ValueError | None = None
    try:
        sizes, facts = local()
    except (TypeError, ValueError) as caught:
        error = caught
    digest = hashlib.blake2b(repr(sorted(facts.items())).encode(), digest_size=7).digest()
    header = [_REFUSED if error else 0, int.from_bytes(digest, "little"), *sizes]
    message = torch.zeros(8, dtype=torch.int64)
    message[: len(header)] = torch.tensor(header)
    table = torch.stack(ranks.gather(message.to(ranks.device))).tolist()
    refused = any(row[0] for row in table)
    if not refused and len({row[1] for row in table}) == 1:
        return [tuple(row[2 : 2 + len(sizes)]) for row in table]
    kind = type(error).__name__ if error else ""
    replies = ranks.objects((kind, str(error) if error else "", facts))
    if error is not None:
        raise error
    for rank, (kind, text, _) in enumerate(replies):
        if kind:
            raise (TypeError if kind == "TypeError" else ValueError)(f"rank {rank}: {text}")
    for name in facts:
        each = [reply[2].get(name, "None") for reply in replies]
        if len(set(each)) > 1:
            listed = "; ".join(f"rank {rank}: {text}" for rank, text in enumerate(each))
            raise ValueError(f"{name} must be the same on every rank of group; got {listed}")
    raise ValueError("the ranks of group call different functions of ucmkd")
