"""The order network of one modality, and the two towers that align two modalities."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class OrderNet(nn.Module):
    """Elements ``(B, n, ...)`` to pairwise order logits ``(B, n, n, 2)``.

    A perceptron per element, a self-attention layer over the set (without positions, which are
    what is sought), and ``W tanh(V [h_i, h_j])`` for every ordered pair, as in the released code
    of WeGO with its BERT and CLIP exchanged for the perceptron.

    Args:
        inputs: Numbers per element, flattened.
        width: Of the representations, a multiple of 4.
        dropout: In the attention layer and before ``tanh``.
    """

    def __init__(self, inputs: int, *, width: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        self.element = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width))
        self.context = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout, batch_first=True
        )  # fmt: skip
        self.pair = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)
        self.order = nn.Linear(width, 2)

    def forward(self, elements: Tensor) -> Tensor:
        """Logits ``(B, n, n, 2)``; class 0 is "i after j", class 1 "i before j".

        Args:
            elements: ``(B, n, ...)``.
        """
        found = self.context(self.element(elements.flatten(2)))
        n = found.shape[1]
        first = found[:, :, None].expand(-1, -1, n, -1)
        second = found[:, None].expand(-1, n, -1, -1)
        hidden = self.pair(torch.cat([first, second], dim=-1))
        logits: Tensor = self.order(torch.tanh(self.dropout(hidden)))
        return logits


class Towers(nn.Module):
    """Cosine similarity of elements of two modalities, learnt from pairs.

    Args:
        guide_inputs: Numbers per element of the guide, flattened.
        student_inputs: Of the other modality.
        width: Hidden.
        dim: Of the common space.
    """

    def __init__(
        self, guide_inputs: int, student_inputs: int, *, width: int = 64, dim: int = 32
    ) -> None:
        super().__init__()
        self.guide, self.student = (
            nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, dim))
            for inputs in (guide_inputs, student_inputs)
        )

    def forward(self, guide: Tensor, student: Tensor) -> Tensor:
        """Similarities ``(B, n_g, n)``.

        Args:
            guide: Elements ``(B, n_g, ...)``.
            student: Elements ``(B, n, ...)``.
        """
        first = F.normalize(self.guide(guide.flatten(2)), dim=-1)
        second = F.normalize(self.student(student.flatten(2)), dim=-1)
        return first @ second.mT


def alignment_loss(similarity: Tensor, partner: Tensor, *, temperature: float = 0.1) -> Tensor:
    r"""Symmetric InfoNCE within each set, in nats.

    :math:`\frac12` cross-entropy of the rows and of the columns of ``similarity / temperature``,
    the partner being the class.

    Args:
        similarity: ``(B, n, n)``.
        partner: ``(B, n)``: the column that belongs to each row, each once.
        temperature: > 0.

    Raises:
        ValueError: A temperature that is not positive, or shapes that do not fit.
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be > 0; got {temperature}")
    if similarity.dim() != 3 or similarity.shape[:2] != partner.shape:
        raise ValueError(
            "similarity and partner must have shapes (B, n, n) and (B, n); got "
            f"{tuple(similarity.shape)} and {tuple(partner.shape)}"
        )
    scaled = similarity / temperature
    rows = F.cross_entropy(scaled.flatten(0, 1), partner.flatten())
    back = partner.argsort(dim=1)
    columns = F.cross_entropy(scaled.mT.flatten(0, 1), back.flatten())
    return (rows + columns) / 2
