"""The transport plan of a solve, applied by the Triton kernels: O((n + m) d) memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ucmkd import reference
from ucmkd.ops import _triton_points as points
from ucmkd.ops._triton import LOG2E, processors
from ucmkd.ops._triton_points import Ready, kernels

Labels = tuple[Tensor | None, Tensor | None]


def _made_ready(
    x: Tensor,
    y: Tensor,
    b: Tensor | None,
    epsilon: Tensor,
    cost: str,
    labels: Labels,
    label_cost: Tensor,
    distance: Tensor | None,
) -> tuple[Ready, Any]:
    """Both clouds, the rows with equal weights, and the problem."""
    points.check(x, y, cost)
    a = x.new_full(x.shape[:2], 1 / x.shape[1], dtype=torch.float32)
    b = y.new_full(y.shape[:2], 1 / y.shape[1], dtype=torch.float32) if b is None else b
    labelled = labels[0] is not None and labels[1] is not None
    ready = points.ready(x, y, a, b, cost, labels if labelled else (None, None))
    problem = kernels("tiles").Problem(
        ready.cost, ready.factor, (LOG2E / epsilon.double()).float(),
        label_cost.float() if labelled else None,
        distance.float().contiguous() if labelled and distance is not None else None,
    )  # fmt: skip
    return ready, problem


def conditional_mean(
    x: Tensor,
    y: Tensor,
    b: Tensor | None,
    g: Tensor,
    values: Tensor,
    *,
    epsilon: Tensor,
    cost: str,
    labels: Labels,
    label_cost: Tensor,
    distance: Tensor | None = None,
) -> Tensor:
    r""":math:`\sum_j P_{ij} v_j / \sum_j P_{ij}` of values ``(B, m, k)``, in their type.

    Args:
        x: Points ``(B, n, d)``; float32, bfloat16 or float16.
        y: Points ``(B, m, d)``.
        b: Masses ``(B, m)``, or None for ``1/m``; one at least must not be 0.
        g: Potential ``(B, m)``.
        values: What is averaged.
        epsilon: ε ``(B,)``.
        cost: As in :func:`ucmkd.reference.cost_matrix`.
        labels: Those of both sides, or None.
        label_cost: λ ``(B,)``, read with labels.
        distance: Class distances ``(K, L)``; None is :math:`[k\neq l]`.
    """
    with torch.no_grad(), torch.cuda.device_of(x):
        ready, problem = _made_ready(x, y, b, epsilon, cost, labels, label_cost, distance)
        units = problem.kappa.unsqueeze(-1)
        found = kernels("plan").apply(
            ready.first, ready.second, problem, units * g.float(), values.float()
        )
        mean: Tensor = found.output.to(values.dtype)
        return mean


def softmin(
    x: Tensor,
    f: Tensor,
    y: Tensor,
    *,
    epsilon: Tensor,
    cost: str,
    weight: Tensor | None,
    reach: Tensor,
    labels: Labels,
    label_cost: Tensor,
) -> Tensor:
    r""":math:`g(y)=-\tau\varepsilon\log\sum_i a_i e^{(f_i-C(x_i,y))/\varepsilon}`, ``(B, m)``.

    Arguments as :func:`ucmkd.ops.bank.softmin`; ``labels`` are those of x and of y.
    """
    with torch.no_grad(), torch.cuda.device_of(x):
        ready, problem = _made_ready(
            y, x, weight, epsilon, cost, (labels[1], labels[0]), label_cost, None
        )
        kappa = problem.kappa
        tau = reference.damping(epsilon, reach).float()
        g = torch.empty(y.shape[:2], dtype=torch.float32, device=y.device)
        kernels("softmin").half_step(
            ready.first, ready.second, problem, kappa.unsqueeze(-1) * f.float(), g,
            active=torch.ones(len(y), dtype=torch.int32, device=y.device), damping=tau / kappa,
            processors=processors(y.device),
        )  # fmt: skip
        return g.to(f.dtype)
