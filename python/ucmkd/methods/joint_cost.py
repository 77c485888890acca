"""The cost of joint alignment: how far apart features are, and how little predictions agree."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ucmkd.losses._common import full_precision, wide

_TINY = 1e-12


def normalised_distance(x: Tensor, y: Tensor) -> Tensor:
    """``‖x_i/|x_i| - y_j/|y_j|‖`` for ``(n, d)`` and ``(m, d)``, as ``(n, m)``.

    Computed as ``√(2 - 2cos)`` with a floor of 1e-6, so that the gradient stays finite where
    points coincide.
    """
    x, y = wide(x), wide(y)
    with full_precision(x):
        cosine = F.normalize(x, dim=-1) @ F.normalize(y, dim=-1).T
    return (2 - 2 * cosine).clamp_min(_TINY).sqrt()


def joint_cost(
    features: Tensor,
    logits: Tensor,
    teacher_features: Tensor | None,
    teacher_probability: Tensor,
    *,
    feature_weight: float = 1.0,
) -> Tensor:
    r"""The cost of matching student sample i with teacher sample j.

    .. math::
        M_{ij} = w\,\frac{\|\hat x_i - \hat z_j\|}{\mathrm{mean}}
                 - \sum_c q_{jc} \log p_S(c|x_i)

    with hats for L2 normalisation and the mean, detached, over all pairs.

    Args:
        features: Projected student features ``(u, d_T)``.
        logits: Student logits ``(u, C)``.
        teacher_features: ``(v, d_T)``; may be None for ``feature_weight=0``.
        teacher_probability: The teacher's softmax ``(v, C)``.
        feature_weight: w; 0 leaves the labels alone.

    Returns:
        Costs ``(u, v)``, float32 or better, differentiable in the student's side.
    """
    q = wide(teacher_probability.detach(), logits)
    with full_precision(logits):
        cost = -(F.log_softmax(wide(logits), dim=-1) @ q.T)
    if feature_weight and teacher_features is not None:
        distance = normalised_distance(features, wide(teacher_features.detach(), features))
        cost = cost + feature_weight * distance / distance.detach().mean().clamp_min(_TINY)
    return cost
