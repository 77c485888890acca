"""The runs of one scenario and seed: data prepared once, each teacher trained once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from ucmkd.batches import TrainingData
from ucmkd.config import DataConfig, HardwareConfig, Recipe
from ucmkd.data.streaming.index import INDEX
from ucmkd.focus import focused
from ucmkd.methods.modalities import alone
from ucmkd.metrics import Metrics, classification_metrics, predict
from ucmkd.models import Student
from ucmkd.preparation import Prepared, prepare
from ucmkd.processes import make_fabric
from ucmkd.rehearsal import make_method, uses_peer, uses_teacher
from ucmkd.staged import staged
from ucmkd.stored_inputs import Inputs
from ucmkd.study.plan import Job, Run
from ucmkd.study.provenance import provenance
from ucmkd.study.resolve import Resolved
from ucmkd.study.task_job import TaskBench
from ucmkd.taught import taught, untaught
from ucmkd.teacher import (
    build_model,
    build_teacher,
    cache_outputs,
    freeze,
    load_weights,
    one_line,
    train_teacher,
)
from ucmkd.teacher_inputs import shown
from ucmkd.trainer import Fitted, fit

Teacher = tuple[Student, Metrics]
"""A frozen teacher and how good it is in its own modality."""


def work(job: Job) -> Iterator[dict[str, Any]]:
    """The rows of a job, one after the other; a run that fails gives a row with ``error``."""
    bench = Bench(job.seed) if job.task is None else TaskBench(job.task, job.seed)
    for run in job.runs:
        try:
            yield {**run.head(), **bench.run(run)}
        except Exception as error:  # the others go on
            yield failed(run, f"{type(error).__name__}: {one_line(error)}")


def failed(run: Run, error: str) -> dict[str, Any]:
    """The row of a run without a result."""
    return {**run.head(), **provenance(), "error": error}


class Bench:
    """What the runs of one seed share.

    A run is what ``ucmkd distill`` does with its recipe: the same split, the same
    initialisations, the same figures.

    Args:
        seed: Of split, initialisation, batches and dropout.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._prepared: dict[DataConfig, Prepared] = {}
        self._teachers: dict[tuple[str, ...], Teacher] = {}
        self._fabrics: dict[HardwareConfig, Fabric] = {}

    def run(self, run: Run) -> dict[str, Any]:
        """Train a run's candidates, keep the best by validation, and test that one.

        An exploratory run is not tested at all.
        """
        resolved = [item for item in run.configurations if isinstance(item, Resolved)]
        recipes = [item.with_seed(self.seed) for item in resolved]
        began = time.process_time()
        seconds, scores = 0.0, []
        best: tuple[Fitted, Metrics, int, Teacher | None] | None = None
        for number, recipe in enumerate(recipes):
            data, teacher = self._data(recipe)
            started = time.perf_counter()
            fitted = self._fit(recipe, data, None if teacher is None else teacher[0])
            seconds += time.perf_counter() - started
            assert fitted.validation is not None  # the data section always sets samples aside
            scores.append(fitted.validation.score)
            if best is None or fitted.validation.score > best[1].score:
                best = fitted, fitted.validation, number, teacher
        assert best is not None
        fitted, validation, number, teacher = best
        chosen = resolved[number]
        # Noise has no accuracy, only the network that it replaces.
        knows = teacher is not None and recipes[number].teacher.kind != "noise"
        tested = (
            {**self._test(fitted), **self._more(fitted, recipes[number], teacher)}
            if run.phase == "fresh"
            else {}
        )
        return {
            "candidate": run.candidates[number],
            "choice": chosen.overrides,
            "candidate_scores": scores,
            **tested,
            "validation_accuracy": validation.accuracy,
            "validation_balanced_accuracy": validation.balanced_accuracy,
            "validation_score": validation.score,
            "best_step": fitted.best_step,
            "steps": fitted.steps,
            "teacher_accuracy": teacher[1].accuracy if teacher and knows else None,
            **self._sizes(recipes[number]),
            "seconds": round(seconds, 3),
            # Of this process, the data and the teacher included where this run is their first:
            # added up it is what a study costs, whatever else the machine was doing.
            "processor_seconds": round(time.process_time() - began, 3),
            **provenance(),
            "recipe": chosen.digest,
        }

    @staticmethod
    def _test(fitted: Fitted) -> dict[str, Any]:
        found = fitted.test().to_dict()
        return {
            "accuracy": found["accuracy"],
            "balanced_accuracy": found["balanced_accuracy"],
            "macro_f1": found["macro_f1"],
            "nll": found["loss"],
            "ece": found["ece"],
            "recall": found["recall"],
        }

    def _more(self, fitted: Fitted, recipe: Recipe, teacher: Teacher | None) -> dict[str, Any]:
        """What only some runs have: a student of several modalities, a teacher trained along."""
        prepared, data = self.prepared(recipe.data), fitted.data
        found: dict[str, Any] = {}
        if data.modalities is not None and isinstance(data.test, Tensor):
            masked = alone(data.test, data.modalities)
            found["accuracy_alone"] = {
                name: _accuracy(predict(fitted.method, part), prepared)
                for name, part in zip(data.modalities, masked, strict=True)
            }
        after = fitted.method.joint_teacher()
        if after is not None and teacher is not None and prepared.teacher_test is not None:
            for when, model in (("before", teacher[0]), ("after", after)):
                logits = cache_outputs(model, prepared.teacher_test)[1]
                found[f"teacher_test_{when}"] = _accuracy(logits, prepared)
        return found

    def _sizes(self, recipe: Recipe) -> dict[str, int]:
        """Samples outside the test set that the split could give, and in it."""
        prepared = self.prepared(recipe.data)
        student, teacher = prepared.student, prepared.teacher
        sides = [student]
        if recipe.data.teacher.dataset == recipe.data.student.dataset:
            sides.append(teacher)  # other samples of the same population
        pools = ("student", "unlabelled", "validation")
        train = sum(side.samples(pool) for side in sides for pool in pools)
        return {"train_size": train, "test_size": student.samples("test")}

    def prepared(self, config: DataConfig) -> Prepared:
        """The data of this seed."""
        if config not in self._prepared:
            self._prepared[config] = prepare(config, self.seed)
        return self._prepared[config]

    def _data(self, recipe: Recipe) -> tuple[TrainingData, Teacher | None]:
        prepared = self.prepared(recipe.data)
        if not uses_teacher(recipe):
            return untaught(prepared, inputs=uses_peer(recipe)), None
        whole = replace(
            recipe, teacher=replace(recipe.teacher, focus=0.0, focus_channels="general")
        )
        model, metrics = self._teacher(whole, prepared.teacher)
        model = shown(recipe, focused(recipe, prepared, model), prepared.teacher)
        return taught(prepared, model, on_pairs=staged(recipe, model)), (model, metrics)

    def _teacher(self, recipe: Recipe, own: TrainingData) -> Teacher:
        key = (repr(recipe.teacher), repr(recipe.hardware), _digest(own))
        if key not in self._teachers:
            self._teachers[key] = self._make_teacher(recipe, own)
        return self._teachers[key]

    def _make_teacher(self, recipe: Recipe, own: TrainingData) -> Teacher:
        config = recipe.teacher
        teacher = build_teacher(config, own, seed=self.seed)
        if config.weights is not None:
            load_weights(teacher, Path(config.weights))
        else:
            fabric = self._fabric(recipe.hardware)
            train_teacher(teacher, own, config, seed=self.seed, fabric=fabric)
        teacher.to(device="cpu", dtype=torch.float32)
        freeze(teacher)
        assert own.validation is not None and own.validation_label is not None
        logits = cache_outputs(teacher, own.validation)[1]
        return teacher, classification_metrics(logits, own.validation_label, own.num_classes)

    def _fit(self, recipe: Recipe, data: TrainingData, teacher: Student | None) -> Fitted:
        torch.manual_seed(self.seed)  # the student starts equal, whatever was trained before
        student = build_model(recipe.student, data.student, data.num_classes, place="student")
        method = make_method(recipe, student, teacher, data)
        return fit(
            method,
            data,
            recipe.training,
            recipe.optimizer,
            seed=self.seed,
            fabric=self._fabric(recipe.hardware),
        )

    def _fabric(self, hardware: HardwareConfig) -> Fabric:
        if hardware not in self._fabrics:
            self._fabrics[hardware] = make_fabric(hardware)
        return self._fabrics[hardware]


def _accuracy(logits: Tensor, prepared: Prepared) -> float:
    """On the test samples."""
    label = prepared.student.test_label
    assert label is not None
    return classification_metrics(logits, label, prepared.student.num_classes).accuracy


def _digest(own: TrainingData) -> str:
    """Of a teacher's samples: rows with other pairs or labels can share it."""
    digest = hashlib.sha256()
    parts: tuple[Inputs | None, ...] = (own.student, own.student_label, own.validation)
    for part in parts:
        if part is not None:
            for rows in part.split(1024):
                digest.update(rows.numpy().tobytes())
    for stream in own.streams.values():
        digest.update((stream.folder.path / INDEX).read_bytes())
    return digest.hexdigest()
