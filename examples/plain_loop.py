"""A plain PyTorch loop: one more term beside cross-entropy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from problem import Problem, Student, compare

from ucmkd.data import ClassMatchedSampler
from ucmkd.losses import sinkhorn_align


def train(given: Problem, weight: float, steps: int = 200) -> tuple[Student, list[float]]:
    """A student, and the alignment at every step (with weight 0 it is only watched)."""
    torch.manual_seed(0)
    student = Student(given.inputs.shape[1])
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    teacher = ClassMatchedSampler(given.teacher_labels, 0)
    seen = []
    for _ in range(steps):
        draw = teacher.draw(given.labels)  # other samples, of the same classes
        logits, features = student(given.inputs)
        align = sinkhorn_align(
            features,
            given.teacher_features[draw],
            student_label=given.labels,
            teacher_label=given.teacher_labels[draw],
            label_cost=10.0,
        )
        loss = F.cross_entropy(logits, given.labels) + weight * align
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(align.item())
    return student, seen


if __name__ == "__main__":
    print(compare(train))
