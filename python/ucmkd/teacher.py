"""Teachers and model building: train or load a teacher, freeze it, cache what it says.

The teacher is trained on its own modality alone, then frozen; a distillation only ever sees its
cached outputs, one row per sample, which is exact because inputs are not augmented.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from .batches import TrainingData
from .checkpoint import write_atomically
from .config import ConfigError, ModelConfig, OptimizerConfig, TeacherConfig, TrainingConfig
from .methods import create
from .metrics import Metrics, evaluate
from .models import MLP, HookedModel, SplitModel, Student
from .noise_teacher import NoiseTeacher
from .stored_inputs import Inputs
from .trainer import fit


def one_line(error: BaseException) -> str:
    """The message of an error in one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """As with ``python -m``: the console script alone does not see ``./mymodule.py``."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def build_model(
    config: ModelConfig, example: Inputs, num_classes: int, *, place: str = "student"
) -> Student:
    """The model that a recipe describes, freshly initialised from torch's global generator.

    Args:
        config: sizes of the built-in perceptron, or the ``factory`` of another module. A factory
            may return a :class:`~ucmkd.models.Student`; a module with ``encoder`` and ``head``
            modules; or, with ``layer``, any module at all.
        example: some inputs (n, ...), not all zero; only their shape and a trial pass are used.
        num_classes: C.
        place: section of the recipe, for messages: ``"student"`` or ``"teacher"``.

    Raises:
        ConfigError: the factory cannot be imported, is not callable, fails, or returns something
            from which features cannot be taken.
    """
    shape = tuple(example.shape[1:])
    if config.factory is None:
        return MLP(
            math.prod(shape),
            num_classes=num_classes,
            hidden=config.hidden,
            width=config.width,
            dropout=config.dropout,
        )
    named = f"{place}.factory {config.factory!r}"
    module_name, _, function = config.factory.partition(":")
    try:
        with _current_folder_importable():
            factory = getattr(importlib.import_module(module_name), function)
    except Exception as error:  # whatever the module's own code raises
        raise ConfigError(f"{named} cannot be imported: {one_line(error)}") from error
    if not callable(factory):
        raise ConfigError(f"{named} is not callable")
    try:
        module = factory(shape, num_classes)
    except Exception as error:
        raise ConfigError(
            f"{named}, called as {function}({shape}, {num_classes}) with the shape of one input "
            f"and the number of classes, failed: {type(error).__name__}: {one_line(error)}"
        ) from error
    if isinstance(module, Student):
        return module
    if not isinstance(module, nn.Module):
        raise ConfigError(f"{named} must return a torch.nn.Module, got {type(module).__name__}")
    if config.layer is not None:
        try:
            return HookedModel(module, config.layer, example[:2])
        except Exception as error:
            raise ConfigError(f"{place}.layer: {one_line(error)}") from error
    encoder, head = getattr(module, "encoder", None), getattr(module, "head", None)
    if isinstance(encoder, nn.Module) and isinstance(head, nn.Module):
        width = getattr(module, "width", None)
        try:
            return SplitModel(encoder, head, width if isinstance(width, int) else None)
        except ValueError as error:
            raise ConfigError(f"{named}: {error}") from error
    raise ConfigError(
        f"{named} returned {type(module).__name__} without encoder and head: "
        f"name the feature layer with {place}.layer"
    )


def build_teacher(config: TeacherConfig, data: TrainingData, *, seed: int) -> Student:
    """The teacher of a recipe before any training, whatever its ``kind``; seeded.

    Args:
        config: of the model, and its ``kind``.
        data: the teacher's own samples, in the fields of the student.
        seed: of the initialisation, and of the noise of ``kind="noise"``.

    Raises:
        ConfigError: as :func:`build_model`.
    """
    torch.manual_seed(seed)
    model = build_model(config, data.student, data.num_classes, place="teacher")
    if config.kind == "noise":
        return NoiseTeacher(model.width, data.num_classes, seed=seed)
    return model


def train_teacher(
    model: Student, data: TrainingData, config: TeacherConfig, *, seed: int, fabric: Fabric
) -> Metrics | None:
    """Supervised training with model selection on ``data.validation``; changes ``model``.

    A teacher of another ``kind`` than ``"trained"`` is measured and left as it is.

    Args:
        model: the teacher to be.
        data: its samples, in the fields of the student (a teacher learns like any student).
        config: length, batch size and optimiser.
        seed: of batches and dropout.
        fabric: devices and precision.

    Returns:
        The metrics on the validation samples, None without any.
    """
    method = create("ce", model, num_classes=data.num_classes)
    if config.kind != "trained":
        if data.validation is None or data.validation_label is None:
            return None
        return evaluate(method, data.validation, data.validation_label, data.num_classes)
    steps = config.steps
    if config.epochs is not None:
        steps = config.epochs * math.ceil(data.samples("student") / config.batch_size)
    every = max(1, steps // 20)
    training = TrainingConfig(
        steps=steps, batch_size=config.batch_size, eval_every=every, log_every=every
    )
    optimizer = OptimizerConfig(
        kind=config.optimizer,
        momentum=config.momentum,
        lr=config.lr,
        weight_decay=config.weight_decay,
        schedule=config.schedule,
    )
    return fit(method, data, training, optimizer, seed=seed, fabric=fabric).validation


def freeze(model: nn.Module) -> None:
    """Evaluation mode, and no parameter receives a gradient."""
    model.eval()
    model.requires_grad_(False)


@torch.no_grad()
def cache_outputs(model: Student, inputs: Inputs, batch_size: int = 1024) -> tuple[Tensor, Tensor]:
    """Features (n, width) and logits (n, C) of a frozen model, row i for sample i.

    Raises:
        ValueError: the model is in training mode, so that its outputs would be random.
    """
    if model.training:
        raise ValueError("the model is in training mode; call freeze(model) first")
    parts = [model.outputs(part) for part in inputs.split(batch_size)]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def save_weights(
    module: nn.Module, path: Path, metadata: Mapping[str, object] | None = None
) -> None:
    """Write parameters and buffers as safetensors, atomically; ``metadata`` values as JSON."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in module.state_dict().items()}
    text = {name: json.dumps(value) for name, value in (metadata or {}).items()}
    write_atomically(path, to_safetensors(tensors, metadata=text))


def load_weights(module: nn.Module, path: Path) -> dict[str, object]:
    """Read weights written by :func:`save_weights` (or any safetensors file with these names).

    Returns:
        The metadata.

    Raises:
        ConfigError: no such file, not safetensors, or names or shapes that do not fit.
    """
    if not path.is_file():
        raise ConfigError(f"weights: there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"weights: {path} is not a readable safetensors file: {error}") from error
    own = module.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    wrong = sorted(
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own.keys() & tensors.keys()
        if own[name].shape != tensors[name].shape
    )
    problems = {"missing": missing, "unexpected": extra, "wrong shape": wrong}
    if any(problems.values()):
        listed = "; ".join(
            f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names
        )
        raise ConfigError(f"weights: {path} does not fit the model ({listed})")
    module.load_state_dict(tensors)
    return {name: json.loads(value) for name, value in metadata.items() if _is_json(value)}


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return False
    return True
