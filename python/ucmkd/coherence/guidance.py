"""Weak cross-modal guidance: sure pairwise decisions of one modality help the other."""

from __future__ import annotations

import torch
from torch import Tensor

from ucmkd.coherence.orders import AFTER, check_logits


def best_match(similarity: Tensor) -> Tensor:
    """For every guiding element the most similar guided one.

    Args:
        similarity: ``(B, n_g, n)``.

    Returns:
        ``(B, n_g)`` int64; the first of equal ones. Two may have the same.

    Raises:
        ValueError: Not of that shape.
    """
    if not isinstance(similarity, Tensor) or similarity.dim() != 3 or 0 in similarity.shape:
        shape = tuple(similarity.shape) if isinstance(similarity, Tensor) else type(similarity)
        raise ValueError(f"similarity must have shape (B, n_g, n), not empty; got {shape}")
    return similarity.argmax(-1)


def guided_logits(
    logits: Tensor,
    guide_logits: Tensor,
    match: Tensor,
    *,
    threshold: float = 0.8,
    weight: float = 1.0,
) -> Tensor:
    r"""Order logits with the sure ones of a guide added where they belong.

    .. math:: o_{m(i)\,m(j)} \mathrel{+}= \lambda\, \bar o_{ij} \quad \text{for all } i \ne j
        \text{ with } \mathrm{softmax}(\bar o_{ij})_0 > \theta

    Class 0 says that i comes after j, so that of the two directions of a pair the one that is read
    "after" is added; several that fall onto one pair add up; where m(i) = m(j), nothing of weight
    happens, for diagonals never count. The guide is detached.

    Args:
        logits: Guided, ``(B, n, n, 2)``.
        guide_logits: :math:`\bar o`, ``(B, n_g, n_g, 2)``.
        match: m, ``(B, n_g)`` integers in 0 … n - 1, see :func:`best_match`.
        threshold: θ in [0, 1]; 1 adds nothing. The paper has .8 from text to images, .9 back.
        weight: λ >= 0. The paper has 1 from text to images, .25 back.

    Returns:
        ``(B, n, n, 2)``, a new tensor.

    Raises:
        TypeError: Tensors of the wrong kind.
        ValueError: Shapes that do not fit, a match or a number out of range.

    Source: WeGO (ACM Multimedia 2024); form and numbers as in the released code.
    """
    check_logits(logits)
    check_logits(guide_logits, "guide_logits")
    if not isinstance(match, Tensor) or match.is_floating_point():
        kind = match.dtype if isinstance(match, Tensor) else type(match).__name__
        raise TypeError(f"match must be an integer torch.Tensor; got {kind}")
    if len(guide_logits) != len(logits) or match.shape != guide_logits.shape[:2]:
        raise ValueError(
            "logits, guide_logits and match must have shapes (B, n, n, 2), (B, n_g, n_g, 2) and "
            f"(B, n_g); got {tuple(logits.shape)}, {tuple(guide_logits.shape)} and "
            f"{tuple(match.shape)}"
        )
    if int(match.min()) < 0 or int(match.max()) >= logits.shape[1]:
        raise ValueError(
            f"match must lie in 0…{logits.shape[1] - 1}; got {int(match.min())} to "
            f"{int(match.max())}"
        )
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must lie in [0, 1]; got {threshold}")
    if not 0 <= weight < float("inf"):
        raise ValueError(f"weight must be >= 0 and finite; got {weight}")
    guide = guide_logits.detach().to(logits.dtype)
    sure = guide.softmax(-1)[..., AFTER] > threshold
    sure &= ~torch.eye(guide.shape[1], dtype=torch.bool, device=guide.device)
    row, i, j = sure.nonzero(as_tuple=True)
    return logits.index_put(
        (row, match[row, i], match[row, j]), weight * guide[row, i, j], accumulate=True
    )
