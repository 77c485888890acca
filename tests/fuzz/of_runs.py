"""What a run or a study leaves in its folder and reads again: to resume, and to show."""

from __future__ import annotations

import io
import json
import math
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console

from ucmkd.batches import TrainingData
from ucmkd.checkpoint import FORMAT, Checkpointer, CheckpointError
from ucmkd.cli_watch import Watch
from ucmkd.config import ConfigError, Recipe, TrainingConfig, from_mapping
from ucmkd.data.audiovisual.cache import _array
from ucmkd.distill import _read_result
from ucmkd.methods import create
from ucmkd.models import MLP
from ucmkd.report_figures import panels
from ucmkd.runlog import RunLog, read_log
from ucmkd.study.choice import Configurations
from ucmkd.study.config import StudyConfig
from ucmkd.study.plan import Only, Run, digest_of, exploration, fresh
from ucmkd.study.runner import StudyRun
from ucmkd.study.summary import summarise
from ucmkd.trainer import STATE_KEYS, TrainingError, fit

from .damage import JSON_WORDS, YAML_WORDS, lines_altered, state_altered, values
from .kind import Kind

STUDY: dict[str, Any] = {
    "name": "small",
    "seeds": {"explore": [5], "fresh": [0, 1]},
    "scenarios": {"digits": {}},
    "methods": {
        "ce": {"method": {"name": "ce"}, "candidates": [{}, {"optimizer.lr": 0.1}]},
        "joint": {"method": {"name": "joint_alignment"}, "controls": ["placebo"]},
    },
    "references": ["ce"],
}


def lines(*entries: dict[str, Any]) -> bytes:
    return "".join(json.dumps(entry) + "\n" for entry in entries).encode()


def log() -> Kind:
    records = [
        {
            "step": step, "epoch": 0.5, "lr": 1e-3, "seconds": 0.1 * step, "loss": {"ce": 1.5},
            "weighted": {"ce": None}, "diagnostics": {"gradient/cosine": -0.2, "a/b": 1},
            "validation": {"accuracy": 0.5, "balanced_accuracy": 0.4, "recall": [0.5, None],
                           "loss": 1.0, "count": 7},
            "warning": {"gradient_conflict": "they pull apart"},
        }
        for step in (10, 20, 30)
    ]  # fmt: skip

    def read(path: Path) -> object:
        RunLog(path.parent, resume_step=20, tensorboard=False).close()
        earlier = read_log(path)
        watch = Watch(Recipe(), Console(file=io.StringIO()), earlier)
        watch({**records[-1], "weighted": {"ce": math.nan}})
        return panels(earlier, 10), watch.view()

    return Kind(read, "log.jsonl", [lines(*records)], (), JSON_WORDS, lines_altered)


def _row(run: Run) -> dict[str, Any]:
    numbers = {"validation_score": 1.5, "train_size": 100, "test_size": 30, "seconds": 1.0,
               "accuracy": 0.5 + 0.01 * run.seed, "balanced_accuracy": 0.5, "macro_f1": None,
               "nll": 1.0, "ece": 0.1, "teacher_accuracy": 0.7, "best_step": 3, "steps": 6,
               "accuracy_alone": {"first": 0.3, "second": 0.4}, "teacher_test_before": 0.5,
               "teacher_test_after": 0.4}  # fmt: skip
    texts = {"ucmkd": "0", "torch": "2", "code": "a", "recipe": run.configurations[0].digest}
    return {**run.head(), "candidate": run.candidates[0], **numbers, **texts}


def results() -> Kind:
    study = from_mapping(StudyConfig, STUDY)
    runs = [run for row in Only().rows(study) for run in fresh(study, *row, {("digits", "ce"): 1})]

    def read(path: Path) -> object:
        # As StudyRun.rows, without resolving all recipes again for every case.
        known = StudyRun.open(study, path.parent).results
        return summarise(study, [row for run in runs if (row := known.get(run)) is not None])

    content = lines(*(_row(run) for run in runs))
    return Kind(read, "results.jsonl", [content], (), JSON_WORDS, lines_altered)


def configurations() -> Kind:
    study = from_mapping(StudyConfig, STUDY)
    digest = digest_of([run.key for run in exploration(study, "digits", "ce")])
    entry = {"candidate": 1, "settings": {"optimizer.lr": 0.1}, "seeds": [5], "digest": digest,
             "mean_validation_scores": [1.5, None]}  # fmt: skip

    def read(path: Path) -> object:
        found = Configurations(study, path.parent)
        return [run for row in Only().rows(study) for run in fresh(study, *row, found.choices)]

    content = yaml.safe_dump({"digits": {"ce": entry}}, sort_keys=False).encode()
    return Kind(read, "configurations.yaml", [content], (ConfigError,), YAML_WORDS)


def metrics() -> Kind:
    scores = {"accuracy": 0.5, "balanced_accuracy": 0.4, "recall": [0.5, None], "loss": 1.0,
              "count": 7, "macro_f1": None, "ece": 0.1}  # fmt: skip
    stored = {"test": scores, "validation": scores, "teacher": None, "best_step": 3, "steps": 6,
              "class_names": ["a", "b"], "confusion": [[3, 1], [1, 2]], "certificate": None,
              "uncertified": "no teacher"}  # fmt: skip

    def alter(content: bytes, draw: random.Random) -> bytes:
        return json.dumps(values(json.loads(content), draw)).encode()

    return Kind(
        lambda path: str(_read_result(path.parent)),
        "metrics.json",
        [json.dumps(stored, indent=2).encode()],
        (CheckpointError,),
        JSON_WORDS,
        alter,
    )


def resume() -> Kind:
    """A training that goes on from a state whose checksums are right, whatever is in it."""
    draw = torch.Generator().manual_seed(0)
    data = TrainingData(
        num_classes=2,
        student=torch.randn(12, 3, generator=draw),
        student_label=torch.arange(12) % 2,
        validation=torch.randn(4, 3, generator=draw),
        validation_label=torch.arange(4) % 2,
    )
    training = partial(TrainingConfig, batch_size=4, eval_every=2, log_every=2)

    def run(steps: int, **options: Any) -> object:
        torch.manual_seed(0)
        student = MLP(3, num_classes=2, hidden=2, width=2)
        return fit(create("ce", student, num_classes=2), data, training(steps=steps), **options)

    stream = io.BytesIO()
    run(2, save=lambda state: torch.save({"format": FORMAT, **state}, stream))
    return Kind(
        lambda path: run(4, state=Checkpointer(path.parent).load(STATE_KEYS)),
        "checkpoint.pt",
        [stream.getvalue()],
        (CheckpointError, TrainingError),
        alter=state_altered,
    )


def rows() -> Kind:
    """Prepared rows of a data set that stays on the disk."""
    stream = io.BytesIO()
    np.save(stream, np.arange(24, dtype=np.float16).reshape(6, 4))

    def read(path: Path) -> object:
        return np.array(_array(path, np.dtype(np.float16), (6, 4)))

    return Kind(read, "rows.npy", [stream.getvalue()], (ValueError,))
