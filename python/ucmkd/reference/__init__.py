r"""The mathematics of every operator in plain PyTorch: the oracle, and the last fallback.

Everything here is written for reading and for float64, not for speed. Points are batched,
``x (B, n, d)`` and ``y (B, m, d)``; weights ``a (B, n)`` and ``b (B, m)`` are masses.

**Entropic optimal transport** with the full cost :math:`C` and :math:`\varepsilon` in its units:

.. math::
    \mathrm{OT}_\varepsilon(\alpha,\beta) = \min_P \langle P, C\rangle
      + \varepsilon\,\mathrm{KL}(P\,|\,a\otimes b)
      + \rho_x\mathrm{KL}(P1\,|\,a) + \rho_y\mathrm{KL}(P^\top 1\,|\,b),
    \qquad \mathrm{KL}(p|q) = \sum p\log\tfrac pq - p + q,

solved through its dual (Sejourne et al. 2019; Peyre and Cuturi 2019, ch. 4 and 10)

.. math::
    \max_{f,g} \langle a, \varphi_x(f)\rangle + \langle b, \varphi_y(g)\rangle
      - \varepsilon \sum_{ij}(P_{ij} - a_i b_j), \qquad
    P_{ij} = a_i b_j e^{(f_i+g_j-C_{ij})/\varepsilon},\quad
    \varphi(f) = \rho\,(1-e^{-f/\rho})\ \text{or}\ f\ \text{for}\ \rho=\infty.
"""

from .bandwidth import mean_bandwidth, median_bandwidth
from .cost import COSTS, centre_of, cost_gradient, cost_matrix, label_matrix, normalise
from .kernels import KERNELS, Kernel, kernel_slope, kernel_value
from .loop import (
    Iterates,
    Softmin,
    damping,
    dual_term,
    relaxed_mass,
    sinkhorn_loop,
    symmetric_loop,
)
from .mmd import MMDGradient, mmd, mmd_gradient
from .sinkhorn import Solution, dense_softmin, sinkhorn, solve_dense

__all__ = [
    "COSTS",
    "KERNELS",
    "Iterates",
    "Kernel",
    "MMDGradient",
    "Softmin",
    "Solution",
    "centre_of",
    "cost_gradient",
    "cost_matrix",
    "damping",
    "dense_softmin",
    "dual_term",
    "kernel_slope",
    "kernel_value",
    "label_matrix",
    "mean_bandwidth",
    "median_bandwidth",
    "mmd",
    "mmd_gradient",
    "normalise",
    "relaxed_mass",
    "sinkhorn",
    "sinkhorn_loop",
    "solve_dense",
    "symmetric_loop",
]
