"""accelerate: prepare the student and the optimiser, and let it do the backward pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from problem import Problem, Student, compare
from torch.utils.data import DataLoader, TensorDataset

from ucmkd.data import ClassMatchedSampler
from ucmkd.losses import sinkhorn_align


def train(given: Problem, weight: float, steps: int = 200) -> tuple[Student, list[float]]:
    """A student, and the alignment at every step."""
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    student = Student(given.inputs.shape[1])
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    rows = TensorDataset(given.inputs, given.labels)
    loader = DataLoader(rows, batch_size=len(rows), shuffle=True)
    student, optimizer, loader = accelerator.prepare(student, optimizer, loader)
    teacher = ClassMatchedSampler(given.teacher_labels, 0)
    seen = []
    for _ in range(steps):
        for inputs, labels in loader:
            draw = teacher.draw(labels)
            logits, features = student(inputs)
            with accelerator.autocast():
                align = sinkhorn_align(
                    features,
                    given.teacher_features[draw].to(accelerator.device),
                    student_label=labels,
                    teacher_label=given.teacher_labels[draw].to(accelerator.device),
                    label_cost=10.0,
                )
                loss = F.cross_entropy(logits, labels) + weight * align
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            seen.append(align.item())
    return accelerator.unwrap_model(student), seen


if __name__ == "__main__":
    print(compare(train))
