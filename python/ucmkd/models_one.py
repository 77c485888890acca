"""The gated network of ONE: one trunk, several branches, and a gate that mixes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ucmkd.losses.one import gated_logits
from ucmkd.methods import checks
from ucmkd.models import head_module
from ucmkd.models_cnn import SmallCNN


class GatedOutputs(NamedTuple):
    """One pass of :class:`GatedEnsemble`.

    Attributes:
        branch_logits: ``(n, m, C)``.
        gate: ``(n, m)``, rows that sum to 1.
    """

    branch_logits: Tensor
    gate: Tensor


class Gate(nn.Module):
    """Weights of the branches: ``softmax(ReLU(BatchNorm(linear(mean of the trunk's maps))))``.

    Args:
        channels: Of the trunk's output ``(n, channels, ...)``.
        branches: Their number m.
    """

    def __init__(self, channels: int, branches: int) -> None:
        super().__init__()
        checks.integer("channels", channels, minimum=1)
        checks.integer("branches", branches, minimum=1)
        self.linear = nn.Linear(channels, branches)
        self.norm = nn.BatchNorm1d(branches)

    def forward(self, shared: Tensor) -> Tensor:
        """``(n, m)`` of shared features ``(n, channels, ...)``."""
        mean = shared.flatten(2).mean(2) if shared.dim() > 2 else shared
        return self.norm(self.linear(mean)).relu().softmax(1)


class GatedEnsemble(nn.Module):
    """Branches on a shared trunk; after the training any of them is used alone.

    Lan, Zhu and Gong, NeurIPS 2018 (arXiv 1806.04606); the loss is :func:`ucmkd.losses.one_loss`.
    The branches differ by their initial weights alone.

    Args:
        trunk: Inputs to shared features ``(n, channels, ...)``.
        branches: At least two modules, shared features to logits ``(n, C)``.
        gate: Shared features to weights ``(n, m)``.

    Raises:
        ValueError: Fewer than two branches.
    """

    def __init__(self, trunk: nn.Module, branches: Iterable[nn.Module], gate: nn.Module) -> None:
        super().__init__()
        self.trunk, self.branches, self.gate = trunk, nn.ModuleList(branches), gate
        if len(self.branches) < 2:
            raise ValueError(f"branches must be at least two modules, got {len(self.branches)}")

    def forward(self, inputs: Tensor) -> GatedOutputs:
        """Logits of every branch and the weights of the gate."""
        shared = self.trunk(inputs)
        logits = torch.stack([branch(shared) for branch in self.branches], dim=1)
        return GatedOutputs(logits, self.gate(shared))

    def mixture(self, inputs: Tensor) -> Tensor:
        """Logits ``(n, C)`` of the whole ensemble, its own teacher."""
        return gated_logits(*self(inputs))

    def branch(self, index: int = 0) -> nn.Sequential:
        """Trunk and one branch: the network to deploy, which shares its weights with this one."""
        return nn.Sequential(self.trunk, self.branches[index])


def gated_cnn(make: Callable[[], SmallCNN], branches: int = 3) -> GatedEnsemble:
    """A :class:`GatedEnsemble` whose branches have the last stage and the head of a small CNN.

    Each branch with the trunk is a network as ``make`` builds it.

    Args:
        make: Makes a :class:`ucmkd.models_cnn.SmallCNN` of at least two stages.
        branches: Their number m ≥ 2; 3 in the paper.

    Raises:
        TypeError, ValueError: ``branches`` is no integer of at least 2, or there is one stage only.
    """
    checks.integer("branches", branches, minimum=2)
    nets = [make() for _ in range(branches)]
    if len(nets[0].blocks) < 2:
        raise ValueError("make must build a network of at least two stages, got one")
    trunk = nn.Sequential(*[m for s in nets[0].blocks[:-1] for m in (s, nn.MaxPool2d(2))])
    ends = [
        nn.Sequential(net.blocks[-1], nn.MaxPool2d(2), nn.Flatten(), head_module(net))
        for net in nets
    ]
    return GatedEnsemble(trunk, ends, Gate(nets[0].channels[-2], branches))
