r"""Energy distance on the line by sorting, and its mean over random lines (sliced).

With the pooled points :math:`z` in ascending order, :math:`c = (a, -b)` their signed masses and
:math:`S_k = \sum_{i\le k} c_i`, the difference of the two distribution functions,

.. math::
    D^2 = 2\int (F - G)^2 = 2\sum_k S_k^2\,(z_{k+1} - z_k),\qquad
    \partial_{z_k} D^2 = -2c_k (S_{<k} + S_{\le k}),

a sum of non-negative terms: nothing cancels, however near or far the clouds. The second formula
counts the mass strictly below and up to :math:`z_k`, so that tied points get the same derivative
for the same mass, and equal clouds get 0.
"""

from __future__ import annotations

import math
from numbers import Integral

import torch
from torch import Tensor

from ucmkd.ops import _check
from ucmkd.ops._mass import centred, fill_masked, probabilities, weighted_mean
from ucmkd.ops._plain import mapped

Generator = int | torch.Generator | None


def energy_distance_1d(
    x: Tensor,
    y: Tensor,
    *,
    x_weight: Tensor | None = None,
    y_weight: Tensor | None = None,
) -> Tensor:
    r"""Energy distance between two samples of the line, exact, in :math:`O(n\log n)`.

    .. math:: D^2 = 2E|X-Y| - E|X-X'| - E|Y-Y'| = 2\int (F(t) - G(t))^2\,dt.

    The V-statistic: ≥ 0, and 0 iff the distributions are equal. (``scipy.stats.energy_distance``
    returns its square root.) Memory is O(n + m). Differentiable twice, to points and weights; at
    ties the derivative of :math:`|x-y|` is taken as 0, as ``torch.abs`` does.

    Args:
        x: Values ``(n,)``, or ``(B, n)`` for a batch of problems.
        y: Values ``(m,)`` or ``(B, m)``.
        x_weight: Masses ``(n,)`` or ``(B, n)``, default equal; normalised to the sum 1. A zero
            weight masks the value.
        y_weight: Masses of ``y``.

    Returns:
        A 0-d tensor, or ``(B,)`` for a batch; in float32, or float64 for float64 input. Ranks
        and sums are computed in float64.

    Raises:
        TypeError: A tensor of the wrong kind.
        ValueError: Shapes or weights that are not accepted.

    Source: Székely & Rizzo 2013, "Energy statistics", J. Stat. Plan. Inference 143.
    """
    _values(x, "x")
    _values(y, "y")
    _check.same_device(x, y, "x", "y")
    if x.dim() != y.dim() or x.shape[:-1] != y.shape[:-1]:
        raise ValueError(
            "x and y must be (n,) and (m,), or (B, n) and (B, m); "
            f"got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    single = x.dim() == 1
    if single:
        x, y = x.unsqueeze(0), y.unsqueeze(0)
    (batch, n), m = x.shape, y.shape[1]
    a = probabilities(_check.weight(x_weight, (batch, n), "x_weight", x), x)
    b = probabilities(_check.weight(y_weight, (batch, m), "y_weight", x), y)
    lines = []
    for value, mass in ((x, a), (y, b)):
        wide = value.double().unsqueeze(-1)
        lines.append(fill_masked(wide, mass, weighted_mean(wide, mass)).mT)
    result = _energy_on_lines(lines[0], lines[1], a, b).squeeze(1)
    result = result.to(_check.compute_dtype(x, y))
    return result.squeeze(0) if single else result


def sliced_energy(
    x: Tensor,
    y: Tensor,
    *,
    projections: int = 64,
    directions: Tensor | None = None,
    generator: Generator = None,
    x_weight: Tensor | None = None,
    y_weight: Tensor | None = None,
) -> Tensor:
    r"""Sliced energy distance: the mean over lines, in :math:`O(L\,n(d + \log n))`.

    .. math::
        \hat D^2 = \frac{1}{c_d L}\sum_{l=1}^{L} D^2(\langle u_l, x\rangle, \langle u_l, y\rangle),
        \qquad c_d = E\,|\langle u, e\rangle|
        = \frac{\Gamma(d/2)}{\sqrt\pi\,\Gamma((d+1)/2)} .

    For directions that are uniform on the sphere its expectation is the energy distance
    :math:`2E|X-Y| - E|X-X'| - E|Y-Y'|` of the clouds themselves (Euclidean norms), because
    :math:`E|\langle u, z\rangle| = c_d |z|`; the standard deviation falls as
    :math:`1/\sqrt L`. At d = 1 it is exact. Differentiable twice, to points, weights and given
    directions.

    Args:
        x: Points ``(n, d)`` or ``(B, n, d)``.
        y: Points ``(m, d)`` or ``(B, m, d)``.
        projections: L, how many directions are drawn (one set for the whole batch).
        directions: ``(L, d)``, used in place of random ones; rows are scaled to unit length.
        generator: Where random directions come from: None is PyTorch's global generator, an
            integer is a seed (the same directions at every call, on every device), or a
            ``torch.Generator`` (not inside ``torch.compile``).
        x_weight: Masses ``(n,)`` or ``(B, n)``, default equal; normalised to the sum 1. A zero
            weight masks the point.
        y_weight: Masses of ``y``.

    Returns:
        A 0-d tensor, or ``(B,)`` for batched points.

    Raises:
        TypeError: A tensor or generator of the wrong kind.
        ValueError: Shapes, weights, directions or numbers that are not accepted.

    Source: the slicing constant as in Hertrich et al. 2024, "Generative sliced MMD flows with
    Riesz kernels", Thm. 1.
    """
    return run(
        x, y, projections=projections, directions=directions, generator=generator,
        x_weight=x_weight, y_weight=y_weight, names=("x", "y"),
    )  # fmt: skip


def run(
    x: Tensor,
    y: Tensor,
    *,
    projections: int,
    directions: Tensor | None,
    generator: Generator,
    x_weight: Tensor | None,
    y_weight: Tensor | None,
    names: tuple[str, str],
) -> Tensor:
    """:func:`sliced_energy` for a caller whose arguments have other ``names``."""
    _check.pair(x, y, *names)
    single = x.dim() == 2
    if single:
        x, y = x.unsqueeze(0), y.unsqueeze(0)
    batch, n, width = x.shape
    dtype = _check.compute_dtype(x, y)
    a = _check.weight(x_weight, (batch, n), f"{names[0]}_weight", x)
    b = _check.weight(y_weight, (batch, y.shape[1]), f"{names[1]}_weight", x)
    mass_x, mass_y = probabilities(a, x), probabilities(b, y)
    unit = _directions(x.detach().to(dtype), projections, directions, generator)
    # Each cloud is projected about its own mean; the distance of the means is added in float64,
    # so that a small cloud far from the other keeps its order.
    with torch.autocast(x.device.type, enabled=False):
        near_x, centre_x = centred(x.to(dtype), mass_x)
        near_y, centre_y = centred(y.to(dtype), mass_y)
        offset = ((centre_x - centre_y) @ unit.mT).mT.double()
        on_lines_x = (near_x @ unit.mT).mT.double() + offset
        on_lines_y = (near_y @ unit.mT).mT.double()
    value = _energy_on_lines(on_lines_x, on_lines_y, mass_x, mass_y).mean(1)
    value = (value / slicing_constant(width)).to(dtype)
    return value.squeeze(0) if single else value


def _values(value: Tensor, name: str) -> None:
    """Numbers ``(n,)`` or ``(B, n)``, floating, not empty."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(f"{name} must be floating; got {value.dtype}")
    if value.dim() not in (1, 2) or 0 in value.shape:
        raise ValueError(
            f"{name} must have shape (n,) or (B, n) and not be empty; got {tuple(value.shape)}"
        )


def slicing_constant(width: int) -> float:
    r""":math:`c_d = E|\langle u, e\rangle|` for u uniform on the unit sphere of dimension d."""
    log_ratio = math.lgamma(width / 2) - math.lgamma((width + 1) / 2)
    return math.exp(log_ratio) / math.sqrt(math.pi)


def _energy_on_lines(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``(B, L)`` from ``(B, L, n)``, ``(B, L, m)`` and probabilities ``(B, n)``, ``(B, m)``."""
    place, order = torch.cat([x, y], -1).sort(-1)
    fixed = place.detach()
    signed = torch.cat([a, -b], -1).unsqueeze(1).expand(place.shape).gather(-1, order)
    below = signed.cumsum(-1)
    value = 2 * (below[..., :-1].square() * fixed.diff(dim=-1)).sum(-1)
    if not place.requires_grad:
        return value
    # The sorting gives the value; a term that is zero carries the derivative to the points, with
    # ties shared out evenly. It depends on the masses, which makes the second derivatives right.
    edges = torch.nn.functional.pad(below, (1, 0))
    strictly = edges.gather(-1, torch.searchsorted(fixed, fixed))
    up_to = edges.gather(-1, torch.searchsorted(fixed, fixed, right=True))
    slope = -2 * signed * (strictly + up_to)
    return value + (slope * (place - fixed)).sum(-1)


@torch.library.custom_op("ucmkd::directions", mutates_args=())
def directions_op(points: Tensor, projections: int, seed: int) -> Tensor:
    """Gaussian ``(L, d)`` from a seed, with the width, dtype and device of ``points``.

    Drawn on the CPU in float64, so that a seed means the same directions everywhere. (An operator
    because a compiled graph cannot hold a generator.)
    """
    source = torch.Generator().manual_seed(seed)
    shape = (projections, points.shape[-1])
    return torch.randn(shape, generator=source, dtype=torch.float64).to(points)


@directions_op.register_fake
def _(points, projections, seed):  # type: ignore[no-untyped-def]
    return points.new_empty((projections, points.shape[-1]))


def _directions(
    points: Tensor, projections: int, directions: Tensor | None, generator: Generator
) -> Tensor:
    """Unit directions ``(L, d)`` with the dtype and device of ``points``."""
    width = points.shape[-1]
    if directions is not None:
        return _given_directions(directions, points)
    if isinstance(projections, bool) or not isinstance(projections, Integral) or projections < 1:
        raise ValueError(f"projections must be an integer >= 1; got {projections!r}")
    if generator is None:
        drawn = torch.randn((projections, width), dtype=points.dtype, device=points.device)
    elif isinstance(generator, torch.Generator):
        drawn = torch.randn(
            (projections, width), generator=generator, dtype=points.dtype, device=generator.device
        ).to(points.device)
    elif isinstance(generator, Integral) and not isinstance(generator, bool):
        drawn = directions_op(points, projections, generator)
    else:
        raise TypeError(
            "generator must be None, an integer seed or a torch.Generator; "
            f"got {type(generator).__name__}"
        )
    return drawn / torch.linalg.vector_norm(drawn, dim=-1, keepdim=True)


def _given_directions(directions: Tensor, points: Tensor) -> Tensor:
    """Checked, with rows of length 1."""
    if not isinstance(directions, Tensor) or not directions.is_floating_point():
        kind = directions.dtype if isinstance(directions, Tensor) else type(directions).__name__
        raise TypeError(f"directions must be a floating torch.Tensor or None; got {kind}")
    width = points.shape[-1]
    shape = tuple(directions.shape)
    if len(shape) != 2 or shape[0] == 0 or shape[1] != width:
        raise ValueError(f"directions must have shape (L, {width}) with L >= 1; got {shape}")
    _check.same_device(points, directions, "the points", "directions")
    length = torch.linalg.vector_norm(directions.to(points.dtype), dim=-1, keepdim=True)
    if not torch.compiler.is_compiling() and not mapped():
        data = length.detach()
        if not bool((torch.isfinite(data) & (data > 0)).all()):
            raise ValueError(
                "directions must have rows of positive finite length; "
                f"got lengths from {float(data.min())} to {float(data.max())}"
            )
    return directions.to(points.dtype) / length
