"""The class frequencies of unlabelled samples, estimated from what a classifier says about them.

Both estimators assume label shift: the frequencies of the classes differ from those of the
labelled samples, the samples within a class do not.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _prior(name: str, value: Tensor, num_classes: int) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor ({num_classes},), got {type(value).__name__}")
    value = value.detach().double()
    if value.shape != (num_classes,):
        raise ValueError(f"{name} must have shape ({num_classes},), got {tuple(value.shape)}")
    if not bool(value.isfinite().all()) or bool((value <= 0).any()):
        raise ValueError(f"{name} must be finite and positive, got {value.tolist()}")
    return value / value.sum()


def estimate_prior_em(
    logits: Tensor, labelled_prior: Tensor, *, tol: float = 1e-8, max_iter: int = 1000
) -> Tensor:
    r"""Class frequencies of unlabelled samples by expectation maximisation.

    From :math:`q = \pi` iterate

    .. math::
        r_{ic} = \frac{(q_c/\pi_c)\,p_c(x_i)}{\sum_k (q_k/\pi_k)\,p_k(x_i)},\qquad
        q_c \leftarrow \frac1n \sum_i r_{ic},

    with p the classifier's softmax and π the class frequencies that it was trained under. Each
    step raises the likelihood of the samples, which is concave in q. It is as good as the
    probabilities are: an overconfident classifier biases it.

    Args:
        logits: ``(n, C)`` on the unlabelled samples.
        labelled_prior: π ``(C,)``, positive; normalised to sum to one.
        tol: Stop when no frequency changes by more.
        max_iter: Most iterations.

    Returns:
        Frequencies q ``(C,)``, float64, without a gradient.

    Raises:
        TypeError: An argument that is no tensor.
        ValueError: Shapes that do not fit, NaN or infinite logits, a frequency of π that is not
            positive, a negative ``tol``, ``max_iter`` below one.

    Source: Saerens, Latinne and Decaestecker 2002 (Neural Computation 14), equation 2.9.
    """
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        kind = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"logits must be a floating tensor (n, C), got {kind}")
    if logits.ndim != 2 or 0 in logits.shape:
        raise ValueError(f"logits must have shape (n, C), not empty, got {tuple(logits.shape)}")
    if not bool(logits.isfinite().all()):
        raise ValueError("logits must be finite, got NaN or infinite entries")
    if not tol >= 0:
        raise ValueError(f"tol must be zero or more, got {tol!r}")
    if max_iter < 1:
        raise ValueError(f"max_iter must be at least 1, got {max_iter!r}")
    prior = _prior("labelled_prior", labelled_prior, logits.shape[1])
    likelihood = logits.detach().double() - prior.log()
    # Of each row up to a factor, which cancels.
    likelihood = (likelihood - likelihood.amax(dim=1, keepdim=True)).exp()
    found = prior
    for _ in range(max_iter):
        joint = likelihood * found
        new = (joint / joint.sum(dim=1, keepdim=True)).mean(dim=0)
        change = float((new - found).abs().max())
        found = new
        if change <= tol:
            break
    return found


def estimate_prior_bbse(confusion: Tensor, predictions: Tensor) -> Tensor:
    r"""Class frequencies of unlabelled samples from a confusion matrix and hard predictions.

    Solves :math:`\sum_k P(\hat y=c\,|\,y=k)\, q_k = \hat\mu_c` for q, with
    :math:`P(\hat y|y)` from held-out labelled samples and :math:`\hat\mu` the frequencies of the
    predictions on the unlabelled ones; negative solutions are set to 0 and the rest normalised.
    Needs no calibrated probabilities, unlike :func:`estimate_prior_em`, but held-out samples of
    every class.

    Args:
        confusion: Counts ``(C, C)``: row k, column c for true class k predicted as c.
        predictions: Predicted classes ``(n,)`` of the unlabelled samples, integer.

    Returns:
        Frequencies q ``(C,)``, float64.

    Raises:
        TypeError: An argument that is no tensor, or predictions that are no integers.
        ValueError: Shapes that do not fit, a negative count, a class without a held-out sample,
            predictions outside ``[0, C)``, or a confusion matrix that is singular.

    Source: Lipton, Wang and Smola 2018 (arXiv 1802.03916), there with the joint
    :math:`P(\hat y, y)` and importance weights q/π.
    """
    for name, value in (("confusion", confusion), ("predictions", predictions)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if predictions.is_floating_point():
        raise TypeError(f"predictions must be integers, got {predictions.dtype}")
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1] or 0 in confusion.shape:
        raise ValueError(f"confusion must have shape (C, C), got {tuple(confusion.shape)}")
    if predictions.ndim != 1 or not len(predictions):
        raise ValueError(
            f"predictions must have shape (n,), not empty, got {tuple(predictions.shape)}"
        )
    count, classes = confusion.double(), len(confusion)
    if not bool(count.isfinite().all()) or bool((count < 0).any()):
        raise ValueError("confusion must be finite and not negative")
    empty = (count.sum(dim=1) == 0).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"confusion must have a sample of every class, got none of {empty}")
    low, high = int(predictions.min()), int(predictions.max())
    if low < 0 or high >= classes:
        raise ValueError(f"predictions must lie in 0..{classes - 1}, got {low} to {high}")
    given_class = (count / count.sum(dim=1, keepdim=True)).T
    rank = int(torch.linalg.matrix_rank(given_class))
    if rank < classes:
        raise ValueError(
            f"confusion must be invertible, got rank {rank} of {classes}: some classes are "
            "predicted alike"
        )
    seen = torch.bincount(predictions.long(), minlength=classes).double() / len(predictions)
    found = torch.linalg.solve(given_class, seen.to(given_class.device)).clamp_min(0)
    return found / found.sum()
