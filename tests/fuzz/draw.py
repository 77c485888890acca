"""Arguments: usual ones, odd ones, and ones of the wrong kind."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

FLOATS = [torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16]
SIZES = [1, 1, 2, 3, 5, 8, 17, 33]
ODD_NUMBERS = [0.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e-300, 1e300, True, None]


class Draw:
    """Random choices from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.torch = torch.Generator().manual_seed(seed)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def one(self, choices: Any) -> Any:
        return self.random.choice(list(choices))

    def size(self) -> int:
        return 0 if self.chance(0.01) else self.one(SIZES)

    def values(self, shape: tuple[int, ...], wild: float) -> Tensor:
        """float64 values: usual, or with a probability huge, tiny, constant, spiked, not finite."""
        t = torch.randn(shape, generator=self.torch, dtype=torch.float64)
        if not self.chance(wild):
            return t
        kind = self.random.randrange(9)
        if kind == 0:
            return t * 10.0 ** self.random.uniform(-320, 300)
        if kind == 1:
            return t * 10.0 ** self.random.uniform(-45, 38)
        if kind == 2:
            return torch.zeros_like(t)
        if kind == 3:
            return torch.full_like(t, self.one([1.0, 1e4, 1e20, -1e38]))
        if kind == 4:
            return t.round()
        if kind == 5:
            return t + 10.0 ** self.random.uniform(0, 8)
        if kind == 6:
            return torch.full_like(t, 5e-324)
        if t.numel():
            spike = self.one([float("nan"), float("inf"), -float("inf"), 1e38, 1e300, -1e-310])
            t.view(-1)[self.random.randrange(t.numel())] = spike
        return t

    def layout(self, t: Tensor) -> Tensor:
        """The same values in another memory layout, where the shape allows it."""
        kind = self.random.randrange(8)
        if kind == 0 and t.dim() >= 2:
            return t.transpose(-1, -2).contiguous().transpose(-1, -2)
        if kind == 1 and t.dim() >= 1:
            return torch.cat([t, t], -1)[..., : t.shape[-1]]
        if kind == 2 and t.dim() >= 1 and t.shape[0]:
            return t[:1].expand(t.shape)
        if kind == 3 and t.dim() >= 1:
            return torch.stack([t, t], -1)[..., 0]
        if kind == 4 and t.dim() and t.dtype != torch.bfloat16:
            # The memory of a NumPy array; torch refuses its negative strides, hence the copy.
            return torch.from_numpy(t.numpy()[::-1].copy())
        if kind == 5:  # an offset into a larger buffer, not aligned to a vector
            buffer = t.new_empty(t.numel() + 3)
            buffer[1 : 1 + t.numel()] = t.reshape(-1)
            return buffer[1 : 1 + t.numel()].view(t.shape)
        return t

    def tensor(self, shape: tuple[int, ...], wild: float = 0.25) -> Tensor:
        t = self.layout(self.values(shape, wild).to(self.one(FLOATS)))
        return t.detach().requires_grad_(self.chance(0.5))

    def weight(self, shape: tuple[int, ...]) -> Any:
        """Masses, often normalised, sometimes with zeros, sometimes impossible."""
        if self.chance(0.4):
            return None
        w = torch.rand(shape, generator=self.torch, dtype=torch.float64)
        if self.chance(0.4):
            w = w * (torch.rand(shape, generator=self.torch) > 0.4)
        if self.chance(0.7):
            w = w / w.sum(-1, keepdim=True)
        if self.chance(0.1):
            w = self.values(shape, 1.0).abs()
        if self.chance(0.05):
            w = self.values(shape, 1.0)
        w = self.layout(w.to(self.one(FLOATS)))
        return self.spoil(w.detach().requires_grad_(self.chance(0.3)), 0.03)

    def label(self, shape: tuple[int, ...]) -> Any:
        high = self.one([1, 2, 5])
        k = torch.randint(-1, high, shape, generator=self.torch)
        if self.chance(0.1):
            k = k * self.one([2**31, 2**62])
        kind = self.one([torch.int64, torch.int64, torch.int32, torch.uint8, torch.bool])
        return self.spoil(k.to(kind), 0.03)

    def number(self, low: float, high: float, odd: float = 0.06) -> Any:
        """10^uniform(low, high), as a number or a tensor."""
        if self.chance(odd):
            return self.one(ODD_NUMBERS)
        value = 10.0 ** self.random.uniform(low, high)
        if self.chance(0.2):
            return torch.tensor(value, dtype=self.one(FLOATS[:3])).requires_grad_(self.chance(0.6))
        return value

    def spoil(self, value: Any, probability: float) -> Any:
        """With a probability something of the wrong shape or kind instead."""
        if not self.chance(probability) or not isinstance(value, Tensor):
            return value
        value = value.detach()
        wrong = [
            lambda: value.unsqueeze(0),
            lambda: value.reshape(-1),
            lambda: value[..., :-1] if value.dim() else value,
            lambda: value.long(),
            lambda: value.to(torch.complex64),
            lambda: value.tolist(),
            lambda: value.float().numpy(),
            lambda: value.to("meta"),
            lambda: value.to_sparse() if value.dim() else value,
            lambda: "points",
            lambda: None,
            lambda: torch.tensor(1.0),
        ]
        return self.one(wrong)()
