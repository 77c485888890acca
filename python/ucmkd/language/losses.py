"""Losses of a language model on chosen tokens: divergence from a teacher, and cross-entropy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ucmkd.language import _check
from ucmkd.ops import _check as check

DIVERGENCES = ("forward", "reverse", "jsd")


def token_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    divergence: str = "forward",
    mixture: float = 0.5,
    temperature: float = 1.0,
    detach_teacher: bool = True,
) -> Tensor:
    r"""Divergence of the next-token distributions at every position, in nats.

    ``"forward"``: :math:`\mathrm{KL}(p_t\|p_s)`; ``"reverse"``: :math:`\mathrm{KL}(p_s\|p_t)`;
    ``"jsd"``: :math:`\beta\,\mathrm{KL}(p_t\|m) + (1-\beta)\,\mathrm{KL}(p_s\|m)` with
    :math:`m = \beta p_t + (1-\beta) p_s`.

    Args:
        student_logits: ``(..., V)``.
        teacher_logits: ``(..., V)`` on the same tokens.
        divergence: Which.
        mixture: β in (0, 1), of ``"jsd"``.
        temperature: > 0; both are softmax(logits / temperature). The value is not rescaled.
        detach_teacher: No gradient to the teacher's logits.

    Returns:
        ``(...)`` float32 (or float64).

    Raises:
        TypeError: No floating tensors.
        ValueError: Different shapes, an unknown divergence, a number out of range.

    Source: Xu et al., ICLR 2025 (arXiv 2410.11325), equation 1; the generalised JSD of Agarwal et
    al., ICLR 2024 (arXiv 2306.13649), section 2.
    """
    check.one_of(divergence, DIVERGENCES, "divergence")
    for name, value in (("student_logits", student_logits), ("teacher_logits", teacher_logits)):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise TypeError(f"{name} must be a floating torch.Tensor; got {type(value).__name__}")
    if student_logits.shape != teacher_logits.shape or student_logits.dim() < 1:
        raise ValueError(
            "student_logits and teacher_logits must have one shape (..., V); got "
            f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        )
    if not 0 < mixture < 1:
        raise ValueError(f"mixture must lie in (0, 1); got {mixture}")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be > 0; got {temperature}")
    dtype = check.compute_dtype(student_logits, teacher_logits)
    if detach_teacher:
        teacher_logits = teacher_logits.detach()
    student = F.log_softmax(student_logits.to(dtype) / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.to(dtype) / temperature, dim=-1)
    if divergence == "forward":
        return _kl(teacher, student)
    if divergence == "reverse":
        return _kl(student, teacher)
    weight = torch.tensor([mixture, 1 - mixture], dtype=dtype, device=student.device).log()
    middle = torch.logaddexp(teacher + weight[0], student + weight[1])
    return mixture * _kl(teacher, middle) + (1 - mixture) * _kl(student, middle)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL of log-probabilities."""
    return (p.exp() * (p - q)).sum(-1)


def response_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    response: Tensor,
    *,
    divergence: str = "forward",
    mixture: float = 0.5,
    temperature: float = 1.0,
) -> Tensor:
    """Mean of :func:`token_divergence` over the tokens of the responses, all of one weight.

    Token i is predicted by the logits at i - 1; the first token of a row is nobody's prediction.

    Args:
        student_logits: ``(B, L, V)`` of the tokens.
        teacher_logits: ``(B, L, V)``.
        response: ``(B, L)`` bool, True for tokens that count.
        divergence: See there.
        mixture: See there.
        temperature: See there.

    Raises:
        TypeError: Not a mask.
        ValueError: A mask of another shape, or without a token to predict.
    """
    chosen = _predicted(student_logits, response)
    if teacher_logits.shape != student_logits.shape:
        _check.same_vocabulary(student_logits, teacher_logits)
        _check.logits(teacher_logits, "teacher", tuple(student_logits.shape[:2]))  # type: ignore[arg-type]
    return token_divergence(
        student_logits[:, :-1][chosen], teacher_logits[:, :-1][chosen], divergence=divergence,
        mixture=mixture, temperature=temperature,
    ).mean()  # fmt: skip


def response_cross_entropy(student_logits: Tensor, tokens: Tensor, response: Tensor) -> Tensor:
    """Mean of ``-log p_s(y_i | y_<i)`` over the tokens of the responses, in nats.

    Args:
        student_logits: ``(B, L, V)``.
        tokens: ``(B, L)`` integers.
        response: ``(B, L)`` bool.

    Raises:
        TypeError: Tokens or mask of the wrong kind.
        ValueError: Shapes that do not fit, or no token to predict.
    """
    chosen = _predicted(student_logits, response)
    if _check.tokens(tokens, "tokens").shape != response.shape:
        raise ValueError(
            f"tokens must have shape {tuple(response.shape)}; got {tuple(tokens.shape)}"
        )
    dtype = check.compute_dtype(student_logits)
    logits = student_logits[:, :-1][chosen].to(dtype)
    return F.cross_entropy(logits, tokens[:, 1:][chosen].long())


def _predicted(logits: Tensor, response: Tensor) -> Tensor:
    """``(B, L - 1)``: which of the predictions count."""
    if not isinstance(response, Tensor) or response.dtype is not torch.bool:
        kind = response.dtype if isinstance(response, Tensor) else type(response).__name__
        raise TypeError(f"response must be a bool torch.Tensor; got {kind}")
    if response.dim() != 2:
        raise ValueError(f"response must have shape (B, L); got {tuple(response.shape)}")
    _check.logits(logits, "student", tuple(response.shape))  # type: ignore[arg-type]
    chosen = response[:, 1:]
    if not bool(chosen.any()):
        raise ValueError("response must have a token after the first place of a row; got none")
    return chosen
