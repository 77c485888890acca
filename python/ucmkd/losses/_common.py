"""What the losses share: precision, the last reduction, rows of length one, option modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ucmkd.ops import _check

REDUCTIONS = ("mean", "sum", "none")


def reduce(value: Tensor, reduction: str) -> Tensor:
    """Mean, sum, or the values as they are (a 0-d tensor stays one)."""
    _check.one_of(reduction, REDUCTIONS, "reduction")
    if reduction == "none" or value.dim() == 0:
        return value
    return value.mean() if reduction == "mean" else value.sum()


def wide(value: Tensor, like: Tensor | None = None) -> Tensor:
    """``value`` in the type of ``like``, by default its own, or float32 where that is narrower."""
    dtype = (value if like is None else like).dtype
    return value.to(torch.promote_types(dtype, torch.float32))


def full_precision(like: Tensor) -> torch.autocast:
    """Matrix products stay in the type of their factors inside an autocast region."""
    return torch.autocast(like.device.type, enabled=False)


def unit_rows(rows: Tensor) -> Tensor:
    """Rows ``(..., d)`` of length one, in float32 or better; a row of zeros stays one.

    ``F.normalize`` divides such a row by 1e-12, and so its gradient, which then is no longer small.
    """
    rows = wide(rows)  # squares soon overflow in half precision
    square = rows.square().sum(-1, keepdim=True)
    return rows / torch.where(square > 0, square, 1.0).sqrt()


class OptionModule(nn.Module):
    """An ``nn.Module`` whose options are shown by ``repr`` and passed on at every call.

    Options that are an ``nn.Parameter`` (a learned ε, say) are registered, so that an optimiser
    and ``.to(device)`` see them; of a tuple with tensors (a pair of reaches) entry i as ``name_i``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._names = tuple(options)
        self._tuples: dict[str, int] = {}
        for name, value in options.items():
            if isinstance(value, tuple) and any(isinstance(entry, Tensor) for entry in value):
                self._tuples[name] = len(value)
                for i, entry in enumerate(value):
                    self._keep(f"{name}_{i}", entry)
            else:
                self._keep(name, value)

    def _keep(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            self.register_buffer(name, value)
        else:
            setattr(self, name, value)

    def options(self) -> dict[str, Any]:
        """The options as keywords of the function."""
        return {name: self._option(name) for name in self._names}

    def _option(self, name: str) -> Any:
        if name not in self._tuples:
            return getattr(self, name)
        return tuple(getattr(self, f"{name}_{i}") for i in range(self._tuples[name]))

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={_shown(value)!r}" for name, value in self.options().items())


def _shown(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_shown, value))
    return value.tolist() if isinstance(value, Tensor) else value
