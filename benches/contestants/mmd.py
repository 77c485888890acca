"""Who takes part in the MMD benchmark.

All compute the V-statistic of the squared MMD with kernels of the same fixed bandwidth, averaged
over the scales, and its gradient to x.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benches.contestants.common import points, read
from benches.contestants.geomloss_samples import quiet_keops
from benches.contestants.ours import NAME
from benches.problems_mmd import Discrepancy
from benches.timing import Contestant, Ready

#: Our kernels' names in GeomLoss.
GEOMLOSS = {"gaussian": "gaussian", "laplace": "laplacian", "energy": "energy"}


def _ready(case: Discrepancy, x: Tensor, value: Callable[[], Tensor], note: str = "") -> Ready:
    def run() -> tuple[Tensor, Tensor]:
        loss = value()
        (gradient,) = torch.autograd.grad(loss, x)
        return loss.detach(), gradient

    return Ready(run, read, case.solution, note)


def _ours(case: Discrepancy) -> Ready:
    from ucmkd import ops

    x, y = points(case)
    options: dict[str, object] = {"kernel": case.kernel}
    if case.kernel != "energy":
        options.update(bandwidth=case.sigma, scales=case.scales)
    return _ready(case, x, lambda: ops.mmd(x, y, backend="rust", **options))


def _square_distances(x: Tensor, y: Tensor) -> Tensor:
    """The squared distances by one matrix product."""
    products = torch.addmm((y * y).sum(1)[None, :], x, y.t(), alpha=-2)
    return (products + (x * x).sum(1, keepdim=True)).clamp_min(0)


def _mean_gaussian(x: Tensor, y: Tensor, factors: list[float]) -> Tensor:
    square = _square_distances(x, y)
    total = torch.exp(square * factors[0])
    for factor in factors[1:]:
        total = total + torch.exp(square * factor)
    return total.mean() / len(factors)


def _mean_laplace(x: Tensor, y: Tensor, factors: list[float]) -> Tensor:
    # The clamp keeps the root of equal points differentiable.
    distance = _square_distances(x, y).clamp_min(1e-12).sqrt()
    total = torch.exp(distance * factors[0])
    for factor in factors[1:]:
        total = total + torch.exp(distance * factor)
    return total.mean() / len(factors)


def _mean_energy(x: Tensor, y: Tensor, factors: list[float]) -> Tensor:
    return -_square_distances(x, y).clamp_min(1e-12).sqrt().mean()


MEANS = {"gaussian": _mean_gaussian, "laplace": _mean_laplace, "energy": _mean_energy}


def _factors(case: Discrepancy) -> list[float]:
    if case.kernel == "gaussian":
        return [-0.5 / (scale * case.sigma) ** 2 for scale in case.scales]
    return [-1 / (scale * case.sigma) for scale in case.scales]


def _by_hand(compiled: bool) -> Callable[[Discrepancy], Ready]:
    def build(case: Discrepancy) -> Ready:
        x, y = points(case)
        factors, mean = _factors(case), MEANS[case.kernel]

        def discrepancy(x: Tensor, y: Tensor) -> Tensor:
            across = mean(x, y, factors)
            return mean(x, x, factors) + mean(y, y, factors) - 2 * across

        function: Callable[..., Tensor] = discrepancy
        if compiled:
            torch._dynamo.reset()
            function = torch.compile(function, dynamic=False, fullgraph=True)
            torch.autograd.grad(function(x, y), x)
        return _ready(case, x, lambda: function(x, y))

    return build


def _geomloss(backend: str) -> Callable[[Discrepancy], Ready]:
    def build(case: Discrepancy) -> Ready:
        from geomloss import SamplesLoss

        x, y = points(case)
        losses = [
            SamplesLoss(GEOMLOSS[case.kernel], blur=scale * case.sigma, backend=backend)
            for scale in case.scales
        ]
        note = "" if len(losses) == 1 else f"{len(losses)} calls, one for each scale"

        def value() -> Tensor:
            # It returns ½ MMD².
            return sum((loss(x, y) for loss in losses), torch.zeros(())) * (2 / len(losses))

        if backend == "online":  # compiles its formulas, which do not depend on n
            quiet_keops()
            small = x.detach()[:64].requires_grad_()
            torch.autograd.grad(losses[0](small, y[:64]), small)
        return _ready(case, x, value, note)

    return build


OURS = Contestant(NAME, ("ucmkd",), _ours)
CONTESTANTS = (
    OURS,
    Contestant("torch by hand", ("torch",), _by_hand(compiled=False)),
    Contestant("torch by hand, torch.compile", ("torch",), _by_hand(compiled=True)),
    Contestant("GeomLoss SamplesLoss, tensorized", ("geomloss",), _geomloss("tensorized")),
    Contestant(
        "GeomLoss SamplesLoss, online (KeOps)", ("geomloss", "pykeops"), _geomloss("online")
    ),
)
