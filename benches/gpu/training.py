"""How much of a training step the alignment takes: ResNet-18, bf16, a frozen teacher's features."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benches.gpu.clock import Clock

#: The share that is aimed at.
TARGET = 0.05


class Block(nn.Module):
    """Two 3 x 3 convolutions with a shortcut (He et al. 2016, figure 2)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(after) for _ in range(2))
        self.shortcut: nn.Module = nn.Identity()
        if before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, image: Tensor) -> Tensor:
        hidden = functional.relu(self.norms[0](self.first(image)))
        return functional.relu(self.norms[1](self.second(hidden)) + self.shortcut(image))


class ResNet18(nn.Module):
    """ResNet-18 of the same paper; its features have ``8 * width`` coordinates (512)."""

    def __init__(self, width: int = 64, classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )  # fmt: skip
        widths = [width * factor for factor in (1, 1, 2, 4, 8)]
        self.blocks = nn.Sequential(
            *(
                Block(before if k == 0 else after, after, 2 if k == 0 and before != after else 1)
                for before, after in pairwise(widths)
                for k in range(2)
            )
        )
        self.head = nn.Linear(8 * width, classes)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``(n, 8 width)`` and logits."""
        features = self.blocks(self.stem(image)).mean((-2, -1))
        return features, self.head(features)


@dataclass(frozen=True)
class Setting:
    """The student's batch."""

    batch: int = 256
    pixels: int = 224
    width: int = 64
    rounds: int = 15
    warm: int = 3
    epsilon: float = 0.05


def _steps(setting: Setting, device: torch.device) -> dict[str, Callable[[], Any]]:
    from ucmkd import losses

    def make(align: Callable[[Tensor, Tensor], Tensor] | None) -> Callable[[], Any]:
        torch.manual_seed(0)
        net = ResNet18(setting.width).to(device).to(memory_format=torch.channels_last)
        optimiser = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
        shape = (setting.batch, 3, setting.pixels, setting.pixels)
        image = torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
        label = torch.randint(1000, (setting.batch,), device=device)
        teacher = torch.randn(setting.batch, 8 * setting.width, device=device)

        def step() -> None:
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast(device.type, dtype=torch.bfloat16):
                features, logits = net(image)
                loss = functional.cross_entropy(logits, label)
            if align is not None:
                loss = loss + 0.1 * align(features, teacher)
            loss.backward()
            optimiser.step()

        return step

    state = losses.SinkhornState()
    options: dict[str, Any] = {"epsilon": setting.epsilon, "check_finite": False}
    return {
        "cross-entropy alone": make(None),
        "with sinkhorn_align": make(
            lambda s, t: losses.sinkhorn_align(s, t, state=state, **options)
        ),
        "with sinkhorn_align, no memory": make(lambda s, t: losses.sinkhorn_align(s, t, **options)),
        "with mmd_align": make(lambda s, t: losses.mmd_align(s, t, check_finite=False)),
    }


def share(setting: Setting, clock: Clock) -> dict[str, Any]:
    """Median seconds of a step with and without an alignment, in interleaved rounds.

    The student trains while it is timed; the teacher's features stay the same, as those of a
    frozen teacher on a fixed minibatch.
    """
    torch.backends.cudnn.benchmark = True  # as anybody would who trains at one size
    calls = _steps(setting, clock.device)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(setting.warm):
            call()
    order = random.Random(0)
    for _ in range(setting.rounds):
        names = list(calls)
        order.shuffle(names)
        for name in names:
            samples[name].append(clock.seconds(calls[name]))
    medians = {name: statistics.median(times) for name, times in samples.items()}
    alone = medians["cross-entropy alone"]
    return {
        "key": "training",
        "title": f"Share of a bf16 ResNet-18 step, batch {setting.batch}, "
        f"d = {8 * setting.width}, {setting.pixels} pixels, frozen teacher",
        "target": TARGET,
        "seconds": medians,
        "share": {k: 1 - alone / t for k, t in medians.items() if k != "cross-entropy alone"},
    }
