"""The losses of CMD: a contrast within each stream, and neighbourhoods handed to the others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(positive: Tensor, negative: Tensor, *, temperature: float = 0.07) -> Tensor:
    """``-mean_i log e^{p_i/T} / (e^{p_i/T} + Σ_j e^{n_ij/T})``.

    He et al., "Momentum Contrast", CVPR 2020, eq. 1.

    Args:
        positive: Cosine of query and key of the same sample, ``(n,)``.
        negative: Cosines of the query and the K keys of the queue, ``(n, K)``.
        temperature: T > 0.

    Returns:
        A 0-d tensor, in nats.
    """
    logits = torch.cat((positive[:, None], negative), dim=1) / temperature
    return (logits.logsumexp(dim=1) - logits[:, 0]).mean()


def neighbour_kl(
    similarity: Tensor,
    teacher_similarity: Tensor,
    *,
    neighbours: int,
    temperature: float = 0.1,
    teacher_temperature: float = 0.05,
) -> Tensor:
    """``mean_i KL(softmax(t_i[N_i]/τ_t) ‖ softmax(s_i[N_i]/τ_s))``, N_i the teacher's neighbours.

    CMD, section 3.3: of the queue's samples those are kept that are most similar to the key of
    sample i in the teacher's stream, and the student's stream is to find them as similar. The
    columns of both are the same samples: the queues are aligned.

    Args:
        similarity: Cosines of the student's queries and its queue, ``(n, K)``.
        teacher_similarity: Cosines of the teacher's keys and its queue, ``(n, K)``; detached.
        neighbours: How many to keep, in 1..K.
        temperature: τ_s > 0.
        teacher_temperature: τ_t > 0, smaller, so that the teacher is sharper.

    Returns:
        A 0-d tensor ≥ 0, in nats.

    Raises:
        ValueError: Shapes that differ, or ``neighbours`` outside 1..K.
    """
    _check(similarity, teacher_similarity, 2, neighbours)
    index, target = _neighbourhood(teacher_similarity, neighbours, teacher_temperature)
    return _divergence(similarity, index, target, temperature)


def mutual_loss(
    similarity: Tensor,
    teacher_similarity: Tensor,
    *,
    neighbours: int,
    temperature: float = 0.1,
    teacher_temperature: float = 0.05,
) -> Tensor:
    """The sum of :func:`neighbour_kl` over all ordered pairs of S streams (six for three).

    Args:
        similarity: Of each stream's queries to its queue, ``(S, n, K)``.
        teacher_similarity: Of each stream's keys to its queue, ``(S, n, K)``; detached.
        neighbours: As there.
        temperature: As there.
        teacher_temperature: As there.

    Raises:
        ValueError: As there.
    """
    _check(similarity, teacher_similarity, 3, neighbours)
    found = []
    for u, teacher in enumerate(teacher_similarity):
        index, target = _neighbourhood(teacher, neighbours, teacher_temperature)
        found += [
            _divergence(student, index, target, temperature)
            for v, student in enumerate(similarity)
            if v != u
        ]
    return torch.stack(found).sum()


def _check(similarity: Tensor, teacher_similarity: Tensor, ndim: int, neighbours: int) -> None:
    if similarity.shape != teacher_similarity.shape or similarity.ndim != ndim:
        raise ValueError(
            f"similarity and teacher_similarity must both be ({'S, ' * (ndim == 3)}n, K), to "
            "queues aligned by index, got "
            f"{tuple(similarity.shape)} and {tuple(teacher_similarity.shape)}"
        )
    if not 1 <= neighbours <= similarity.shape[-1]:
        raise ValueError(
            f"neighbours must lie in 1..{similarity.shape[-1]}, the length of the queue, "
            f"got {neighbours}"
        )


def _neighbourhood(
    similarity: Tensor, neighbours: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """Of each row the most similar columns, and the log-probabilities of those."""
    kept, index = similarity.detach().topk(neighbours, dim=1, sorted=False)
    return index, (kept / temperature).log_softmax(dim=1)


def _divergence(similarity: Tensor, index: Tensor, target: Tensor, temperature: float) -> Tensor:
    found = (similarity.gather(1, index) / temperature).log_softmax(dim=1)
    return F.kl_div(found, target, reduction="batchmean", log_target=True)
