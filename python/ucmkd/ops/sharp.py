r"""The sharp value :math:`\langle P, C\rangle` with its own gradient.

The envelope theorem does not hold for :math:`S(\theta) = \langle P_\theta, C_\theta\rangle`: the
plan moves with the inputs, also through the potentials :math:`u=(f,g)`. With :math:`F(\theta,u)=0`
the marginal conditions and :math:`J=\partial_u F`

.. math:: \frac{dS}{d\theta} = \partial_\theta S - \lambda^\top \partial_\theta F,\qquad
          J\lambda = \partial_u S,

by :class:`ucmkd.ops._implicit.ImplicitPotentials` (Luise et al. 2018; Eisenberger et al. 2022).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ucmkd.ops._implicit import ImplicitPotentials, density
from ucmkd.ops._once import once_through
from ucmkd.ops._pairwise import add_labels, class_distances, pairwise_cost
from ucmkd.reference import Solution


def sharp_cost(
    x: Tensor,
    y: Tensor | None,
    a: Tensor,
    b: Tensor,
    solution: Solution,
    *,
    cost: str,
    epsilon: Tensor,
    reach_x: Tensor,
    reach_y: Tensor,
    x_label: Tensor | None,
    y_label: Tensor | None,
    label_cost: Tensor,
    distance: Tensor | None = None,
) -> Tensor:
    """:math:`\\langle P,C\\rangle` ``(B,)``, differentiable once to everything but the labels.

    Holds the plan in memory, ``O(nm)`` in float64. As far as the solve has converged, so has the
    gradient.

    Args:
        x: Points ``(B, n, d)``.
        y: Points ``(B, m, d)``. None, or ``x`` itself with its own weights and labels, is the
            self-term: its one potential makes the linear system well conditioned.
        a: Masses ``(B, n)``.
        b: Masses ``(B, m)``, not read with ``y=None``.
        solution: Of the solve for these inputs.
        cost: As in :func:`ucmkd.reference.cost_matrix`.
        epsilon: Absolute, like ``reach`` and ``label_cost``, ``(B,)``.
        reach_x: ρ_x, infinity for strict.
        reach_y: ρ_y, not read with ``y=None``.
        x_label: ``(B, n)`` or None.
        y_label: ``(B, m)`` or None.
        label_cost: λ.
        distance: Class distances D ``(K, L)`` or ``(B, K, L)``; None is :math:`[k\\neq l]`.
    """
    dtype = x.dtype
    symmetric = y is None or y is x
    # The derivative of the potentials is right once and wrong twice.
    x, a, epsilon, reach_x, label_cost = map(once_through, (x, a, epsilon, reach_x, label_cost))
    if distance is not None:
        distance = once_through(distance)
    if symmetric or y is None:
        y, b, reach_y, y_label = x, a, reach_x, x_label
    else:
        y, b, reach_y = map(once_through, (y, b, reach_y))
    f, g = (u.detach().double() for u in (solution.x_potential, solution.y_potential))
    a, b = a.double(), b.double()
    epsilon, reach_x, reach_y = epsilon.double(), reach_x.double(), reach_y.double()
    apart = class_distances(distance, x_label, y_label)
    matrix = add_labels(pairwise_cost(x, y, cost), label_cost, apart)
    if torch.is_grad_enabled():
        f, g = ImplicitPotentials.apply(f, g, matrix, a, b, epsilon, reach_x, reach_y, symmetric)
    _, exponential = density(matrix, a, b, epsilon, f, g)
    plan = a.unsqueeze(-1) * exponential * b.unsqueeze(-2)
    return (plan * matrix).sum((-1, -2)).to(dtype)
