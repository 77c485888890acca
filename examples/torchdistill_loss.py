"""torchdistill: a registered loss, named in a configuration like any of its own.

Its losses read the outputs of named modules of student and teacher, which forward hooks collect.
Here the teacher's come from other samples.
"""

from __future__ import annotations

from typing import Any

import torch
from problem import Problem, Student, compare
from torch import Tensor, nn
from torchdistill.core.forward_hook import ForwardHookManager
from torchdistill.losses.high_level import WeightedSumLoss
from torchdistill.losses.registry import register_mid_level_loss

from ucmkd.data import ClassMatchedSampler
from ucmkd.losses import sinkhorn_align


@register_mid_level_loss
class UnpairedSinkhornLoss(nn.Module):
    """``sinkhorn_align`` between the outputs of two named modules."""

    def __init__(
        self, student_module_path: str, teacher_module_path: str, label_cost: float = 10.0
    ) -> None:
        super().__init__()
        self.student_module_path = student_module_path
        self.teacher_module_path = teacher_module_path
        self.label_cost = label_cost
        self.last = 0.0

    def forward(self, student_io: Any, teacher_io: Any, targets: Tensor, *_: Any) -> Tensor:
        """The loss; the teacher's batch has the classes of the student's, in its order."""
        value = sinkhorn_align(
            student_io[self.student_module_path]["output"],
            teacher_io[self.teacher_module_path]["output"],
            student_label=targets,
            teacher_label=targets,
            label_cost=self.label_cost,
        )
        self.last = value.item()
        return value


def configuration(weight: float) -> dict[str, Any]:
    """The criterion, as the YAML file of a torchdistill run has it."""
    head = {"module_path": "head", "io": "output"}
    paths = {"student_module_path": "projector", "teacher_module_path": "features"}
    return {
        "ce": {
            "criterion": {"key": "CrossEntropyLoss", "kwargs": {}},
            "criterion_wrapper": {
                "key": "SimpleLossWrapper",
                "kwargs": {
                    "input": {"is_from_teacher": False, **head},
                    "target": {"uses_label": True},
                },
            },
            "weight": 1.0,
        },
        "align": {"criterion": {"key": "UnpairedSinkhornLoss", "kwargs": paths}, "weight": weight},
    }


class Stored(nn.Module):
    """A frozen teacher's cached features, by row."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = nn.Embedding.from_pretrained(features)

    def forward(self, rows: Tensor) -> Tensor:
        """Features ``(n, d)``."""
        return self.features(rows)


def train(given: Problem, weight: float, steps: int = 200) -> tuple[Student, list[float]]:
    """A student, and the alignment at every step."""
    torch.manual_seed(0)
    student, teacher = Student(given.inputs.shape[1]), Stored(given.teacher_features)
    hooks = ForwardHookManager("cpu"), ForwardHookManager("cpu")
    for path in ("head", "projector"):
        hooks[0].add_hook(student, path)
    hooks[1].add_hook(teacher, "features")
    criterion = WeightedSumLoss(sub_terms=configuration(weight))
    align = criterion.term_dict["align"][0]
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    sampler, seen = ClassMatchedSampler(given.teacher_labels, 0), []
    for _ in range(steps):
        student(given.inputs)
        teacher(sampler.draw(given.labels))
        io = {"student": hooks[0].pop_io_dict(), "teacher": hooks[1].pop_io_dict()}
        optimizer.zero_grad()
        criterion(io, {}, given.labels).backward()
        optimizer.step()
        seen.append(align.last)
    return student, seen


if __name__ == "__main__":
    print(compare(train))
