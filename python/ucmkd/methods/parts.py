"""What several methods share: ramps, projectors, class frequencies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ucmkd.losses._common import wide


def ramp(step: int, length: int) -> float:
    """A linear ramp: 0 up to step 0, 1 from step ``length`` on (for ``length`` 0 from 0 on)."""
    if step < 0:
        return 0.0
    return 1.0 if length <= 0 else min(1.0, step / length)


def checked_prior(prior: Tensor, num_classes: int, name: str = "class_prior") -> Tensor:
    """Class frequencies ``(C,)`` as float32 (float64 stays), normalised to sum to one."""
    try:
        prior = torch.as_tensor(prior).detach()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be {num_classes} numbers, got {prior!r}") from None
    prior = prior if prior.dtype == torch.float64 else prior.float()
    if prior.shape != (num_classes,):
        raise ValueError(f"{name} must have shape ({num_classes},), got {tuple(prior.shape)}")
    if not bool(torch.isfinite(prior).all()) or bool((prior < 0).any()) or float(prior.sum()) <= 0:
        raise ValueError(f"{name} must be finite, non-negative and not all zero")
    return prior / prior.sum()


def checked_counts(counts: Tensor, num_classes: int) -> Tensor:
    """Numbers of samples per class ``(C,)``, int64.

    Raises:
        TypeError: Not C whole numbers.
        ValueError: A wrong shape, a negative number, or no sample at all.
    """
    accepted = f"label_counts must be {num_classes} whole numbers of samples"
    try:
        counts = torch.as_tensor(counts).detach()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{accepted}, got {counts!r}") from None
    if counts.is_floating_point() or counts.is_complex() or counts.dtype == torch.bool:
        raise TypeError(f"{accepted}, got {counts.dtype}")
    if counts.shape != (num_classes,):
        raise ValueError(f"{accepted}, got shape {tuple(counts.shape)}")
    if int(counts.min()) < 0 or int(counts.sum()) == 0:
        raise ValueError(f"{accepted}, none negative and not all 0, got {counts.tolist()}")
    return counts.long()


def target_prior(
    prior: str | Sequence[float] | Tensor, class_prior: Tensor | None, num_classes: int
) -> Tensor:
    """The class frequencies ``(C,)`` that a method shall assume for unlabelled samples.

    Args:
        prior: ``"teacher"`` (``class_prior``), ``"uniform"``, or the frequencies themselves.
        class_prior: The teacher's class frequencies.
        num_classes: Number of classes C.

    Raises:
        TypeError: Neither a word nor numbers.
        ValueError: Another string, a wrong shape, or ``"teacher"`` without ``class_prior``.
    """
    if isinstance(prior, str):
        if prior == "uniform":
            return torch.full((num_classes,), 1.0 / num_classes)
        if prior != "teacher":
            raise ValueError(
                "prior must be 'teacher', 'uniform' or C numbers (or, of a method that estimates, "
                f"'estimated'), got {prior!r}"
            )
        if class_prior is None:
            raise ValueError("prior='teacher' needs class_prior, the teacher's class frequencies")
        return checked_prior(class_prior, num_classes)
    if not isinstance(prior, Tensor | Sequence) and not hasattr(prior, "__array__"):
        raise TypeError(
            f"prior must be 'teacher', 'uniform' or {num_classes} numbers, got {prior!r}"
        )
    return checked_prior(prior, num_classes, "prior")  # type: ignore[arg-type]


def make_projector(width: int, teacher_width: int, kind: str = "auto") -> nn.Module:
    """The map from student to teacher features.

    Args:
        width: Number of student features.
        teacher_width: Number of teacher features.
        kind: ``"linear"`` (a linear layer with bias), ``"identity"``, or ``"auto"``: identity
            for equal widths, else linear. (The released UCMKD code truncates the wider side
            instead, which throws features away.)

    Raises:
        ValueError: Unknown ``kind``, or ``"identity"`` between unequal widths.
    """
    if kind not in ("auto", "linear", "identity"):
        raise ValueError(f"projector must be 'auto', 'linear' or 'identity', got {kind!r}")
    if kind == "identity" and width != teacher_width:
        raise ValueError(
            f"projector='identity' needs equal widths, got student {width}, teacher {teacher_width}"
        )
    if kind == "linear" or width != teacher_width:
        return nn.Linear(width, teacher_width)
    return nn.Identity()


def class_weights(label: Tensor, mass: Tensor) -> Tensor:
    """Weights ``(m,)``, summing to one, that give every class of ``label`` its mass.

    ``w_j = mass[y_j] / #{k: y_k = y_j}``, normalised; the mass of classes that do not occur is
    spread over the others in proportion. Uniform weights if no class present has any mass.

    Args:
        label: Classes ``(m,)``, int64.
        mass: Wanted masses ``(C,)``.
    """
    mass = wide(mass)
    count = torch.bincount(label, minlength=len(mass))
    weight = (mass / count.clamp_min(1))[label]
    total = weight.sum()
    return torch.where(total > 0, weight / total, torch.full_like(weight, 1.0 / len(label)))
