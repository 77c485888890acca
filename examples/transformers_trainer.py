"""Hugging Face ``transformers.Trainer``: ``compute_loss`` with one more term.

The model is one of the library's kind (``PreTrainedModel``) with random weights: nothing is
downloaded.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

import torch
import transformers
from problem import Problem, Student, compare
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from ucmkd.data import ClassMatchedSampler
from ucmkd.losses import sinkhorn_align


class StudentConfig(transformers.PretrainedConfig):
    """Sizes of the student."""

    model_type = "ucmkd-example"

    def __init__(self, columns: int = 50, **options: Any) -> None:
        super().__init__(**options)
        self.columns = columns


class PretrainedStudent(transformers.PreTrainedModel):
    """The student of all examples as a model of the library; its weights are random."""

    config_class = StudentConfig

    def __init__(self, config: StudentConfig) -> None:
        super().__init__(config)
        self.student = Student(config.columns)
        self.post_init()

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits ``(n, 10)``, and features to be aligned."""
        logits, features = self.student(inputs)
        return logits, features


class DistillationTrainer(transformers.Trainer):
    """A trainer that knows the teacher's features."""

    def __init__(self, given: Problem, weight: float, **options: Any) -> None:
        super().__init__(**options)
        self.given, self.weight = given, weight
        self.sampler = ClassMatchedSampler(given.teacher_labels, 0)
        self.seen: list[float] = []

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Any:
        """Cross-entropy plus the alignment with other samples of the same classes."""
        labels = inputs["labels"]
        logits, features = model(**inputs)
        draw = self.sampler.draw(labels)
        align = sinkhorn_align(
            features,
            self.given.teacher_features[draw].to(features.device),
            student_label=labels,
            teacher_label=self.given.teacher_labels[draw].to(features.device),
            label_cost=10.0,
        )
        self.seen.append(align.item())
        loss = nn.functional.cross_entropy(logits, labels) + self.weight * align
        return (loss, logits) if return_outputs else loss


def collate(rows: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Rows of a TensorDataset as the keyword arguments of the model."""
    inputs, labels = zip(*rows, strict=True)
    return {"inputs": torch.stack(inputs), "labels": torch.stack(labels)}


def train(given: Problem, weight: float, steps: int = 200) -> tuple[nn.Module, list[float]]:
    """A student, and the alignment at every step."""
    os.environ["WANDB_DISABLED"] = "true"
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=len(given.inputs),
            learning_rate=3e-3, seed=0, use_cpu=True, save_strategy="no", logging_strategy="no",
            lr_scheduler_type="constant", report_to=[], disable_tqdm=True,
            remove_unused_columns=False,
        )  # fmt: skip
        torch.manual_seed(0)
        student = PretrainedStudent(StudentConfig(columns=given.inputs.shape[1]))
        trainer = DistillationTrainer(
            given,
            weight,
            model=student,
            args=arguments,
            train_dataset=TensorDataset(given.inputs, given.labels),
            data_collator=collate,
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return student, trainer.seen


if __name__ == "__main__":
    print(compare(train))
