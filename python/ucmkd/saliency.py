r"""Modality-general saliency: which channels of a teacher a student of another modality can follow.

Xue, Gao, Ren and Zhao, "The Modality Focusing Hypothesis", ICLR 2023, algorithm 1. Teacher and
student are trained with a term that keeps their outputs near each other; then a channel of the
teacher matters to both where shuffling it over the samples drives the outputs apart:
``saliency_c = E_π mean_ik (o_s,ik - o_t,ik with channel c permuted by π)²``, scaled to [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def linear_saliency(student_logits: Tensor, features: Tensor, weight: Tensor) -> Tensor:
    """Saliency of the channels before a linear layer, over all permutations at once.

    With r = o_t - o_s and w_c the layer's column, permuting channel c by a uniform π gives
    ``mean_i ‖r_i - w_c x_ic‖² + 2 mean(r - w_c x_c)·w_c mean(x_c) + ‖w_c‖² mean(x_c²)``, over C.

    Args:
        student_logits: o_s ``(n, C)``, less the layer's bias.
        features: x ``(n, d)``, the layer's inputs.
        weight: ``(C, d)``.

    Returns:
        ``(d,)`` in [0, 1]; all 0 where no channel differs from another.

    Raises:
        ValueError: Shapes that do not fit.
    """
    _check(student_logits, features)
    if weight.shape != (student_logits.shape[1], features.shape[1]):
        raise ValueError(
            f"weight must have shape ({student_logits.shape[1]}, {features.shape[1]}), got "
            f"{tuple(weight.shape)}"
        )
    residual = features @ weight.T - student_logits
    n, norm = len(features), weight.square().sum(dim=0)
    cross = (features * (residual @ weight)).sum(dim=0) / n
    mean, square = features.mean(dim=0), features.square().mean(dim=0)
    kept = residual.square().sum(dim=1).mean() - 2 * cross + norm * square
    lost = (residual.mean(dim=0) @ weight - norm * mean) * mean
    return _scaled((kept + 2 * lost + norm * square) / student_logits.shape[1])


def permutation_saliency(
    student_logits: Tensor,
    features: Tensor,
    head: Callable[[Tensor], Tensor],
    *,
    permutations: int = 100,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The same for any head, by drawing permutations (100 in the paper, 10 on its audio data).

    Args:
        student_logits: o_s ``(n, C)``.
        features: Of the teacher, ``(n, d)``.
        head: Features to logits ``(n, C)``.
        permutations: M of each channel.
        generator: Random numbers.

    Returns:
        ``(d,)`` in [0, 1].

    Raises:
        ValueError: Shapes that do not fit, or no permutation.
    """
    _check(student_logits, features)
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}")
    found = features.new_zeros(features.shape[1])
    for channel in range(features.shape[1]):
        shuffled = features.clone()
        for _ in range(permutations):
            order = torch.randperm(len(features), generator=generator).to(features.device)
            shuffled[:, channel] = features[order, channel]
            found[channel] += (student_logits - head(shuffled)).square().mean()
    return _scaled(found / permutations)


def general_channels(saliency: Tensor, share: float) -> Tensor:
    """1 for the channels that are kept, 0 for the ``share`` of lowest saliency; ``(d,)``.

    ``round(share · d)`` channels are dropped, at most d - 1; of equal ones the later.

    Raises:
        ValueError: ``share`` outside [0, 1).
    """
    if not 0.0 <= share < 1.0:
        raise ValueError(f"share must lie in [0, 1), got {share!r}")
    width = len(saliency)
    kept = max(1, width - round(share * width))
    mask = torch.zeros_like(saliency)
    mask[torch.argsort(saliency, descending=True, stable=True)[:kept]] = 1.0
    return mask


def _check(student_logits: Tensor, features: Tensor) -> None:
    shapes = tuple(student_logits.shape), tuple(features.shape)
    if student_logits.ndim != 2 or features.ndim != 2 or len(student_logits) != len(features):
        raise ValueError(
            "student_logits and features must have shapes (n, C) and (n, d), row by row of the "
            f"same samples, got {shapes[0]} and {shapes[1]}"
        )
    if 0 in (*shapes[0], *shapes[1]):
        raise ValueError(f"student_logits and features must not be empty, got {shapes}")


def _scaled(raw: Tensor) -> Tensor:
    span = raw.max() - raw.min()
    return (raw - raw.min()) / span if span > 0 else torch.zeros_like(raw)
