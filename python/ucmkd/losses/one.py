"""The on-the-fly native ensemble (ONE): the branches of one network learn from their mixture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ucmkd.losses._common import OptionModule, wide
from ucmkd.losses.kd import kd_loss
from ucmkd.ops import _check
from ucmkd.ops._plain import mapped


def gated_logits(branch_logits: Tensor, gate: Tensor) -> Tensor:
    r"""The teacher of ONE, :math:`z_e = \sum_j g_j z_j`, ``(n, C)``.

    Args:
        branch_logits: ``(n, m, C)``.
        gate: ``(n, m)``.
    """
    return (wide(gate).unsqueeze(-1) * wide(branch_logits)).sum(1)


def one_loss(
    branch_logits: Tensor,
    gate: Tensor,
    label: Tensor,
    *,
    weight: float = 1.0,
    temperature: float = 3.0,
    detach_teacher: bool = True,
    check_finite: bool = True,
) -> Tensor:
    r"""ONE: every branch and their gated mixture learn the labels, and each branch the mixture.

    .. math:: \sum_{j=1}^{m} \mathrm{CE}(z_j, y) + \mathrm{CE}(z_e, y) +
        \lambda T^2 \sum_{j=1}^{m} \mathrm{KL}(p^e\,\|\,p^j), \qquad z_e = \sum_j g_j z_j

    with means over the samples and the KL at temperature T. The gate learns from the mixture's
    cross-entropy alone. One network on one input (:class:`ucmkd.models_one.GatedEnsemble`): this
    is no loss across modalities.

    Args:
        branch_logits: z ``(n, m, C)`` of m branches.
        gate: g ``(n, m)``, rows that sum to 1.
        label: y ``(n,)``, int64, in [0, C).
        weight: λ ≥ 0; 1 in the paper, where the code ramps it up over the first epochs.
        temperature: T > 0.
        detach_teacher: No gradient of the KL to the mixture.
        check_finite: Name NaN or infinite logits (skipped inside ``torch.compile``).

    Returns:
        A 0-d float32 (or float64) tensor.

    Raises:
        TypeError: No floating tensors, or a weight that is no number.
        ValueError: Shapes that do not fit, classes outside ``[0, C)``, a negative weight, a
            temperature that is not positive, NaN or infinite logits.

    Source: Lan, Zhu and Gong, NeurIPS 2018 (arXiv 1806.04606), equation 8.
    """
    _check_shapes(branch_logits, gate, label)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise TypeError(f"weight must be a number; got {type(weight).__name__}")
    if not 0 <= weight < float("inf"):
        raise ValueError(f"weight must be >= 0; got {weight}")
    if check_finite and not torch.compiler.is_compiling():
        _check.finite(branch_logits, "branch_logits")
        _check.finite(gate, "gate")
    dtype = _check.compute_dtype(branch_logits, gate)
    branches, gate = branch_logits.to(dtype), gate.to(dtype)
    mixture = gated_logits(branches, gate)
    total = F.cross_entropy(mixture, label)
    for z in branches.unbind(1):
        kl = kd_loss(
            z, mixture, temperature=temperature, detach_teacher=detach_teacher, check_finite=False
        )
        total = total + F.cross_entropy(z, label) + weight * kl
    return total


def _check_shapes(branch_logits: Tensor, gate: Tensor, label: Tensor) -> None:
    for name, value in (("branch_logits", branch_logits), ("gate", gate)):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{name} must be a floating torch.Tensor; got {kind}")
    if branch_logits.dim() != 3 or 0 in branch_logits.shape:
        raise ValueError(
            f"branch_logits must have shape (n, m, C), not empty; got {tuple(branch_logits.shape)}"
        )
    if gate.shape != branch_logits.shape[:2]:
        raise ValueError(
            f"gate must have shape {tuple(branch_logits.shape[:2])}, one weight per branch; "
            f"got {tuple(gate.shape)}"
        )
    if label.shape != branch_logits.shape[:1] or label.dtype != torch.int64:
        raise ValueError(
            f"label must be int64 of shape ({len(branch_logits)},); "
            f"got {label.dtype} of {tuple(label.shape)}"
        )
    # On a GPU the cross-entropy finds a class out of range; to look would be to wait.
    if torch.compiler.is_compiling() or mapped() or label.device.type != "cpu":
        return
    classes, low, high = branch_logits.shape[-1], int(label.min()), int(label.max())
    if low < 0 or high >= classes:
        raise ValueError(f"label must lie in [0, {classes}); got {low} to {high}")


class ONELoss(OptionModule):
    """:func:`one_loss` as a module."""

    def __init__(
        self,
        *,
        weight: float = 1.0,
        temperature: float = 3.0,
        detach_teacher: bool = True,
        check_finite: bool = True,
    ) -> None:
        super().__init__(
            weight=weight, temperature=temperature, detach_teacher=detach_teacher,
            check_finite=check_finite,
        )  # fmt: skip

    def forward(self, branch_logits: Tensor, gate: Tensor, label: Tensor) -> Tensor:
        """The loss; arguments as in the function."""
        return one_loss(branch_logits, gate, label, **self.options())
