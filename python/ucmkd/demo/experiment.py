"""One split of one problem: train the teacher, then every row of a table, and test each once."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from ucmkd.config import OptimizerConfig, TrainingConfig
from ucmkd.demo.problems import Split
from ucmkd.methods import create
from ucmkd.models import MLP
from ucmkd.trainer import Fitted, TrainingData, fit

ALL_PAIRS = -1
KEPT = 200  # test samples whose features are stored for the picture
PICTURE_SPLIT = 0


@dataclass(frozen=True)
class Base:
    """What regularises a student."""

    weight_decay: float
    dropout: float
    smoothing: float


CANDIDATES = (
    Base(0.01, 0.0, 0.0),
    Base(0.01, 0.5, 0.1),
    Base(0.1, 0.5, 0.0),
    Base(1.0, 0.0, 0.0),
    Base(1.0, 0.5, 0.0),
    Base(1.0, 0.5, 0.1),
)
"""The settings among which validation chooses plain cross-entropy's."""

FIXED = Base(1.0, 0.5, 0.1)
"""The setting of every method with unlabelled samples or pairs (also one of the candidates)."""


@dataclass(frozen=True)
class Row:
    """One line of a table: a method with its options.

    Attributes:
        key: Unique name.
        label: What people read.
        method: Name of a method, ``"tuned ce"``, ``"all labels"`` or ``"self + pairs"``.
        tuned: Trained with the setting that was best for cross-entropy, else with ``FIXED``.
        pairs: Number of unlabelled samples also measured in the teacher's modality.
        placebo: Whether the teacher's classes are permuted.
        options: Options of the method.
    """

    key: str
    label: str
    method: str
    tuned: bool = False
    pairs: int = 0
    placebo: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """What identifies the row in a stored result (its label does not)."""
        return {name: value for name, value in asdict(self).items() if name != "label"}


@dataclass(frozen=True)
class Teacher:
    """A trained and frozen teacher, as what it says about its own samples and about pairs."""

    head: torch.nn.Module
    width: int
    feature: Tensor
    logits: Tensor
    label: Tensor
    prior: Tensor
    pair_feature: Tensor | None
    pair_logits: Tensor | None


Record = dict[str, Any]


