"""One distillation from a recipe to its result file, resumable at any moment.

The run's folder: ``recipe.yaml`` (as resolved), ``teacher.safetensors``, ``checkpoint.pt`` and
the one before, ``log.jsonl``, ``tensorboard/``, and at the end ``student.safetensors``,
``preprocessing.safetensors`` and ``metrics.json``, which is written last.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from safetensors.torch import save as to_safetensors

from .batches import TrainingData
from .checkpoint import Checkpointer, write_atomically
from .config import ConfigError, HardwareConfig, Recipe, to_mapping
from .methods import METHODS, Method, create
from .methods import options as method_options
from .metrics import Metrics
from .models import Student, head_module
from .preparation import Prepared, prepare
from .recipe_file import load_recipe, nearest, recipe_to_yaml
from .runlog import RunLog
from .teacher import (
    build_model,
    cache_outputs,
    freeze,
    load_weights,
    save_weights,
    train_teacher,
)
from .trainer import fit

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
        already_finished: the figures were read, nothing was trained.
    """

    test: Metrics
    validation: Metrics
    teacher: Metrics | None
    best_step: int
    steps: int
    class_names: tuple[str, ...]
    folder: Path
    already_finished: bool = False


def make_fabric(hardware: HardwareConfig) -> Fabric:
    """Fabric as the recipe says.

    Raises:
        ConfigError: the machine has no such accelerator or fewer devices.
    """
    try:
        fabric = Fabric(
            accelerator=hardware.accelerator,
            devices=hardware.devices,
            precision=hardware.precision,
        )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"hardware (accelerator {hardware.accelerator!r}, devices {hardware.devices}, "
            f"precision {hardware.precision!r}) is not available: {error}"
        ) from error
    except Exception as error:  # Fabric has its own exception for a missing accelerator
        if type(error).__name__ != "MisconfigurationException":
            raise
        raise ConfigError(f"hardware.accelerator {hardware.accelerator!r}: {error}") from error
    fabric.launch()
    return fabric


def distill(
    recipe: Recipe,
    *,
    resume: bool = False,
    callbacks: Sequence[Callable[[dict[str, Any]], None]] = (),
    say: Say = lambda message: None,
) -> RunResult:
    """Run a recipe.

    A run that was killed, at whatever moment, and is resumed gives the same figures as one that
    was not (on a CPU; on a GPU as far as its kernels are deterministic).

    Args:
        recipe: what to do.
        resume: continue in the run's folder; a folder without a checkpoint starts from scratch.
        callbacks: called with every log record, on the first process.
        say: called with short sentences about the stages.

    Raises:
        ConfigError: the recipe does not fit the data, the method or the machine; a folder with
            another run; an existing run without ``resume``.
        CheckpointError: a damaged checkpoint.
        ucmkd.trainer.TrainingError: the loss became NaN or infinite.
    """
    folder = recipe.run_dir
    check_method(recipe)
    finished = _claim_folder(recipe, folder, resume)
    if finished is not None:
        say(f"this run is complete, its figures are in {folder / 'metrics.json'}")
        return finished
    fabric = make_fabric(recipe.hardware)
    if fabric.is_global_zero:
        write_atomically(folder / "recipe.yaml", recipe_to_yaml(recipe).encode())

    prepared = prepare(recipe.data, recipe.seed)
    data, teacher, teacher_metrics = _with_teacher(recipe, prepared, folder, fabric, say)
    torch.manual_seed(recipe.seed)  # the student starts equal, whether a teacher was trained or not
    student = build_model(recipe.student, data.student, data.num_classes)
    method = _make_method(recipe, student, teacher, data)

    checkpoints = Checkpointer(folder)
    state = checkpoints.load() if resume else None
    say(f"{recipe.method.name}: " + (f"resumed at step {state['step']}" if state else "started"))
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
        )
    finally:
        if log:
            log.close()

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
    )
    if fabric.is_global_zero:
        save_weights(fitted.method.student, folder / "student.safetensors")
        transform = prepared.transform.tensors()
        write_atomically(folder / "preprocessing.safetensors", to_safetensors(transform))
        text = json.dumps(_result_mapping(recipe, result), indent=2)
        write_atomically(folder / "metrics.json", (text + "\n").encode())
    fabric.barrier()
    return result


