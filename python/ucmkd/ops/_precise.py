"""float64 for float32 inputs whose ε is lost in the rounding of the costs.

The value and its gradients come from the solver, which sees to that itself. A plan, or a sharp
value, is made from the potentials: :math:`(f_i+g_j-C_{ij})/\\varepsilon` is the small difference
of numbers as large as the costs, which a float32 potential does not hold.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ucmkd.ops._plain import mapped
from ucmkd.ops._scale import cast
from ucmkd.ops.sinkhorn import Prepared
from ucmkd.reference.sinkhorn import COARSE_PLAN


def precise(p: Prepared, cost: str, backend: str, *, relative: bool = False) -> Prepared:
    """The problem in float64 where its potentials in float32 have no plan, else as it is.

    On the CPU only: elsewhere the question would make the host wait for the device. The Triton
    kernels have no float64.
    """
    if p.dtype != torch.float32 or p.device.type != "cpu" or backend == "triton":
        return p
    if torch.compiler.is_compiling() or mapped():
        return p
    with torch.no_grad():
        size = _mean_cost(p, cost)
        unit = size if relative else torch.ones_like(size)
        if p.x_label is not None:
            size = size + unit * p.parameters[3] * _largest(p.distance)
        rounding = torch.finfo(p.dtype).eps * size
        if not bool(
            (torch.isfinite(size) & (rounding > COARSE_PLAN * unit * p.parameters[0])).any()
        ):
            return p
    return p._replace(
        given=(p.given[0].double(), p.given[1].double()),
        x_weight=_wide(p.x_weight),
        y_weight=_wide(p.y_weight),
        distance=_wide(p.distance),
        start=_wide(p.start),
    )


def _wide(value: Tensor | None) -> Tensor | None:
    return None if value is None else cast(value, torch.float64)


def _largest(distance: Tensor | None) -> Tensor | float:
    return 1.0 if distance is None else distance.abs().max().double()


def _mean_cost(p: Prepared, cost: str) -> Tensor:
    """The mean cost ``(B,)``, or a bound of it, from the moments of the clouds."""
    if cost in ("cosine", "chordal"):
        return p.parameters.new_ones(p.x.shape[0])
    (mean_x, spread_x), (mean_y, spread_y) = _moments(p.x, p.x_weight), _moments(p.y, p.y_weight)
    square = spread_x + spread_y + ((mean_x - mean_y) ** 2).sum((-1, -2))
    if cost == "sqeuclidean":
        return square
    return (square * (p.x.shape[-1] if cost == "l1" else 1)).sqrt()


def _moments(points: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean ``(B, 1, d)`` and mean squared distance from it ``(B,)``, in float64."""
    points = points.double()
    if weight is None:
        share = torch.full_like(points[..., :1], 1 / points.shape[1])
    else:
        share = (weight.double() / weight.double().sum(-1, keepdim=True)).unsqueeze(-1)
        points = torch.where(share > 0, points, 0.0)  # a masked point may be anywhere
    mean = (share * points).sum(1, keepdim=True)
    return mean, (share * (points - mean) ** 2).sum((-1, -2))
