"""Softmins over the rows and columns of a sharded cost, and sums over the ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from ucmkd.distributed._costs import Costs
from ucmkd.distributed._group import Ranks


def over_columns(costs: Costs, h: Tensor, epsilon: float) -> Tensor:
    """:math:`-\\varepsilon\\log\\sum_j e^{(h_j-C_{ij})/\\varepsilon}` for this rank's rows.

    ``h (m,)`` is that of all columns. One turn of the ring and nothing else.
    """
    found = h.new_full((len(costs.x),), -torch.inf)
    for rows, columns, matrix in costs.tiles():
        part = torch.logsumexp((h[columns] - matrix) / epsilon, -1)
        found[rows] = torch.logaddexp(found[rows], part)
    return -epsilon * found


def over_rows(costs: Costs, h: Tensor, epsilon: float, ranks: Ranks) -> Tensor:
    """:math:`-\\varepsilon\\log\\sum_i e^{(h_i-C_{ij})/\\varepsilon}` of all columns, on all ranks.

    ``h (n_r,)`` is that of this rank's rows. One turn, and an all-reduce of the maxima and one of
    the sums ``(m,)``.
    """
    found = h.new_full((costs.ring.total,), -torch.inf)
    for rows, columns, matrix in costs.tiles():
        part = torch.logsumexp((h[rows, None] - matrix) / epsilon, 0)
        found[columns] = torch.logaddexp(found[columns], part)
    return -epsilon * log_sum(found, ranks)


def log_sum(part: Tensor, ranks: Ranks) -> Tensor:
    """The logarithm of the sum over the ranks of ``exp(part)``: by maximum, then sum."""
    most = ranks.largest(part.clone())
    finite = torch.isfinite(most)
    shares = torch.where(finite, torch.exp(part - torch.where(finite, most, 0.0)), 0.0)
    return torch.where(finite, most + ranks.add(shares).log(), most)


def total(value: Tensor, ranks: Ranks) -> float:
    """The sum over the ranks of a 0-d tensor, in float64."""
    return float(ranks.add(value.double().reshape(1)))