class Experiment:
    """All trainings of one split, which share a teacher and the tuned setting.

    Args:
        split: The data.
        steps: Optimiser steps of every training.
        base: The tuned setting if it is known already (a resumed demo).
    """

    def __init__(self, split: Split, *, steps: int, base: Base | None = None) -> None:
        self.split = split
        self.steps = steps
        self.base = base
        self.fabric = Fabric(accelerator="cpu", devices=1)
        self.teacher: Teacher | None = None

    def run(self, rows: list[Row]) -> list[Record]:
        """The results of the rows, and of the teacher, each as one plain record."""
        started = time.perf_counter()
        self.teacher, record = self._train_teacher()
        records = [self._stamp("teacher", record, started)]
        for row in sorted(rows, key=lambda row: row.method != "tuned ce"):
            started = time.perf_counter()
            records.append(self._stamp(row.key, self._run_row(row), started))
        return records

    def _stamp(self, key: str, record: Record, started: float) -> Record:
        seconds = round(time.perf_counter() - started, 3)
        return {"row": key, "split": self.split.number, "seconds": seconds, **record}

    # Trainings -----------------------------------------------------------------------------

    def _train_teacher(self) -> tuple[Teacher, Record]:
        s = self.split
        (inputs, label), (test, test_label) = s.teacher, s.teacher_test
        data = TrainingData(
            num_classes=s.num_classes,
            student=torch.from_numpy(inputs),
            student_label=torch.from_numpy(label),
            validation=torch.from_numpy(s.teacher_validation[0]),
            validation_label=torch.from_numpy(s.teacher_validation[1]),
            test=torch.from_numpy(test),
            test_label=torch.from_numpy(test_label),
        )
        fitted = self._fit("ce", data, Base(0.01, 0.3, 0.0), tag=7)
        model = fitted.method.student
        with torch.no_grad():
            feature, logits = model.outputs(data.student[:])
            pairs = None if s.paired is None else model.outputs(torch.from_numpy(s.paired))
        teacher = Teacher(
            head=model.head,  # type: ignore[arg-type]
            width=model.width,
            feature=feature,
            logits=logits,
            label=data.student_label,
            prior=torch.bincount(data.student_label, minlength=s.num_classes) / len(label),
            pair_feature=None if pairs is None else pairs[0],
            pair_logits=None if pairs is None else pairs[1],
        )
        kept = _kept(len(label))
        picture = _picture(feature[kept], data.student_label[kept]) if self._pictured else {}
        return teacher, {**_scores(fitted), **picture}

    def _run_row(self, row: Row) -> Record:
        if row.method == "tuned ce":
            return self._tune()
        if row.tuned and self.base is None:
            self._tune()
        base = self.base if row.tuned and self.base is not None else FIXED
        data = self._data(row)
        method = "ce" if row.method == "all labels" else row.method
        fitted = self._fit(method, data, base, options=row.options, placebo=row.placebo)
        return self._record(fitted, base)

    def _tune(self) -> Record:
        """Cross-entropy alone, with the best of the candidates by validation."""
        data = self._data(None)
        fits = [self._fit("ce", data, base) for base in CANDIDATES]
        scores = [0.0 if f.validation is None else f.validation.score for f in fits]
        best = int(np.argmax(scores))
        self.base = CANDIDATES[best]
        return self._record(fits[best], CANDIDATES[best])

    def _data(self, row: Row | None) -> TrainingData:
        """What the student may see; only the "all labels" reference sees the hidden ones."""
        s, teacher = self.split, self.teacher
        assert teacher is not None
        inputs, label = s.labelled
        if row is not None and row.method == "all labels":
            inputs = np.concatenate((inputs, s.unlabelled[0]))
            label = np.concatenate((label, s.unlabelled[1]))
        optional: dict[str, Any] = {}
        if row is not None and row.pairs:
            if s.paired is None or teacher.pair_feature is None or teacher.pair_logits is None:
                raise ValueError(f"row {row.key!r} wants pairs, {s.problem!r} has none")
            count = len(s.paired) if row.pairs == ALL_PAIRS else row.pairs
            # One order per split: the first 5 pairs are among the first 10.
            order = np.random.default_rng([s.number, 77]).permutation(len(s.paired))[:count]
            chosen = torch.from_numpy(order)
            optional = {
                "paired": torch.from_numpy(s.unlabelled[0])[chosen],
                "paired_teacher_feature": teacher.pair_feature[chosen],
                "paired_teacher_logits": teacher.pair_logits[chosen],
            }
        return TrainingData(
            num_classes=s.num_classes,
            student=torch.from_numpy(inputs),
            student_label=torch.from_numpy(label),
            validation=torch.from_numpy(s.validation[0]),
            validation_label=torch.from_numpy(s.validation[1]),
            test=torch.from_numpy(s.test[0]),
            test_label=torch.from_numpy(s.test[1]),
            teacher_feature=teacher.feature,
            teacher_logits=teacher.logits,
            teacher_label=teacher.label,
            unlabelled=torch.from_numpy(s.unlabelled[0]),
            **optional,
        )

    def _fit(
        self,
        name: str,
        data: TrainingData,
        base: Base,
        *,
        options: dict[str, Any] | None = None,
        placebo: bool = False,
        tag: int = 0,
    ) -> Fitted:
        """Train one method from the split's own initialisation."""
        seed = 1000 * self.split.number + tag
        torch.manual_seed(seed)
        student = MLP(data.student.shape[1], num_classes=data.num_classes, dropout=base.dropout)
        arguments: dict[str, Any] = {
            "num_classes": data.num_classes,
            "label_counts": data.label_counts,
            "label_smoothing": base.smoothing,
            **(options or {}),
        }
        if self.teacher is not None:
            arguments |= {
                "teacher_head": self.teacher.head,
                "teacher_width": self.teacher.width,
                "class_prior": self.teacher.prior,
                "placebo": placebo,
                "placebo_seed": self.split.number,  # another wrong teacher in every split
            }
        method = create(
            "self_labelling_with_pairs" if name == "self + pairs" else name, student, **arguments
        )
        training = TrainingConfig(steps=self.steps, diagnose_every=0)
        optimizer = OptimizerConfig(lr=1e-3, weight_decay=base.weight_decay)
        return fit(method, data, training, optimizer, seed=seed, fabric=self.fabric)

    # Records -------------------------------------------------------------------------------

    @property
    def _pictured(self) -> bool:
        return self.split.number == PICTURE_SPLIT

    def _record(self, fitted: Fitted, base: Base) -> Record:
        curve = [
            [r["step"], r["validation"]["accuracy"], r["validation"]["balanced_accuracy"]]
            for r in fitted.history
            if "validation" in r
        ]
        record: Record = {**_scores(fitted), "base": asdict(base), "curve": curve}
        if self._pictured:
            data, method = fitted.data, fitted.method
            assert data.test is not None and data.test_label is not None
            kept = _kept(len(data.test))
            with torch.no_grad():
                feature = method.student.encoder(data.test[kept])
                projector = getattr(method, "projector", None)
                feature = feature if projector is None else projector(feature)
            record |= _picture(feature, data.test_label[kept])
        return record


def _scores(fitted: Fitted) -> Record:
    out = fitted.test().to_dict()
    record = {name: out[name] for name in ("accuracy", "balanced_accuracy", "recall", "count")}
    record["best_step"] = fitted.best_step
    return record


def _kept(count: int) -> Tensor:
    """Rows for the picture: at most ``KEPT``, spread evenly."""
    return torch.linspace(0, count - 1, min(count, KEPT)).long()


def _picture(feature: Tensor, label: Tensor) -> Record:
    """L2-normalised features, short enough to be stored as text."""
    unit = torch.nn.functional.normalize(feature, dim=-1)
    rounded = [[round(value, 3) for value in row] for row in unit.tolist()]
    return {"feature": rounded, "feature_label": label.tolist()}
