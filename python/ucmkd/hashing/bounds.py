"""Bounds of the information in codes of independent Bernoulli bits; the losses of CMIMH."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def log_likelihood(bits: Tensor, logits: Tensor) -> Tensor:
    r"""Entry (i, j): :math:`\log p(b_i|x_j) = \sum_k b_{ik} l_{jk} - \log(1+e^{l_{jk}})`.

    Args:
        bits: ``(n, k)`` in {0, 1}.
        logits: l ``(m, k)``.
    """
    return bits @ logits.mT - F.softplus(logits).sum(-1)


def conditional_entropy(logits: Tensor) -> Tensor:
    r"""H(b|x) in nats: the mean over the samples of :math:`\sum_k h(\sigma(l_{ik}))`, 0-d.

    Args:
        logits: l ``(n, k)``.
    """
    return (F.softplus(logits) - logits * logits.sigmoid()).sum(-1).mean()


def code_entropy(bits: Tensor, logits: Tensor) -> Tensor:
    r"""Ĥ(b) in nats from a batch: the codes under the mixture of all its samples.

    .. math:: -\frac1n\sum_i \log \frac1n\sum_j p(b_i|x_j)

    It sees whether bits repeat each other, which the entropies of single bits do not. Minus H(b|x)
    it is the contrastive bound of I(b; x) (van den Oord et al. 2018, arXiv 1807.03748) with
    log p(b|x) as critic, at most log n.

    Args:
        bits: ``(n, k)``, row i drawn from ``logits[i]``.
        logits: ``(n, k)``.
    """
    mixture = torch.logsumexp(log_likelihood(bits, logits), dim=1) - math.log(len(logits))
    return -mixture.mean()


def prediction(bits: Tensor, logits: Tensor) -> Tensor:
    r"""E log q(b|·) in nats: the mean of :math:`\log q(b_i)` with q's logits, 0-d.

    Args:
        bits: ``(n, k)`` in {0, 1}.
        logits: Of q, ``(n, k)``.
    """
    return -F.binary_cross_entropy_with_logits(logits, bits, reduction="none").sum(-1).mean()


def modality_gap(logits: Tensor, other: Tensor) -> Tensor:
    r"""The mean of :math:`\|p^x_i - p^y_i\|_2^2` over the pairs, 0-d.

    Args:
        logits: Of :math:`p^x`, ``(n, k)``.
        other: Of :math:`p^y`, ``(n, k)``; row i is the same sample.
    """
    return (logits.sigmoid() - other.sigmoid()).square().sum(-1).mean()


def straight_through(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Bits drawn from ``σ(logits)``, with the gradient of the probabilities.

    Args:
        logits: ``(n, k)``.
        generator: Of the draw; None: PyTorch's global one.
    """
    p = logits.sigmoid()
    # Drawn where the generator is: one on the CPU gives a GPU the same bits.
    where = p.device if generator is None else generator.device
    chance = torch.rand(p.shape, generator=generator, dtype=p.dtype, device=where)
    drawn = chance.to(p.device) < p
    return drawn.to(p.dtype) + p - p.detach()
