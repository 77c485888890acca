"""One distillation from a recipe to its result file, resumable at any moment.

The run's folder: ``recipe.yaml`` (as resolved), ``teacher.safetensors``, ``checkpoint.pt`` and
the one before, ``log.jsonl``, ``tensorboard/``, and at the end ``student.safetensors``,
``preprocessing.safetensors``, ``report.html`` and ``metrics.json``, which is written last.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from safetensors.torch import save as to_safetensors

from .batches import TrainingData
from .certified import CertificateProbe, TeacherSide, certify, teacher_side
from .checkpoint import Checkpointer, CheckpointError, make_folder, write_atomically
from .config import ConfigError, Recipe, to_mapping
from .focus import focused
from .metrics import Metrics
from .models import Student
from .preparation import Prepared, prepare
from .processes import make_fabric, together
from .recipe_file import load_recipe, recipe_to_yaml
from .rehearsal import check_method, make_method, rehearse, uses_peer, uses_teacher
from .report import write_report
from .restoring import check_progress, restoring
from .runlog import RunLog
from .staged import staged
from .taught import taught, untaught
from .teacher import (
    build_model,
    build_teacher,
    freeze,
    load_weights,
    one_line,
    save_weights,
    train_teacher,
)
from .teacher_inputs import shown
from .theory.certificate import Certificate
from .trainer import STATE_KEYS, fit

Say = Callable[[str], None]


@dataclass(frozen=True)
class RunResult:
    """What a run found; also the content of ``metrics.json``.

    Attributes:
        test: metrics on the test samples, looked at once.
        validation: metrics on the validation samples at the selected step.
        teacher: validation metrics of the teacher in its own modality; None if it was not
            needed or came from a file without them.
        best_step: step of the selected weights.
        steps: steps in all.
        folder: where the run lies.
        confusion: counts (C, C) on the test samples, rows true and columns predicted classes;
            None for a run of a version that did not keep them.
        certificate: the bound on the student's error by the teacher's, on the validation samples
            of both (:mod:`ucmkd.certified`); None where there is none.
        uncertified: why there is none, a sentence.
        already_finished: the figures were read, nothing was trained.
    """

    test: Metrics
    validation: Metrics
    teacher: Metrics | None
    best_step: int
    steps: int
    class_names: tuple[str, ...]
    folder: Path
    confusion: tuple[tuple[int, ...], ...] | None = None
    certificate: Certificate | None = None
    uncertified: str = ""
    already_finished: bool = False


def distill(
    recipe: Recipe,
    *,
    resume: bool = False,
    callbacks: Sequence[Callable[[dict[str, Any]], None]] = (),
    say: Say = lambda message: None,
) -> RunResult:
    """Run a recipe.

    A run that was killed, at whatever moment, and is resumed gives the same figures as one that
    was not (on a CPU; on a GPU as far as its kernels are deterministic), with as many processes:
    with another number (:mod:`ucmkd.processes`) it goes on from the same weights and optimizer,
    with other batches.

    Args:
        recipe: what to do.
        resume: continue in the run's folder; a folder without a checkpoint starts from scratch.
        callbacks: called with every log record, on the first process.
        say: called with short sentences about the stages.

    Raises:
        ConfigError: the recipe does not fit the data, the method or the machine; a folder with
            another run, or that cannot be written; an existing run without ``resume``. All of
            this is found before anything is trained.
        CheckpointError: a damaged checkpoint or result.
        ucmkd.trainer.TrainingError: the loss became NaN or infinite.
        ucmkd.processes.ProcessLostError: another process of the training is gone.
    """
    folder = recipe.run_dir
    notes: list[str] = []

    def note(message: str) -> None:
        notes.append(message)
        say(message)

    check_method(recipe)
    finished = _claim_folder(recipe, folder, resume)
    if finished is not None:
        say(f"this run is complete, its figures are in {folder / 'metrics.json'}")
        return finished
    make_folder(folder, "out_dir")
    try:
        fabric = make_fabric(recipe.hardware)
        prepared = prepare(recipe.data, recipe.seed)
        rehearse(recipe, prepared)
        for decision in prepared.notes:
            note(decision)
    except BaseException:
        with suppress(OSError):
            folder.rmdir()  # only if it is empty: a recipe with a mistake leaves nothing behind
        raise
    with together(fabric):
        return _run(recipe, prepared, fabric, resume, callbacks, note, notes)


def _run(
    recipe: Recipe,
    prepared: Prepared,
    fabric: Fabric,
    resume: bool,
    callbacks: Sequence[Callable[[dict[str, Any]], None]],
    note: Say,
    notes: list[str],
) -> RunResult:
    """The run itself, in each of its processes."""
    folder = recipe.run_dir
    if fabric.is_global_zero:
        write_atomically(folder / "recipe.yaml", recipe_to_yaml(recipe).encode())

    data, teacher, teacher_metrics = _with_teacher(recipe, prepared, folder, fabric, note)
    torch.manual_seed(recipe.seed)  # the student starts equal, whether a teacher was trained or not
    student = build_model(recipe.student, data.student, data.num_classes, place="student")
    method = make_method(recipe, student, teacher, data)

    side: TeacherSide | str = "the method has no teacher"
    if teacher is not None:
        side = teacher_side(teacher, prepared.teacher, fabric.device)
    checkpoints = Checkpointer(folder)
    state = checkpoints.load(STATE_KEYS) if resume else None
    if state is not None:
        with restoring():  # the log goes by the step; in epochs, `fit` knows how many there are
            check_progress(state, method, None if recipe.training.epochs else recipe.training.steps)
    note(f"{recipe.method.name}: " + (f"resumed at step {state['step']}" if state else "started"))
    log = RunLog(folder, state["step"] if state else 0) if fabric.is_global_zero else None
    try:
        fitted = fit(
            method,
            data,
            recipe.training,
            recipe.optimizer,
            seed=recipe.seed,
            fabric=fabric,
            callbacks=(log, *callbacks) if log else (),
            state=state,
            save=checkpoints.save,
            probes=[CertificateProbe(side)] if isinstance(side, TeacherSide) else (),
        )
    finally:
        if log:
            log.close()

    certified = certify(fitted.method, fitted.data, side) if not isinstance(side, str) else side
    test = fitted.test()
    assert fitted.validation is not None  # the data section always sets samples aside
    result = RunResult(
        test=test,
        validation=fitted.validation,
        teacher=teacher_metrics,
        best_step=fitted.best_step,
        steps=fitted.steps,
        class_names=prepared.class_names,
        folder=folder,
        confusion=fitted.confusion,
        certificate=None if isinstance(certified, str) else certified,
        uncertified=certified if isinstance(certified, str) else "",
    )
    if fabric.is_global_zero:
        save_weights(fitted.method.deployed(), folder / "student.safetensors")
        transform = prepared.transform.tensors()
        write_atomically(folder / "preprocessing.safetensors", to_safetensors(transform))
        write_report(recipe, result, data, None if teacher is None else prepared.teacher, notes)
        text = json.dumps(_result_mapping(recipe, result), indent=2)
        write_atomically(folder / "metrics.json", (text + "\n").encode())
    fabric.barrier()
    return result


def _claim_folder(recipe: Recipe, folder: Path, resume: bool) -> RunResult | None:
    """The result of a finished run, None if there is work to do."""
    stored = folder / "recipe.yaml"
    work = ("metrics.json", "checkpoint.pt", "checkpoint.previous.pt", "teacher.safetensors")
    if not stored.exists() or not any((folder / name).exists() for name in work):
        return None  # nothing in it can be lost: a run that failed before it trained anything
    if not resume:
        raise ConfigError(
            f"{folder} already holds a run; continue it with --resume, or choose another out_dir"
        )
    changed = _differences(to_mapping(load_recipe(stored)), to_mapping(recipe))
    if changed:
        raise ConfigError(
            f"{folder} holds a run with other settings ({'; '.join(changed)}); resume needs the "
            "same ones, or choose another out_dir"
        )
    if not (folder / "metrics.json").exists():
        return None
    return _read_result(folder)


def _differences(old: dict[str, Any], new: dict[str, Any], place: str = "") -> list[str]:
    found: list[str] = []
    for key in dict.fromkeys((*old, *new)):
        name, before, after = f"{place}{key}", old.get(key), new.get(key)
        if name in ("out_dir", "name", "hardware.devices"):
            continue  # the folder may have been moved, and any number of processes may go on
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, f"{name}.")
        elif before != after:
            found.append(f"{name} {before!r} there, {after!r} here")
    return found


def _with_teacher(
    recipe: Recipe, prepared: Prepared, folder: Path, fabric: Fabric, say: Say
) -> tuple[TrainingData, Student | None, Metrics | None]:
    """The student's data with the outputs of a frozen teacher, where the method needs one."""
    own = prepared.teacher
    if not uses_teacher(recipe):
        return untaught(prepared, inputs=uses_peer(recipe)), None, None

    config, path = recipe.teacher, folder / "teacher.safetensors"
    teacher = build_teacher(config, own, seed=recipe.seed)
    metrics: Metrics | None = None
    known = path.exists()
    fabric.barrier()  # all processes have looked before one of them saves a teacher
    if config.weights is not None or known:
        source = path if config.weights is None else Path(config.weights)
        try:
            stored = load_weights(teacher, source).get("validation")
        except ConfigError as error:
            if config.weights is not None:
                raise
            raise ConfigError(f"{error}; delete it to train the teacher again") from error
        metrics = Metrics.from_dict(stored) if isinstance(stored, dict) else None
        say(f"teacher: loaded from {source}")
    else:
        training = f"training on {own.samples('student')} samples"
        say("teacher: " + (training if config.kind == "trained" else f"{config.kind}, a control"))
        metrics = train_teacher(teacher, own, config, seed=recipe.seed, fabric=fabric)
        if fabric.is_global_zero:
            kept = {"validation": None if metrics is None else metrics.to_dict()}
            save_weights(teacher, path, kept)
        fabric.barrier()
    # The cache is computed in float32 whatever the precision of the training.
    teacher.to(device=fabric.device, dtype=torch.float32)
    freeze(teacher)
    if config.focus:
        say(f"teacher: {config.focus:.0%} of its channels set to zero ({config.focus_channels})")
        teacher = focused(recipe, prepared, teacher, fabric.device)
    teacher = shown(recipe, teacher, own)
    data = taught(prepared, teacher, fabric.device, on_pairs=staged(recipe, teacher))
    return data, teacher, metrics


