"""Classification metrics of a trained method, computed once from all logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    from torchmetrics.functional.classification import multiclass_confusion_matrix
except ImportError as error:
    raise ImportError(
        "ucmkd.metrics needs torchmetrics: install it with pip install 'ucmkd[train]'"
    ) from error


@dataclass(frozen=True)
class Metrics:
    """What is reported of a classifier on one set of samples.

    Attributes:
        accuracy: share of correct predictions.
        balanced_accuracy: mean recall over the classes that occur among the labels.
        recall: recall per class; nan for a class without samples.
        loss: mean cross-entropy of the logits, in nats.
        count: number of samples.
    """

    accuracy: float
    balanced_accuracy: float
    recall: tuple[float, ...]
    loss: float
    count: int

    @property
    def score(self) -> float:
        """Accuracy + balanced accuracy: what the model is selected by."""
        return self.accuracy + self.balanced_accuracy

    def to_dict(self) -> dict[str, Any]:
        """Plain values; a recall that is not defined becomes None."""
        recall = [None if value != value else value for value in self.recall]
        return {
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "recall": recall,
            "loss": self.loss,
            "count": self.count,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Metrics:
        """Inverse of :meth:`to_dict`."""
        recall = tuple(float("nan") if value is None else value for value in values["recall"])
        return cls(**{**values, "recall": recall})


def classification_metrics(logits: Tensor, label: Tensor, num_classes: int) -> Metrics:
    """Metrics of ``logits`` (n, C) against ``label`` (n,) int64.

    Raises:
        ValueError: no samples, or shapes that do not fit.
    """
    if logits.ndim != 2 or logits.shape != (len(label), num_classes) or len(label) == 0:
        raise ValueError(
            f"logits must have shape (n, {num_classes}) with n = {len(label)} > 0 labels, "
            f"got {tuple(logits.shape)}"
        )
    confusion = multiclass_confusion_matrix(
        logits.argmax(dim=1), label, num_classes, validate_args=False
    ).double()
    support, hits = confusion.sum(dim=1), confusion.diagonal()
    recall = hits / support  # 0/0 = nan: the class has no sample
    return Metrics(
        accuracy=(hits.sum() / support.sum()).item(),
        balanced_accuracy=recall.nanmean().item(),
        recall=tuple(recall.tolist()),
        loss=F.cross_entropy(logits.double(), label).item(),
        count=len(label),
    )


def confusion_matrix(
    logits: Tensor, label: Tensor, num_classes: int
) -> tuple[tuple[int, ...], ...]:
    """Counts (C, C) of ``logits`` (n, C): row i, column j is class i taken for class j."""
    counts = multiclass_confusion_matrix(
        logits.argmax(dim=1), label, num_classes, validate_args=False
    )
    return tuple(tuple(int(count) for count in row) for row in counts.tolist())


@torch.no_grad()
def predict(method: Any, inputs: Tensor, batch_size: int = 4096) -> Tensor:
    """Logits (n, C) of ``method.predict`` in evaluation mode; the mode is put back afterwards."""
    was_training = method.training
    method.eval()
    try:
        return torch.cat([method.predict(part) for part in inputs.split(batch_size)])
    finally:
        method.train(was_training)


def evaluate(
    method: Any, inputs: Tensor, label: Tensor, num_classes: int, batch_size: int = 4096
) -> Metrics:
    """Metrics of :func:`predict` on one set of samples."""
    return classification_metrics(predict(method, inputs, batch_size), label, num_classes)