def check_method(recipe: Recipe) -> None:
    """Refuse an unknown method or option before anything is loaded.

    Raises:
        ConfigError: names the nearest known name and all accepted ones.
    """
    name = recipe.method.name
    if name not in METHODS:
        known = ", ".join(METHODS)
        raise ConfigError(f"unknown method.name {name!r}{nearest(name, METHODS)} (known: {known})")
    # `placebo` has its own field, so that it is not an option of the one or the other method.
    known_options = [option for option in method_options(name) if option != "placebo"]
    for option in recipe.method.options:
        if option not in known_options:
            raise ConfigError(
                f"unknown option {option!r} in method.options of {name!r}"
                f"{nearest(option, known_options)} (accepted: {', '.join(known_options)})"
            )


def _claim_folder(recipe: Recipe, folder: Path, resume: bool) -> RunResult | None:
    """The result of a finished run, None if there is work to do."""
    stored = folder / "recipe.yaml"
    if not stored.exists():
        return None
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
        if name in ("out_dir", "name"):
            continue  # the folder may have been moved
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, f"{name}.")
        elif before != after:
            found.append(f"{name} {before!r} there, {after!r} here")
    return found


def _with_teacher(
    recipe: Recipe, prepared: Prepared, folder: Path, fabric: Fabric, say: Say
) -> tuple[TrainingData, Student | None, Metrics | None]:
    """The student's data with the outputs of a frozen teacher, where the method needs one."""
    own, data = prepared.teacher, prepared.student
    data = replace(data, teacher_label=own.student_label)
    kind = METHODS[recipe.method.name]
    if not (kind.needs_teacher or kind.needs_head or kind.paired):
        return replace(data, paired=None), None, None  # its class frequencies may still be used

    config, path = recipe.teacher, folder / "teacher.safetensors"
    torch.manual_seed(recipe.seed)
    teacher = build_model(config, own.student, own.num_classes)
    metrics: Metrics | None = None
    if config.weights is not None or path.exists():
        source = path if config.weights is None else Path(config.weights)
        stored = load_weights(teacher, source).get("validation")
        metrics = Metrics.from_dict(stored) if isinstance(stored, dict) else None
        say(f"teacher: loaded from {source}")
    else:
        say(f"teacher: training on {len(own.student)} samples")
        metrics = train_teacher(teacher, own, config, seed=recipe.seed, fabric=fabric)
        if fabric.is_global_zero:
            kept = {"validation": None if metrics is None else metrics.to_dict()}
            save_weights(teacher, path, kept)
        fabric.barrier()
    # The cache is computed in float32 whatever the precision of the training.
    teacher.to(device=fabric.device, dtype=torch.float32)
    freeze(teacher)
    feature, logits = cache_outputs(teacher, own.student.to(fabric.device))
    data = replace(data.to(fabric.device), teacher_feature=feature, teacher_logits=logits)
    if prepared.paired_teacher is not None:
        pair = cache_outputs(teacher, prepared.paired_teacher.to(fabric.device))
        data = replace(data, paired_teacher_feature=pair[0], paired_teacher_logits=pair[1])
    return data, teacher, metrics


def _make_method(
    recipe: Recipe, student: Student, teacher: Student | None, data: TrainingData
) -> Method:
    try:
        return create(
            recipe.method.name,
            student,
            num_classes=data.num_classes,
            teacher_head=None if teacher is None else head_module(teacher),
            teacher_width=None if teacher is None else teacher.width,
            class_prior=data.class_prior,
            placebo=recipe.method.placebo,
            **recipe.method.options,
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"method {recipe.method.name!r}: {error}") from error


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
    }


def _read_result(folder: Path) -> RunResult:
    stored = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return RunResult(
        test=Metrics.from_dict(stored["test"]),
        validation=Metrics.from_dict(stored["validation"]),
        teacher=None if stored["teacher"] is None else Metrics.from_dict(stored["teacher"]),
        best_step=stored["best_step"],
        steps=stored["steps"],
        class_names=tuple(stored["class_names"]),
        folder=folder,
        already_finished=True,
    )
