"""The checks of what a certificate is computed from."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ucmkd.theory.certificate_transport import DIAMETER_LIMIT

#: How far given teacher logits may be from those of the head, relative to the largest.
LOGIT_TOLERANCE = 0.02

Head = nn.Linear | tuple[Tensor, Tensor | None]


class Side(NamedTuple):
    """One side, checked, in float64: features (n, d), logits (n, K), labels (n,)."""

    feature: Tensor
    logits: Tensor
    label: Tensor


def head_tensors(head: Head) -> tuple[Tensor, Tensor]:
    """Weight (K, d) and bias (K,) of a linear head, float64, detached.

    Raises:
        TypeError: No linear layer and no pair of floating tensors.
        ValueError: Shapes that do not fit, fewer than two classes, NaN or infinite.
    """
    if isinstance(head, nn.Linear):
        head = (head.weight, head.bias)
    if not isinstance(head, tuple | list) or len(head) != 2:
        raise TypeError(
            "teacher_head must be an nn.Linear or a pair (weight (K, d), bias (K,) or None): the "
            f"constants of the bound are those of a linear head; got {type(head).__name__}"
        )
    weight = _floating(head[0], "teacher_head's weight", 2)
    if 0 in weight.shape or len(weight) < 2:
        raise ValueError(
            "teacher_head's weight must be (K, d) with K >= 2 classes and d >= 1 features, got "
            f"shape {tuple(weight.shape)}"
        )
    if head[1] is None:
        return weight, weight.new_zeros(len(weight))
    bias = _floating(head[1], "teacher_head's bias", 1)
    if len(bias) != len(weight):
        raise ValueError(
            f"teacher_head's bias must have shape ({len(weight)},), got {tuple(bias.shape)}"
        )
    return weight, bias.to(weight.device)


def side(name: str, feature: Tensor, logits: Tensor | None, label: Tensor, head: Head) -> Side:
    """One side, checked; ``logits`` None are those of the head.

    Raises:
        TypeError: Tensors of the wrong kind.
        ValueError: No sample, shapes that do not fit, NaN or infinite values, labels outside
            0..K-1, or teacher logits that are not those of its head.
    """
    weight, bias = head_tensors(head)
    num_classes, width = weight.shape
    z = _floating(feature, f"{name}_features", 2)
    if len(z) == 0:
        raise ValueError(f"{name}_features must have at least one row, got none")
    if z.shape[1] != width:
        raise ValueError(
            f"{name}_features must have the {width} columns of teacher_head, got {z.shape[1]}"
            + (": map them with the method's projector first" if name == "student" else "")
        )
    own = z @ weight.to(z.device).T + bias.to(z.device)
    given = own if logits is None else _floating(logits, f"{name}_logits", 2).to(z.device)
    if given.shape != (len(z), num_classes):
        raise ValueError(
            f"{name}_logits must have shape ({len(z)}, {num_classes}), got {tuple(given.shape)}"
        )
    if name == "teacher":
        gap = float((given - own).abs().max())
        if gap > LOGIT_TOLERANCE * (1 + float(own.abs().max())):
            raise ValueError(
                "teacher_logits must be those of teacher_head on teacher_features, got a "
                f"difference of up to {gap:.3g}"
            )
        given = own  # the head's, in full precision
    return Side(z, given, _labels(label, f"{name}_labels", len(z), num_classes).to(z.device))


def numbers(
    *, delta: float, epsilon: float, max_points: int, diameter: float | None,
    loss_bound: float | None, seed: int,
) -> None:  # fmt: skip
    """Check the options.

    Raises:
        TypeError: No numbers.
        ValueError: Out of range.
    """
    for name, value, low, high in (
        ("delta", delta, 0.0, 1.0),
        ("epsilon", epsilon, 0.0, math.inf),
        ("diameter", diameter, -1.0, math.inf),
        ("loss_bound", loss_bound, 0.0, math.inf),
    ):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name} must be a number, got {type(value).__name__}")
        if not low < value < high:
            shown = ">= 0 and finite" if low < 0 else f"in ({low:g}, {high:g})"
            raise ValueError(f"{name} must be {shown}, got {value}")
    if diameter is not None and diameter < 0:
        raise ValueError(f"diameter must be >= 0 and finite, got {diameter}")
    for name, count in (("max_points", max_points), ("seed", seed)):
        if isinstance(count, bool) or not isinstance(count, Integral):
            raise TypeError(f"{name} must be an integer, got {type(count).__name__}")
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed must have at most 64 bits, got {seed}")
    if max_points < 2:
        raise ValueError(f"max_points must be at least 2, got {max_points}")


def limit(name: str, given: float | None, seen: float, points: int = 0) -> float:
    """A limit of the populations: as given, or as seen in the samples.

    Raises:
        ValueError: The samples pass what was given (of many ``points``, a diameter that was seen is
            itself a bound, and proves nothing).
    """
    if given is None:
        return seen
    if given < seen * (1 - 1e-6) and points <= DIAMETER_LIMIT:
        raise ValueError(f"{name} must be at least that of the samples, {seen:.6g}; got {given}")
    return float(given)


def _floating(value: Tensor, name: str, ndim: int) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(f"{name} must be floating, got {value.dtype}")
    if value.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimensions, got shape {tuple(value.shape)}")
    value = value.detach().double()
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name} must be finite, got NaN or infinite values")
    return value


def _labels(value: Tensor, name: str, n: int, num_classes: int) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name} must be integers, got {value.dtype}")
    if value.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},), got {tuple(value.shape)}")
    low, high = int(value.min()), int(value.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"{name} must lie in 0..{num_classes - 1}, got values from {low} to {high}"
        )
    return value.long()
