r"""Gradients of a solve by the envelope theorem, beyond those to the points.

The dual value at the returned potentials has the derivatives (:mod:`ucmkd.reference` has the
notation)

.. math::
    \partial_{x_i} = \sum_j P_{ij}\,\partial_{x_i} c(x_i,y_j),\quad
    \partial_{a_i} = \varphi_x(f_i) - \varepsilon (r_i - m_b),\quad
    \partial_\varepsilon = \mathrm{KL}(P|a\otimes b),\quad
    \partial_{\rho_x} = \mathrm{KL}(a e^{-f/\rho_x}|a),\quad
    \partial_\lambda = \sum_{ij} P_{ij}D_{k_il_j},\quad
    \partial_{D_{kl}} = \lambda\!\!\sum_{k_i=k,\,l_j=l}\!\!P_{ij}.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ucmkd.ops._adjoint import ratio
from ucmkd.ops._implicit import dual_term
from ucmkd.reference.loop import weighted

#: Far beyond the range of float32, and sums of a few of them are finite in float64.
_LARGEST = 1e300


class Sides(NamedTuple):
    """What the formulas need of a solve, of any floating type."""

    f: Tensor
    g: Tensor
    row: Tensor
    column: Tensor
    transport: Tensor
    mismatch: Tensor | None


def reach_gradient(weight: Tensor, potential: Tensor, reach: Tensor) -> Tensor:
    """KL(a e^{-f/ρ} | a), the derivative of the dual in ρ; 0 for a strict marginal."""
    r = ratio(potential, reach)
    return weighted(weight, -torch.expm1(-r) - r * torch.exp(-r)).sum(-1)


def relative_mass(weight: Tensor, given: Tensor, potential: Tensor, reach: Tensor) -> Tensor:
    """The marginal over the weight: ``given`` by the solve, or its limit where the weight is 0.

    The potential of a masked point is the transform of the other one, so that the limit is
    :math:`e^{-f/\\rho}`; the solve's own type may not hold it.
    """
    limit = torch.exp(-ratio(potential, reach))
    return torch.where(weight > 0, given.clamp(max=_LARGEST), limit)


def gradients(
    sides: Sides,
    a: Tensor | None,
    b: Tensor | None,
    parameters: Tensor,
    need: Sequence[bool],
    *,
    symmetric: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of each problem's value to ``a``, ``b`` and ``parameters``, in float64.

    The derivative to a weight grows like :math:`e^{-f/\\rho}` where a point could take in mass for
    which the other side pays; beyond 1e260 it is a bound, not the number. It may be too large for
    the type of the weights long before (:func:`ucmkd.ops._scale.saturated`).

    Args:
        sides: The solution.
        a: Weights ``(B, n)`` or None for ``1/n``.
        b: Weights ``(B, m)`` or None; not read in a self-term.
        parameters: Absolute ε, ρ_x, ρ_y and, if ``mismatch`` is there, λ: ``(4, B)`` or ``(3, B)``.
        need: Which of the three are wanted.
        symmetric: A self-term: the gradient to ``a`` is the total one, and only ρ_x is read.
    """
    f, g, row, column = (t.double() for t in sides[:4])
    a_ = torch.full_like(f, 1 / f.shape[-1]) if a is None else a.double()
    b_ = torch.full_like(g, 1 / g.shape[-1]) if b is None else b.double()
    b_ = a_ if symmetric else b_
    eps, rho_x, rho_y = parameters[:3]
    if symmetric:
        rho_y = rho_x
    mass_a, mass_b = a_.sum(-1, keepdim=True), b_.sum(-1, keepdim=True)
    row, column = relative_mass(a_, row, f, rho_x), relative_mass(b_, column, g, rho_y)
    grad_a = grad_b = grad_parameters = None
    if need[0] and a is not None:
        grad_a = dual_term(f, rho_x) - eps.unsqueeze(-1) * (row - mass_b)
        grad_a = 2 * grad_a if symmetric else grad_a
    if need[1] and b is not None and not symmetric:
        grad_b = dual_term(g, rho_y) - eps.unsqueeze(-1) * (column - mass_a)
    if need[2]:
        rows, columns = a_ * row, b_ * column
        entropy = (rows * f).sum(-1) + (columns * g).sum(-1) - sides.transport.double()
        entropy = entropy / eps - rows.sum(-1) + (mass_a * mass_b).squeeze(-1)
        reach = [reach_gradient(a_, f, rho_x), reach_gradient(b_, g, rho_y)]
        if symmetric:  # only ρ_x is read
            reach = [reach[0] + reach[1], torch.zeros_like(reach[1])]
        last = [] if sides.mismatch is None else [sides.mismatch.double()]
        grad_parameters = torch.stack([entropy, *reach, *last])
    return grad_a, grad_b, grad_parameters
