"""Classification metrics of a trained method, computed once from all logits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .stored_inputs import Inputs

try:
    from torchmetrics.functional.classification import (
        multiclass_confusion_matrix,
        multiclass_f1_score,
    )
except ImportError as error:
    raise ImportError(
        "ucmkd.metrics needs torchmetrics: install it with pip install 'ucmkd[train]'"
    ) from error


CALIBRATION_BINS = 15
"""Equal-width bins of the calibration error, as in Guo et al. (2017)."""


@dataclass(frozen=True)
class Metrics:
    """What is reported of a classifier on one set of samples.

    Attributes:
        accuracy: share of correct predictions.
        balanced_accuracy: mean recall over the classes that occur among the labels.
        recall: recall per class; nan for a class without samples.
        loss: mean cross-entropy of the logits, in nats: the negative log-likelihood (NLL).
        count: number of samples.
        macro_f1: mean over the classes of the harmonic mean of precision and recall; classes that
            occur neither among labels nor among predictions do not count.
        ece: expected calibration error in [0, 1], ``Σ_b n_b/n |acc(b) - conf(b)|`` over the 15
            bins ``((b-1)/15, b/15]`` of the largest probability, in float64 (Guo et al., "On
            Calibration of Modern Neural Networks", 2017, eq. 3).

    The last two are nan where they were read from a file of a version without them.
    """

    accuracy: float
    balanced_accuracy: float
    recall: tuple[float, ...]
    loss: float
    count: int
    macro_f1: float = math.nan
    ece: float = math.nan

    @property
    def score(self) -> float:
        """Accuracy + balanced accuracy: what the model is selected by."""
        return self.accuracy + self.balanced_accuracy

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what is not defined (nan) becomes None."""

        def plain(value: float) -> float | None:
            return None if value != value else value

        return {
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "recall": [plain(value) for value in self.recall],
            "loss": self.loss,
            "count": self.count,
            "macro_f1": plain(self.macro_f1),
            "ece": plain(self.ece),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Metrics:
        """Inverse of :meth:`to_dict`."""
        recall = tuple(math.nan if value is None else value for value in values["recall"])
        optional = {
            name: math.nan if values.get(name) is None else values[name]
            for name in ("macro_f1", "ece")
        }
        return cls(**{**values, "recall": recall, **optional})


def classification_metrics(logits: Tensor, label: Tensor, num_classes: int) -> Metrics:
    """Metrics of ``logits`` (n, C) against ``label`` (n,) int64.

    Raises:
        ValueError: no samples, shapes that do not fit, or labels outside [0, C).
    """
    _check(logits, label, num_classes)
    predicted, probability = logits.argmax(dim=1), logits.double().softmax(dim=1)
    confusion = multiclass_confusion_matrix(
        predicted, label, num_classes, validate_args=False
    ).double()
    support, hits = confusion.sum(dim=1), confusion.diagonal()
    recall = hits / support  # 0/0 = nan: the class has no sample
    return Metrics(
        accuracy=(hits.sum() / support.sum()).item(),
        balanced_accuracy=recall.nanmean().item(),
        recall=tuple(recall.tolist()),
        loss=F.cross_entropy(logits.double(), label).item(),
        count=len(label),
        macro_f1=multiclass_f1_score(
            predicted, label, num_classes, average="macro", validate_args=False
        ).item(),
        ece=_calibration_error(probability, predicted == label),
    )


def confusion_matrix(
    logits: Tensor, label: Tensor, num_classes: int
) -> tuple[tuple[int, ...], ...]:
    """Counts (C, C) of ``logits`` (n, C): row i, column j is class i taken for class j.

    Raises:
        ValueError: as :func:`classification_metrics`.
    """
    _check(logits, label, num_classes)
    counts = multiclass_confusion_matrix(
        logits.argmax(dim=1), label, num_classes, validate_args=False
    )
    return tuple(tuple(int(count) for count in row) for row in counts.tolist())


def _check(logits: Tensor, label: Tensor, num_classes: int) -> None:
    if label.ndim != 1 or label.dtype != torch.int64:
        raise ValueError(f"label must be (n,) int64, got {tuple(label.shape)} {label.dtype}")
    if logits.ndim != 2 or logits.shape != (len(label), num_classes) or len(label) == 0:
        raise ValueError(
            f"logits must have shape (n, {num_classes}) with n = {len(label)} > 0 labels, "
            f"got {tuple(logits.shape)}"
        )
    low, high = int(label.min()), int(label.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"label must lie in 0..{num_classes - 1}, got values from {low} to {high}")


def _calibration_error(probability: Tensor, hit: Tensor) -> float:
    """Calibration error of probabilities (n, C), float64, that were right where ``hit`` (n,)."""
    confidence = probability.amax(dim=1)
    # The bin (lo, hi] of each sample; certainty belongs to the last, it has no bin of its own.
    bins = (confidence * CALIBRATION_BINS).ceil().long().sub(1).clamp(0, CALIBRATION_BINS - 1)
    # n_b (acc(b) - conf(b)) is the sum over the bin of hit - confidence.
    gap = confidence.new_zeros(CALIBRATION_BINS).index_add_(0, bins, hit.double() - confidence)
    return (gap.abs().sum() / len(hit)).item()


@torch.no_grad()
def predict(method: Any, inputs: Inputs, batch_size: int = 4096) -> Tensor:
    """Logits (n, C) of ``method.predict`` in evaluation mode; the mode is put back afterwards."""
    was_training = method.training
    method.eval()
    try:
        return torch.cat([method.predict(part) for part in inputs.split(batch_size)])
    finally:
        method.train(was_training)


def evaluate(
    method: Any, inputs: Inputs, label: Tensor, num_classes: int, batch_size: int = 4096
) -> Metrics:
    """Metrics of :func:`predict` on one set of samples."""
    return classification_metrics(predict(method, inputs, batch_size), label, num_classes)
