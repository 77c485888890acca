"""pytorch-metric-learning: the alignment as one of its losses, the teacher as reference.

Its losses take ``(embeddings, labels, ref_emb=, ref_labels=)``: the reference embeddings are the
teacher's, of other samples. ``MultipleLosses`` adds it to a loss of the library.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from problem import Problem, Student, compare
from pytorch_metric_learning.losses import BaseMetricLossFunction
from torch import Tensor

from ucmkd.data import ClassMatchedSampler
from ucmkd.losses import sinkhorn_align


class Align(BaseMetricLossFunction):
    """``sinkhorn_align`` between embeddings and reference embeddings, label-aware."""

    def __init__(self, label_cost: float = 10.0, **options: Any) -> None:
        super().__init__(**options)
        self.label_cost = label_cost

    def compute_loss(
        self, embeddings: Tensor, labels: Tensor, indices: Any, ref_emb: Tensor, ref_labels: Tensor
    ) -> dict[str, Any]:
        """The loss in the form that reducers of the library read."""
        value = sinkhorn_align(
            embeddings,
            ref_emb,
            student_label=labels,
            teacher_label=ref_labels,
            label_cost=self.label_cost,
        )
        return {"loss": {"losses": value, "indices": None, "reduction_type": "already_reduced"}}


def train(given: Problem, weight: float, steps: int = 200) -> tuple[Student, list[float]]:
    """A student, and the alignment at every step."""
    torch.manual_seed(0)
    student = Student(given.inputs.shape[1])
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    teacher = ClassMatchedSampler(given.teacher_labels, 0)
    align = Align()
    seen = []
    for _ in range(steps):
        draw = teacher.draw(given.labels)
        logits, features = student(given.inputs)
        value = align(
            features,
            given.labels,
            ref_emb=given.teacher_features[draw],
            ref_labels=given.teacher_labels[draw],
        )
        optimizer.zero_grad()
        (F.cross_entropy(logits, given.labels) + weight * value).backward()
        optimizer.step()
        seen.append(value.item())
    return student, seen


if __name__ == "__main__":
    print(compare(train))
