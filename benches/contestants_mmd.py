"""Who takes part in the MMD benchmark.

All compute the V-statistic of the squared MMD with Gaussian kernels of the same fixed bandwidth,
averaged over the scales, and its gradient to x.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benches.problems import Discrepancy
from benches.timing import Answer, Contestant, Ready


def _points(case: Discrepancy) -> tuple[Tensor, Tensor]:
    x = torch.from_numpy(case.x).clone().requires_grad_()
    return x, torch.from_numpy(case.y).clone()


def _read(result: tuple[Any, Any]) -> Answer:
    return Answer(float(result[0]), np.asarray(result[1]))


def _ready(case: Discrepancy, x: Tensor, value: Callable[[], Tensor], note: str = "") -> Ready:
    def run() -> tuple[Tensor, Tensor]:
        loss = value()
        (gradient,) = torch.autograd.grad(loss, x)
        return loss.detach(), gradient

    return Ready(run, _read, case.solution, note)


def _ours(case: Discrepancy) -> Ready:
    from ucmkd import ops

    x, y = _points(case)

    def value() -> Tensor:
        return ops.mmd(x, y, bandwidth=case.sigma, scales=case.scales, backend="rust")

    return _ready(case, x, value)


def _kernel_mean(x: Tensor, y: Tensor, factors: list[float]) -> Tensor:
    """Mean of the averaged kernel; the squared distances by one matrix product."""
    products = torch.addmm((y * y).sum(1)[None, :], x, y.t(), alpha=-2)
    square = (products + (x * x).sum(1, keepdim=True)).clamp_min(0)
    total = torch.exp(square * factors[0])
    for factor in factors[1:]:
        total = total + torch.exp(square * factor)
    return total.mean() / len(factors)


def _discrepancy(x: Tensor, y: Tensor, factors: list[float]) -> Tensor:
    across = _kernel_mean(x, y, factors)
    return _kernel_mean(x, x, factors) + _kernel_mean(y, y, factors) - 2 * across


def _by_hand(compiled: bool) -> Callable[[Discrepancy], Ready]:
    def build(case: Discrepancy) -> Ready:
        x, y = _points(case)
        factors = [-0.5 / (scale * case.sigma) ** 2 for scale in case.scales]
        function: Callable[..., Tensor] = _discrepancy
        if compiled:
            torch._dynamo.reset()
            function = torch.compile(function, dynamic=False, fullgraph=True)
        return _ready(case, x, lambda: function(x, y, factors))

    return build


def _geomloss(case: Discrepancy) -> Ready:
    from geomloss import SamplesLoss

    x, y = _points(case)
    losses = [
        SamplesLoss("gaussian", blur=scale * case.sigma, backend="tensorized")
        for scale in case.scales
    ]
    note = "" if len(losses) == 1 else f"{len(losses)} calls, one for each scale"

    def value() -> Tensor:
        # It returns ½ MMD².
        return sum((loss(x, y) for loss in losses), torch.zeros(())) * (2 / len(losses))

    return _ready(case, x, value, note)


#: The first is the one that the ratios are to.
OURS = Contestant("ucmkd", ("ucmkd",), _ours)
CONTESTANTS = (
    OURS,
    Contestant("torch by hand", ("torch",), _by_hand(compiled=False)),
    Contestant("torch by hand, torch.compile", ("torch",), _by_hand(compiled=True)),
    Contestant("GeomLoss SamplesLoss, tensorized", ("geomloss",), _geomloss),
)
