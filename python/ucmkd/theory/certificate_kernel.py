"""The kernel form of feature alignment: MMD in the place of the Wasserstein distance."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ucmkd.ops import mmd
from ucmkd.theory.certificate_transport import EXACT

#: Most pooled points that the function is fitted on; it is evaluated on all of them.
FIT_LIMIT = 512
#: Ridge parameters that are tried, relative to the largest kernel value.
RIDGES = (1e-8, 1e-6, 1e-4, 1e-2, 1e-1, 1.0)


class KernelForm(NamedTuple):
    """How far the mean of a function can differ between two clouds, by a kernel.

    Attributes:
        mmd: MMD_b of the clouds (the root of the V-statistic), no unit, at most √2.
        norm: ‖f‖ in the kernel's space, in the units of the function.
        residual: mean distance of f from the function, on both clouds together.
    """

    mmd: float
    norm: float
    residual: float

    @property
    def value(self) -> float:
        """``norm · mmd + residual``."""
        return self.norm * self.mmd + self.residual


def kernel_form(
    x: Tensor,
    y: Tensor,
    x_value: Tensor,
    y_value: Tensor,
    *,
    fit_points: int = FIT_LIMIT,
    seed: int = 0,
    backend: str = "auto",
) -> KernelForm:
    r"""A bound of :math:`E_x h - E_y h` by the MMD, for a function known on the points.

    For every f in the space of the kernel

    .. math::
        E_x h - E_y h \le \|f\|\,\mathrm{MMD}(x, y) + E_x|h-f| + E_y|h-f| .

    f is a kernel ridge regression of h on some of the pooled points; of several ridge
    parameters the one with the smallest right-hand side. The kernel is Gaussian,
    :math:`e^{-d^2/2\sigma^2}`, σ the median distance.

    Args:
        x: ``(n, d)``.
        y: ``(m, d)``.
        x_value: h on the first points ``(n,)``.
        y_value: h on the second points ``(m,)``.
        fit_points: Most points to fit on.
        seed: Of their choice.
        backend: Of the MMD.
    """
    x, y = x.detach().double(), y.detach().double()
    points, values = torch.cat((x, y)), torch.cat((x_value, y_value)).double()
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))
    chosen = order[:fit_points].to(points.device)
    centres = points[chosen]
    distance = torch.cdist(centres, centres, compute_mode=EXACT)
    apart = distance[distance > 0]
    sigma = float(apart.median()) if len(apart) else 1.0
    gram = torch.exp(-(distance**2) / (2 * sigma**2))
    squared = mmd(
        x, y, kernel="gaussian", bandwidth=sigma, scales=(1.0,), estimator="v", backend=backend
    )
    gap = math.sqrt(max(0.0, float(squared)) + 1e-15)  # the rounding of the three terms

    # One decomposition serves every ridge parameter.
    spectrum, basis = torch.linalg.eigh(gram)
    spectrum = spectrum.clamp(min=0)
    loading = basis.T @ values[chosen]
    ridges = spectrum.new_tensor(RIDGES) * spectrum[-1]
    coefficients = basis @ (loading[:, None] / (spectrum[:, None] + ridges))
    norms = (coefficients * (gram @ coefficients)).sum(0).clamp(min=0).sqrt()
    fitted = torch.cat([
        torch.exp(torch.cdist(rows, centres, compute_mode=EXACT).square_().div_(-2 * sigma**2))
        @ coefficients
        for rows in points.split(2048)
    ])  # fmt: skip
    error = (values[:, None] - fitted).abs()
    residuals = error[: len(x)].mean(0) + error[len(x) :].mean(0)
    found = zip(norms.tolist(), residuals.tolist(), strict=True)
    return min((KernelForm(gap, *pair) for pair in found), key=lambda form: form.value)
