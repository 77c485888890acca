"""A guess of what cannot be known, made likely by a judge: small conditional entropy by a game."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ucmkd.losses._common import wide


def judge_loss(real: Tensor, guessed: Tensor) -> Tensor:
    """``-mean log D(real) - mean log(1 - D(guessed))`` of logits ``(p,)``, for the judge."""
    return F.softplus(-wide(real)).mean() + F.softplus(wide(guessed)).mean()


def guess_loss(guessed: Tensor) -> Tensor:
    """``-mean log D(guessed)`` of logits ``(p,)``, for the guesser."""
    return F.softplus(-wide(guessed)).mean()


class Adversary(nn.Module):
    """A guesser G of t from s, and a judge D that sees s beside t or G(s).

    Where the judge cannot tell ``(s, t)`` from ``(s, G(s))``, t is as good as a function of s:
    ``H(T|S)`` is small. Both networks have one hidden layer.

    Args:
        width: Of s.
        teacher_width: Of t.
        hidden: Units of each network.
    """

    def __init__(self, width: int, teacher_width: int, hidden: int) -> None:
        super().__init__()
        self.guesser = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, teacher_width)
        )
        self.judge = nn.Sequential(
            nn.Linear(width + teacher_width, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )

    def losses(self, features: Tensor, teacher_features: Tensor) -> tuple[Tensor, Tensor]:
        """:func:`guess_loss` for s and G, with a fixed judge, and :func:`judge_loss` for D alone.

        Args:
            features: s ``(p, width)``.
            teacher_features: t ``(p, teacher_width)``; takes no gradient, or t would become
                easier to guess instead of being guessed better.
        """
        given, target = features.detach(), teacher_features.detach()
        guess = self.guesser(features)
        fixed = {k: p.detach() for k, p in self.judge.named_parameters()}
        seen = torch.func.functional_call(self.judge, fixed, (torch.cat((given, guess), dim=1),))
        real = self.judge(torch.cat((given, target), dim=1))
        fake = self.judge(torch.cat((given, guess.detach()), dim=1))
        return guess_loss(seen[:, 0]), judge_loss(real[:, 0], fake[:, 0])
