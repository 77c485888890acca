"""lightning.Trainer: the alignment is a line of ``training_step``."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from problem import Problem, Student, compare
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ucmkd.data import ClassMatchedSampler
from ucmkd.losses import SinkhornAlign


class Distillation(lightning.LightningModule):
    """A student with cross-entropy and an alignment."""

    def __init__(self, given: Problem, weight: float) -> None:
        super().__init__()
        self.student = Student(given.inputs.shape[1])
        self.align = SinkhornAlign(label_cost=10.0)
        self.weight = weight
        self.given, self.teacher = given, ClassMatchedSampler(given.teacher_labels, 0)
        self.seen: list[float] = []

    def training_step(self, batch: Any, index: int) -> Tensor:
        """One step on labelled samples of the student and as many of the teacher."""
        inputs, labels = batch
        draw = self.teacher.draw(labels)
        logits, features = self.student(inputs)
        align = self.align(
            features,
            self.given.teacher_features[draw],
            student_label=labels,
            teacher_label=self.given.teacher_labels[draw],
        )
        self.seen.append(align.item())
        return F.cross_entropy(logits, labels) + self.weight * align

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW on the student and its projector."""
        return torch.optim.AdamW(self.student.parameters(), lr=3e-3)


def train(given: Problem, weight: float, steps: int = 200) -> tuple[Student, list[float]]:
    """A student, and the alignment at every step."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    model = Distillation(given, weight)
    rows = TensorDataset(given.inputs, given.labels)
    loader = DataLoader(rows, batch_size=len(rows), shuffle=True)
    trainer = lightning.Trainer(
        max_epochs=steps,  # an epoch is one batch here
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few workers, few batches: true, and meant
        trainer.fit(model, loader)
    return model.student, model.seen


if __name__ == "__main__":
    print(compare(train))
