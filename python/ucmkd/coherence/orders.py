"""Pairwise order logits, the order they speak for, and how good it is.

``logits[b, i, j]`` has two entries for elements i and j of a set: class 0 is "i after j", class 1
is "i before j". ``position[b, i]`` is the true rank of element i. Diagonals never count.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

AFTER, BEFORE = 0, 1
MOST = 12


def check_logits(logits: Tensor, name: str = "logits") -> Tensor:
    """Floating ``(B, n, n, 2)`` with n at least 2."""
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        kind = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"{name} must be a floating torch.Tensor; got {kind}")
    shape = tuple(logits.shape)
    if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 2 or shape[1] < 2 or not shape[0]:
        raise ValueError(f"{name} must have shape (B, n, n, 2) with n at least 2; got {shape}")
    return logits


def check_ranks(value: Tensor, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
    """Ranks 0 … n - 1 ``(B, n)``, each once in a row."""
    if not isinstance(value, Tensor) or value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be an integer torch.Tensor; got {kind}")
    if value.dim() != 2 or (shape is not None and tuple(value.shape) != shape):
        wanted = "(B, n)" if shape is None else shape
        raise ValueError(f"{name} must have shape {wanted}; got {tuple(value.shape)}")
    ranks = torch.arange(value.shape[1], device=value.device)
    if not bool((value.sort(dim=1).values == ranks).all()):
        raise ValueError(f"{name} must have every rank 0…{value.shape[1] - 1} once in each row")
    return value


def order_loss(logits: Tensor, position: Tensor) -> Tensor:
    r"""Cross-entropy of the pairwise order, mean over ordered pairs :math:`i \ne j`.

    Args:
        logits: ``(B, n, n, 2)``.
        position: True ranks ``(B, n)``.

    Returns:
        A 0-d tensor, in nats.

    Raises:
        TypeError: Logits or ranks of the wrong kind.
        ValueError: Of the wrong shape, or no ranks.
    """
    check_logits(logits)
    check_ranks(position, "position", tuple(logits.shape[:2]))
    label = (position[:, :, None] < position[:, None]).long()
    return F.cross_entropy(_pairs(logits).flatten(0, 1), _pairs(label).flatten())


def _pairs(matrix: Tensor) -> Tensor:
    """``(B, n (n - 1), ...)``: what is not on the diagonal."""
    n = matrix.shape[1]
    return matrix[:, ~torch.eye(n, dtype=torch.bool, device=matrix.device)]


def most_probable_order(logits: Tensor) -> Tensor:
    r"""Ranks ``(B, n)`` of the order π that maximises :math:`\sum_{\pi_i < \pi_j} w_{ij}`.

    :math:`w_{ij} = \log p_{ij}(\text{before}) + \log p_{ji}(\text{after})`. Exact, by dynamic
    programming over the sets that come first: ``2^n`` steps, n at most 12. Of equal orders one is
    returned, always the same.

    Args:
        logits: ``(B, n, n, 2)``.

    Raises:
        TypeError: Logits of the wrong kind.
        ValueError: Of the wrong shape, or more than 12 elements.
    """
    n = check_logits(logits).shape[1]
    if n > MOST:
        raise ValueError(f"logits must be of at most {MOST} elements; got {n}")
    likely = logits.double().log_softmax(-1)
    weight = likely[..., BEFORE] + likely[..., AFTER].transpose(1, 2)
    rows, full = len(logits), 1 << n
    best = weight.new_full((rows, full), float("-inf"))
    best[:, 0] = 0.0
    last = torch.zeros(rows, full, dtype=torch.int64, device=logits.device)
    for members in range(1, full):
        inside = [k for k in range(n) if members >> k & 1]
        value = torch.stack(
            [best[:, members ^ (1 << k)] + sum(weight[:, i, k] for i in inside if i != k)
             for k in inside],
            dim=1,
        )  # fmt: skip
        best[:, members], chosen = value.max(dim=1)
        last[:, members] = torch.tensor(inside, device=logits.device)[chosen]
    ranks = torch.empty(rows, n, dtype=torch.int64, device=logits.device)
    left = torch.full((rows, 1), full - 1, dtype=torch.int64, device=logits.device)
    for rank in range(n - 1, -1, -1):
        element = last.gather(1, left)
        ranks.scatter_(1, element, rank)
        left = left ^ torch.ones_like(element).bitwise_left_shift(element)
    return ranks


def kendall_tau(order: Tensor, position: Tensor) -> Tensor:
    r"""Kendall's :math:`\tau = 1 - \frac{4 q}{n(n-1)}` with q pairs in the wrong order, ``(B,)``.

    1 for the true order, -1 for its reverse, 0 on average by chance.

    Args:
        order: Ranks ``(B, n)``.
        position: True ranks ``(B, n)``.

    Raises:
        TypeError: Not integers.
        ValueError: Shapes that differ, or no ranks.
    """
    check_ranks(order, "order")
    check_ranks(position, "position", tuple(order.shape))
    agree = (order[:, :, None] - order[:, None]).sign() * (
        position[:, :, None] - position[:, None]
    ).sign()
    n = order.shape[1]
    return agree.sum((1, 2)).double() / (n * (n - 1))


def exact_match(order: Tensor, position: Tensor) -> Tensor:
    """Whether the whole order is right, ``(B,)`` bool.

    Args:
        order: Ranks ``(B, n)``.
        position: True ranks ``(B, n)``.

    Raises:
        TypeError: Not integers.
        ValueError: Shapes that differ, or no ranks.
    """
    check_ranks(order, "order")
    check_ranks(position, "position", tuple(order.shape))
    return (order == position).all(1)
