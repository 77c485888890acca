"""Class memberships as masses: one column for each class, each with the same total mass."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from ucmkd.ops import _check
from ucmkd.ops._plain import mapped


def _soft(value: Tensor, shape: tuple[int, int], name: str, like: Tensor) -> Tensor:
    """Memberships ``(B, n, K)``, non-negative."""
    _check.same_device(like, value, "the points", name)
    given = tuple(value.shape)
    if value.dim() == 2 and value.shape[0] == shape[1]:
        value = value.unsqueeze(0).expand(shape[0], -1, -1)
    if value.dim() != 3 or tuple(value.shape[:2]) != shape or value.shape[2] == 0:
        raise ValueError(f"{name} must have shape ({shape[1]}, K) or {(*shape, 'K')}; got {given}")
    data = value.detach()
    if not torch.compiler.is_compiling():
        _check.holds(
            (data >= 0) & data.isfinite(), f"{name} must be non-negative and finite",
            lambda: f"{float(data.min())} to {float(data.max())} in it",
        )  # fmt: skip
    return value


def _one_hot(label: Tensor, classes: int, name: str, dtype: torch.dtype) -> Tensor:
    if not torch.compiler.is_compiling():
        _check.holds(
            (label >= 0) & (label < classes), f"{name} must lie in [0, {classes})",
            lambda: f"{int(label.min())} to {int(label.max())}",
        )  # fmt: skip
    return (label.unsqueeze(-1) == torch.arange(classes, device=label.device)).to(dtype)


def check_num_classes(classes: int | None) -> None:
    """None, or a number of classes."""
    if classes is None:
        return
    if isinstance(classes, bool) or not isinstance(classes, Integral) or classes < 1:
        raise ValueError(f"num_classes must be None or an integer >= 1; got {classes!r}")


def memberships(
    first: Tensor,
    second: Tensor,
    classes: int | None,
    shapes: tuple[tuple[int, int], tuple[int, int]],
    names: tuple[str, str],
    like: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Memberships ``(B, n, K)`` and ``(B, m, K)`` from integer labels or soft ones.

    The number of classes is that of the soft labels, else ``classes``, else it is counted, which
    reads the labels.
    """
    soft = []
    for value, name in ((first, names[0]), (second, names[1])):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor; got {type(value).__name__}")
        soft.append(value.is_floating_point() and value.dim() > 1)
    given: list[Tensor] = []
    for i, value in enumerate((first, second)):
        if soft[i]:
            given.append(_soft(value, shapes[i], names[i], like).to(dtype))
            continue
        if value.is_floating_point():
            raise TypeError(
                f"{names[i]} must be an integer tensor, or floating memberships with a column for "
                f"each class; got {value.dtype} of shape {tuple(value.shape)}"
            )
        label = _check.label(value, shapes[i], names[i], like)
        assert label is not None
        given.append(label)
    counts = {int(g.shape[2]) for g, is_soft in zip(given, soft, strict=True) if is_soft}
    if classes is not None:
        counts.add(int(classes))
    if len(counts) > 1:
        raise ValueError(
            f"{names[0]}, {names[1]} and num_classes must have one number of classes; "
            f"got {sorted(counts)}"
        )
    if counts:
        count = counts.pop()
        pair = [
            g if is_soft else _one_hot(g, count, name, dtype)
            for g, is_soft, name in zip(given, soft, names, strict=True)
        ]
        return pair[0], pair[1]
    if torch.compiler.is_compiling() or mapped():
        raise ValueError(
            f"num_classes must be given with integer {names[0]} and {names[1]} inside "
            "torch.compile and under torch.func.vmap"
        )
    # Any integers: numbered anew.
    values, index = torch.unique(
        torch.cat([given[0].flatten(), given[1].flatten()]), return_inverse=True
    )
    split = given[0].numel()
    return (
        _one_hot(index[:split].view_as(given[0]), len(values), names[0], dtype),
        _one_hot(index[split:].view_as(given[1]), len(values), names[1], dtype),
    )


def class_masses(
    first: Tensor, second: Tensor, a: Tensor | None, b: Tensor | None
) -> tuple[Tensor, Tensor]:
    r"""Masses whose MMD, summed over the classes, is the mean over the common classes.

    Both estimators are quadratic in a common factor of the masses: each of the :math:`C` classes
    with a mass on both sides gets the total :math:`1/\sqrt C`, the others 0.
    """
    first = first if a is None else first * a.unsqueeze(-1)
    second = second if b is None else second * b.unsqueeze(-1)
    one, two = first.sum(1, keepdim=True), second.sum(1, keepdim=True)
    common = (one > 0) & (two > 0)
    share = common / common.sum(-1, keepdim=True).clamp(min=1).to(first.dtype).sqrt()
    return (
        first * (share / torch.where(common, one, 1.0)),
        second * (share / torch.where(common, two, 1.0)),
    )
