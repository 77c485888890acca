r"""CMIMH, cross-modal info-max hashing: binary codes that tell much of the input and of each other.

Hoang, Do, Nguyen and Cheung, "Multimodal Mutual Information Maximization: A Novel Approach for
Unsupervised Deep Cross-Modal Hashing", TNNLS 2023 (arXiv 2112.06489). A *reconstruction*: no
official code exists, and only the paper's stated objective is taken over: bits are independent
Bernoulli variables given the input; variational bounds of the information between code and input
and between the two codes are maximised; the gap between the modalities is closed with a moderate
weight, as codes that agree entirely lose what only one modality knows.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ucmkd.methods import checks


def log_likelihood(bits: Tensor, logits: Tensor) -> Tensor:
    r"""Entry (i, j): :math:`\log p(b_i|x_j) = \sum_k b_{ik} l_{jk} - \log(1+e^{l_{jk}})`.

    Args:
        bits: ``(n, k)`` in {0, 1}.
        logits: l ``(m, k)``.
    """
    return bits @ logits.mT - F.softplus(logits).sum(-1)


def conditional_entropy(logits: Tensor) -> Tensor:
    r"""H(b|x) in nats: the mean over the samples of :math:`\sum_k h(\sigma(l_{ik}))`, 0-d."""
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
    r"""E log q(b|·) in nats: the mean of :math:`\log q(b_i)` with q's logits, 0-d."""
    return -F.binary_cross_entropy_with_logits(logits, bits, reduction="none").sum(-1).mean()


def modality_gap(logits: Tensor, other: Tensor) -> Tensor:
    r"""The mean of :math:`\|p^x_i - p^y_i\|_2^2` over the pairs, 0-d."""
    return (logits.sigmoid() - other.sigmoid()).square().sum(-1).mean()


def straight_through(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Bits drawn from ``σ(logits)``, with the gradient of the probabilities."""
    p = logits.sigmoid()
    # Drawn where the generator is: one on the CPU gives a GPU the same bits.
    where = p.device if generator is None else generator.device
    chance = torch.rand(p.shape, generator=generator, dtype=p.dtype, device=where)
    drawn = chance.to(p.device) < p
    return drawn.to(p.dtype) + p - p.detach()


class CMIMH(nn.Module):
    r"""Two encoders, one for each modality, and two predictors of one code from the other.

    .. math:: \mathcal{L} = -\sum_{m} I_p(b^m; x^m)
        - \tfrac{\alpha}{2}\big[I_q(b^y; b^x) + I_q(b^x; b^y)\big] + \lambda\,E\|p^x - p^y\|^2

    .. math:: I_p(b; x) = \hat H_p(b) - H_p(b|x), \qquad
        I_q(b; c) = \hat H_q(b) + E \log q(b|c),

    the first with the code's own Bernoulli variables, the second with those that a linear predictor
    q gives from the other code; :math:`\hat H` is :func:`code_entropy` under either. Both are lower
    bounds of the information.

    Terms, in nats, to be minimised: ``information``, ``cross`` (both negated bounds) and ``gap``.

    Args:
        x_features: Width of the first modality.
        y_features: Width of the second.
        bits: k, length of the codes.
        hidden: Units of the encoders' one hidden layer.
        cross: α ≥ 0.
        gap: λ ≥ 0; without it the bits of the two codes have nothing to do with each other, and
            the larger it is, the less they tell (the default suits standardised inputs).

    Raises:
        TypeError: An option of the wrong type.
        ValueError: A size below one, or a negative weight.
    """

    def __init__(
        self,
        x_features: int,
        y_features: int,
        *,
        bits: int = 32,
        hidden: int = 128,
        cross: float = 1.0,
        gap: float = 3.0,
    ) -> None:
        super().__init__()
        sizes = {"x_features": x_features, "y_features": y_features, "bits": bits, "hidden": hidden}
        for name, value in sizes.items():
            checks.integer(name, value, minimum=1)
        checks.number("cross", cross)
        checks.number("gap", gap)
        self.cross, self.gap, self.bits = cross, gap, bits
        self.encoders = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, bits))
                for name, width in (("x", x_features), ("y", y_features))
            }
        )
        self.predictors = nn.ModuleDict({name: nn.Linear(bits, bits) for name in ("x", "y")})

    def terms(
        self, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """``{"information", "cross", "gap"}`` of pairs ``(n, x_features)``, ``(n, y_features)``.

        Args:
            x: First modality.
            y: Second; row i is the same sample.
            generator: Of the drawn bits; None: PyTorch's global one.
        """
        if len(x) != len(y):
            raise ValueError(f"x and y must be pairs, got {len(x)} and {len(y)} rows")
        logits = {"x": self.encoders["x"](x), "y": self.encoders["y"](y)}
        bits = {name: straight_through(value, generator) for name, value in logits.items()}
        information = sum(
            code_entropy(bits[name], logits[name]) - conditional_entropy(logits[name])
            for name in logits
        )
        cross = []
        for to, other in (("y", "x"), ("x", "y")):
            q = self.predictors[to](bits[other])
            cross.append(code_entropy(bits[to], q) + prediction(bits[to], q))
        return {
            "information": -torch.as_tensor(information),
            "cross": -(cross[0] + cross[1]) / 2,
            "gap": modality_gap(logits["x"], logits["y"]),
        }

    def loss(self, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The weighted sum of :meth:`terms`."""
        terms = self.terms(x, y, generator)
        return terms["information"] + self.cross * terms["cross"] + self.gap * terms["gap"]

    @torch.no_grad()
    def codes(self, modality: str, inputs: Tensor) -> Tensor:
        """The likeliest code, ``(n, k)`` bool, of inputs of modality ``"x"`` or ``"y"``."""
        checks.choice("modality", modality, ("x", "y"))
        found: Tensor = self.encoders[modality](inputs) > 0
        return found
