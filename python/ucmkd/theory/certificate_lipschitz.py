"""How fast entropy and cross-entropy of a linear softmax head can change with the feature."""

from __future__ import annotations

import functools
import math
from numbers import Integral

import torch
from torch import Tensor


@functools.lru_cache(maxsize=256)
def entropy_constant(num_classes: int) -> float:
    r"""The largest gradient of the entropy of K classes with respect to their logits.

    .. math::
        c_K = \sup_p \| p\circ(\log p + H(p)) \|_2
            = \sqrt{\tfrac{K}{K-1}}\;\max_q\; q(1-q)\,\Big|\log\frac{q\,(K-1)}{1-q}\Big|

    since :math:`\nabla_l H(\mathrm{softmax}(l)) = -p\circ(\log p + H)`. On the right is the maximum
    over the p with one class of probability q and K - 1 equal ones. That no other p does better
    rests on a search (ascent from many starts, every split into two levels), not on a proof; proven
    is that the supremum is at most 2 % larger (:func:`entropy_ceiling`).

    Args:
        num_classes: K ≥ 2.

    Returns:
        Nats per unit of logit, Euclidean: .3166 for K = 2, .6771 for 10, about log(K)/4 for many.

    Raises:
        TypeError: K is no integer.
        ValueError: K is below two.
    """
    _check_classes(num_classes)
    # q(1-q) log(..) has one maximum above q = 1/K; below it, only K = 2 reaches as high (mirrored).
    low, high = 1.0 / num_classes, 1.0
    golden = (math.sqrt(5.0) - 1.0) / 2.0
    for _ in range(100):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if _two_levels(left, num_classes) < _two_levels(right, num_classes):
            low = left
        else:
            high = right
    scale = math.sqrt(num_classes / (num_classes - 1))
    return scale * _two_levels((low + high) / 2, num_classes)


def _two_levels(q: float, num_classes: int) -> float:
    if not 0.0 < q < 1.0:
        return 0.0
    return q * (1.0 - q) * (math.log(q / (1.0 - q)) + math.log(num_classes - 1))


def entropy_ceiling(num_classes: int, *, grid: int = 400) -> float:
    r"""A proven ceiling of :math:`\sup_p \|p\circ(\log p+H)\|_2`, up to 2 % above the constant.

    With :math:`u = p\circ(\log p + H)`, which sums to zero, and U the sum of its positive part:
    the positive part has a squared norm of at most U², an entry of the negative part is at most
    :math:`\max_x x(-\log x - H) = e^{-1-H}`, hence :math:`\|u\|^2 \le U^2 + U\min(U, e^{-1-H})`.
    With q the mass of the positive part and H₊, H₋ the entropies within the two parts
    :math:`U = q(1-q)(\log\frac{q}{1-q} + H_- - H_+)` and :math:`H \ge h(q) + (1-q)H_-`, so that
    :math:`H_+ = 0` is the worst case; the maximum over q and :math:`H_- \in [0, \log(K-1)]` is
    left.

    Args:
        num_classes: K ≥ 2.
        grid: Places per axis; the value is that of the best cell.
    """
    _check_classes(num_classes)
    q = torch.linspace(0.0, 1.0, 8 * grid + 1, dtype=torch.float64)[1:-1, None]
    within = torch.linspace(0.0, math.log(num_classes - 1), grid, dtype=torch.float64)[None]
    mixing = -q * q.log() - (1 - q) * (1 - q).log()
    positive = (q * (1 - q) * ((q / (1 - q)).log() + within)).clamp(min=0)
    largest = torch.exp(-1 - mixing - (1 - q) * within)
    return float((positive.square() + positive * torch.minimum(positive, largest)).max().sqrt())


def entropy_lipschitz(weight: Tensor) -> float:
    r"""Lipschitz constant of :math:`z \mapsto H(\mathrm{softmax}(Wz+b))`, Euclidean norm.

    :math:`\tau = \|W - \bar W\|_2\, c_K` with the mean row :math:`\bar W` taken off: what all
    logits share changes no probability, so that τ can only become smaller by it.

    Args:
        weight: W ``(K, d)``.

    Returns:
        Nats per unit of feature.
    """
    centred = weight.double() - weight.double().mean(0, keepdim=True)
    return float(torch.linalg.matrix_norm(centred, ord=2)) * entropy_constant(len(weight))


def class_lipschitz(weight: Tensor) -> Tensor:
    r"""Lipschitz constants of :math:`z \mapsto -\log p_y(z)`: :math:`L_y=\max_k\|W_k-W_y\|_2`.

    The gradient is :math:`\sum_k p_k (W_k - W_y)`, a mean of these differences.

    Args:
        weight: W ``(K, d)``.

    Returns:
        ``(K,)`` in float64, nats per unit of feature.
    """
    rows = weight.double()
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(rows, rows, compute_mode=exact).amax(1)


def _check_classes(num_classes: int) -> None:
    if isinstance(num_classes, bool) or not isinstance(num_classes, Integral):
        raise TypeError(f"num_classes must be an integer, got {type(num_classes).__name__}")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
