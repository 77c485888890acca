"""Where a sample stands among its modality's own classes: comparable across modalities as it is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ucmkd.losses._common import full_precision, wide


def class_means(features: Tensor, membership: Tensor) -> tuple[Tensor, Tensor]:
    """Mean features per class, and which classes have any members.

    Args:
        features: ``(n, d)``.
        membership: ``(n, C)`` ≥ 0: one-hot labels, or probabilities.

    Returns:
        Means ``(C, d)``, zero where a class has no members, and a mask ``(C,)``.
    """
    features, membership = wide(features), wide(membership)
    mass = membership.sum(0)
    with full_precision(features):
        means = membership.T @ features / mass.clamp_min(1e-6)[:, None]
    present = mass > 1e-3
    return torch.where(present[:, None], means, 0.0), present


def log_profile(features: Tensor, means: Tensor, present: Tensor, temperature: float) -> Tensor:
    """``log softmax_c(cos(x_i, μ_c) / τ)`` over the classes present ``(n, C)``, else -inf."""
    features, means = wide(features), wide(means)
    with full_precision(features):
        cosine = F.normalize(features, dim=-1) @ F.normalize(means, dim=-1).T
    return (cosine / temperature).masked_fill(~present, -torch.inf).log_softmax(-1)


def profile_cost(
    features: Tensor,
    labelled: Tensor,
    label: Tensor,
    teacher_features: Tensor,
    teacher_probability: Tensor,
    *,
    temperature: float = 0.2,
) -> Tensor:
    r"""How differently two samples stand among the classes of their own modality.

    .. math::
        K_{ij} = \mathrm{KL}(r_j \,\|\, s_i), \qquad
        s_{ic} \propto e^{\cos(x_i - \bar x,\; \mu_c - \bar x)/\tau}, \quad
        r_{jc} \propto e^{\cos(z_j - \bar z,\; \nu_c - \bar z)/\tau}

    μ are the class means of the labelled student samples, ν those of the teacher's samples
    (weighted by its own probabilities), bars the means of all. No map between the modalities is
    needed: the classes are the landmarks (relative representations: Moschella et al. 2023,
    arXiv 2209.15430, with class means in the place of paired anchors). Classes that one of the two
    batches lacks are left out.

    Args:
        features: Student features ``(u, d)``; the gradient flows through them and ``labelled``.
        labelled: Features ``(n, d)`` of the labelled student samples.
        label: Their classes ``(n,)``.
        teacher_features: ``(v, d_T)``.
        teacher_probability: ``(v, C)``.
        temperature: τ > 0.

    Returns:
        Costs ``(u, v)``, ≥ 0.
    """
    features, labelled = wide(features), wide(labelled)
    q = teacher_probability.detach().to(features.dtype)
    teacher = teacher_features.detach().to(features.dtype)
    centre = torch.cat((labelled, features)).detach().mean(0)
    middle = teacher.mean(0)
    own, have = class_means(labelled - centre, F.one_hot(label, q.shape[1]).to(features.dtype))
    other, known = class_means(teacher - middle, q)
    both = have & known
    log_s = log_profile(features - centre, own, both, temperature)[:, both]
    log_r = log_profile(teacher - middle, other, both, temperature)[:, both]
    r = log_r.exp()
    with full_precision(r):
        return (r * log_r).sum(-1) - log_s @ r.T
