"""Teachers and model building: train or load a teacher, freeze it, cache what it says.

The teacher is trained on its own modality alone, then frozen; a distillation only ever sees its
cached outputs, one row per sample, which is exact because inputs are not augmented.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping
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
from .metrics import Metrics
from .models import MLP, HookedModel, SplitModel, Student
from .trainer import fit


def build_model(config: ModelConfig, example: Tensor, num_classes: int) -> Student:
    """The model that a recipe describes, freshly initialised from torch's global generator.

    Args:
        config: sizes of the built-in perceptron, or the ``factory`` of another module. A factory
            may return a :class:`~ucmkd.models.Student`; a module with ``encoder`` and ``head``
            modules; or, with ``layer``, any module at all.
        example: some inputs (n, ...), not all zero; only their shape and a trial pass are used.
        num_classes: C.

    Raises:
        ConfigError: the factory cannot be imported, is not callable, or returns something from
            which features cannot be taken.
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
    module_name, _, function = config.factory.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"factory {config.factory!r} cannot be imported: {error}") from error
    if not callable(factory):
        raise ConfigError(f"factory {config.factory!r} is not callable")
    module = factory(shape, num_classes)
    if isinstance(module, Student):
        return module
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"factory {config.factory!r} must return a torch.nn.Module, got {type(module).__name__}"
        )
    if config.layer is not None:
        return HookedModel(module, config.layer, example[:2])
    encoder, head = getattr(module, "encoder", None), getattr(module, "head", None)
    if isinstance(encoder, nn.Module) and isinstance(head, nn.Module):
        width = getattr(module, "width", None)
        return SplitModel(encoder, head, width if isinstance(width, int) else None)
    raise ConfigError(
        f"factory {config.factory!r} returned {type(module).__name__} without encoder and head: "
        "name the feature layer with layer"
    )


def train_teacher(
    model: Student, data: TrainingData, config: TeacherConfig, *, seed: int, fabric: Fabric
) -> Metrics | None:
    """Supervised training with model selection on ``data.validation``; changes ``model``.

    Args:
        model: the teacher to be.
        data: its samples, in the fields of the student (a teacher learns like any student).
        config: steps, batch size, learning rate, weight decay.
        seed: of batches and dropout.
        fabric: devices and precision.

    Returns:
        The metrics on the validation samples, None without any.
    """
    method = create("ce", model, num_classes=data.num_classes)
    every = max(1, config.steps // 20)
    training = TrainingConfig(
        steps=config.steps, batch_size=config.batch_size, eval_every=every, log_every=every
    )
    optimizer = OptimizerConfig(lr=config.lr, weight_decay=config.weight_decay)
    return fit(method, data, training, optimizer, seed=seed, fabric=fabric).validation


def freeze(model: nn.Module) -> None:
    """Evaluation mode, and no parameter receives a gradient."""
    model.eval()
    model.requires_grad_(False)


@torch.no_grad()
def cache_outputs(model: Student, inputs: Tensor, batch_size: int = 1024) -> tuple[Tensor, Tensor]:
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