def _result_mapping(recipe: Recipe, result: RunResult) -> dict[str, Any]:
    return {
        "recipe": recipe.name,
        "method": recipe.method.name,
        "placebo": recipe.method.placebo,
        "seed": recipe.seed,
        "test": result.test.to_dict(),
        "validation": result.validation.to_dict(),
        "teacher": None if result.teacher is None else result.teacher.to_dict(),
        "best_step": result.best_step,
        "steps": result.steps,
        "class_names": list(result.class_names),
        "confusion": result.confusion,
        "certificate": None if result.certificate is None else result.certificate.to_dict(),
        "uncertified": result.uncertified,
    }


def _rows(counts: list[list[int]] | None) -> tuple[tuple[int, ...], ...] | None:
    return None if counts is None else tuple(tuple(row) for row in counts)


def _certificate(values: dict[str, Any] | None) -> Certificate | None:
    return None if values is None else Certificate.from_dict(values)


def _read_result(folder: Path) -> RunResult:
    path = folder / "metrics.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return RunResult(
            test=Metrics.from_dict(stored["test"]),
            validation=Metrics.from_dict(stored["validation"]),
            teacher=None if stored["teacher"] is None else Metrics.from_dict(stored["teacher"]),
            best_step=stored["best_step"],
            steps=stored["steps"],
            class_names=tuple(stored["class_names"]),
            folder=folder,
            confusion=_rows(stored.get("confusion")),
            certificate=_certificate(stored.get("certificate")),
            uncertified=stored.get("uncertified", ""),
            already_finished=True,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}: {one_line(error)}); delete it, and "
            "--resume makes it again from the last checkpoint"
        ) from error
