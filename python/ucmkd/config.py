"""Recipes: the dataclasses that describe one distillation, and their strict YAML reader.

A recipe is a YAML file whose sections are the fields of :class:`Recipe`. Nothing is guessed:
an unknown or doubled key, a value of the wrong type and a number out of range are errors that
name the place (``optimizer.lr``) and, where there is one, the nearest known name.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .config_data import DataConfig
from .config_data import StudentDataConfig as StudentDataConfig
from .config_data import TeacherDataConfig as TeacherDataConfig
from .config_errors import ConfigError, require_file_name
from .config_errors import require as _require

OptionValue = float | int | bool | str | None


@dataclass(frozen=True)
class ModelConfig:
    """A two-layer perceptron by default, or any module of your own."""

    hidden: int = 128
    width: int = 64
    """Width of the feature layer (of the built-in model)."""
    dropout: float = 0.0
    factory: str | None = None
    """``package.module:function``, called as ``function(input_shape, num_classes)`` and
    returning a ``torch.nn.Module`` that maps inputs to logits."""
    layer: str | None = None
    """Dotted name of the layer whose output is the feature, for a ``factory`` module without
    ``encoder`` and ``head``."""

    def __post_init__(self) -> None:
        _require(self.hidden > 0, "hidden", self.hidden, "a positive integer")
        _require(self.width > 0, "width", self.width, "a positive integer")
        _require(0 <= self.dropout < 1, "dropout", self.dropout, "in [0, 1)")
        _require(
            self.factory is None or ":" in self.factory,
            "factory",
            self.factory,
            "of the form 'package.module:function'",
        )
        _require(
            self.layer is None or self.factory is not None,
            "layer",
            self.layer,
            "null unless factory is given",
        )


def _check_momentum(key: str, kind: str, momentum: float) -> None:
    _require(0 <= momentum < 1, "momentum", momentum, "in [0, 1)")
    _require(kind == "sgd" or momentum == 0, "momentum", momentum, f"0 unless {key} is 'sgd'")


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser, its schedule and gradient clipping."""

    kind: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or stochastic gradient descent with weight decay added to the gradient."""
    momentum: float = 0.0
    """Of SGD (heavy ball, not Nesterov)."""
    lr: float = 1e-3
    weight_decay: float = 0.01
    clip: float | None = 5.0
    """Largest norm of the gradient; null: no clipping."""
    warmup: int = 0
    """Steps of linear learning-rate warm-up."""
    schedule: Literal["constant", "cosine"] = "constant"

    def __post_init__(self) -> None:
        _check_momentum("kind", self.kind, self.momentum)
        _require(self.lr > 0, "lr", self.lr, "positive")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "zero or more")
        _require(self.clip is None or self.clip > 0, "clip", self.clip, "a positive number or null")
        _require(self.warmup >= 0, "warmup", self.warmup, "zero or more")


@dataclass(frozen=True)
class TrainingConfig:
    """Length, batch sizes and rhythm of a training."""

    steps: int = 500
    epochs: int | None = None
    """Number of passes over the larger of the student's two pools; overrides ``steps``."""
    batch_size: int = 64
    """Labelled student samples per step."""
    teacher_batch_size: int = 96
    unlabelled_batch_size: int = 64
    pair_batch_size: int = 32
    eval_every: int = 25
    """Steps between two looks at the validation set."""
    log_every: int = 25
    """Steps between two lines of the log; a line holds means since the last one."""
    diagnose_every: int | None = None
    """Steps between two diagnoses (sharpness of the transport plan, agreement of the gradients),
    each a line of the log; null: as log_every; 0: none. One costs about two steps, and in a run
    with a teacher a tenth of a second for the certificate; it does not change the training."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name == "diagnose_every":
                accepted = "zero or more, or null"
                _require(value is None or value >= 0, item.name, value, accepted)
                continue
            optional = item.name == "epochs" and value is None
            _require(optional or value > 0, item.name, value, "a positive integer")

    @property
    def steps_between_diagnoses(self) -> int:
        """``diagnose_every``, or ``log_every`` where it is None; 0 for no diagnoses."""
        return self.log_every if self.diagnose_every is None else self.diagnose_every


@dataclass(frozen=True)
class TeacherConfig(ModelConfig):
    """The teacher's model and its own supervised training."""

    kind: Literal["trained", "untrained", "noise"] = "trained"
    """Two controls that know nothing: ``untrained`` is the model as initialised, ``noise`` one
    fixed standard-normal feature vector per sample under a random head of the same sizes."""
    dropout: float = 0.3
    steps: int = 400
    epochs: int | None = None
    """Number of passes over the teacher's samples; overrides ``steps``."""
    batch_size: int = 64
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Of the teacher's own training: ``kind`` in the section ``optimizer``."""
    momentum: float = 0.0
    lr: float = 1e-3
    weight_decay: float = 0.01
    schedule: Literal["constant", "cosine"] = "constant"
    weights: str | None = None
    """A safetensors file with trained weights; null: train the teacher first."""
    focus: float = 0.0
    """Share of the feature channels that are set to zero, those that the student's modality can
    follow least (modality focusing; needs pairs). The teacher's reported accuracy is without it."""
    focus_channels: Literal["general", "chance"] = "general"
    """``chance`` keeps as many channels, but any: the control of ``focus``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(0 <= self.focus < 1, "focus", self.focus, "in [0, 1)")
        _require(
            self.weights is None or self.kind == "trained",
            "weights",
            self.weights,
            f"null unless kind is 'trained' (it is {self.kind!r})",
        )
        _check_momentum("optimizer", self.optimizer, self.momentum)
        _require(self.steps > 0, "steps", self.steps, "a positive integer")
        _require(
            self.epochs is None or self.epochs > 0,
            "epochs",
            self.epochs,
            "a positive integer or null",
        )
        _require(self.batch_size > 0, "batch_size", self.batch_size, "a positive integer")
        _require(self.lr > 0, "lr", self.lr, "positive")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "zero or more")


@dataclass(frozen=True)
class MethodConfig:
    """Which distillation method (see ``ucmkd.methods.METHODS``) and its options."""

    name: str = "joint_alignment"
    placebo: bool = False
    """Permute the teacher's classes: the control that tells knowledge from regularisation."""
    options: dict[str, OptionValue] = field(default_factory=dict)


@dataclass(frozen=True)
class HardwareConfig:
    """Passed to Lightning Fabric."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: int = 1
    precision: Literal["32-true", "64-true", "bf16-mixed", "16-mixed"] = "32-true"

    def __post_init__(self) -> None:
        _require(self.devices > 0, "devices", self.devices, "a positive integer")


@dataclass(frozen=True)
class Recipe:
    """One distillation, complete."""

    name: str = "distillation"
    out_dir: str | None = None
    """Where the run is written; null: ``runs/<name>``."""
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    student: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**32, "seed", self.seed, "from 0 to 2**32 - 1")
        require_file_name("name", self.name)
        _require("\0" not in (self.out_dir or ""), "out_dir", self.out_dir, "a path")

    @property
    def run_dir(self) -> Path:
        return Path(self.out_dir) if self.out_dir else Path("runs") / self.name


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """``"; did you mean 'lr'?"`` when one of ``known`` is close to ``name``, else ``""``."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else ""


def _type_name(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(value) for value in typing.get_args(kind))
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return " or ".join(_type_name(part) for part in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return "a list of texts"
    if typing.get_origin(kind) is list:
        return "a list"
    names = {int: "an integer", float: "a finite number", bool: "true or false", str: "text"}
    return "null" if kind is type(None) else names.get(kind, "a mapping")


def _convert(value: Any, kind: Any, place: str) -> Any:
    """``value`` as ``kind``, or a :class:`ConfigError` that names ``place``."""
    if kind is Any:
        return value
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return from_mapping(kind, value, place)
    if isinstance(kind, types.UnionType) or origin is typing.Union:
        for part in parts:
            if isinstance(value, dict) and dataclasses.is_dataclass(part):
                return _convert(value, part, place)  # what is wrong inside says more
        exact = [part for part in parts if part is type(value)]
        for part in (*exact, *parts):
            try:
                return _convert(value, part, place)
            except ConfigError:
                continue
    elif origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(_convert(item, parts[0], place) for item in value)
    elif origin is dict:
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {key: _convert(item, parts[1], f"{place}.{key}") for key, item in value.items()}
    elif origin is list:
        if isinstance(value, list):
            return [_convert(item, parts[0], f"{place}[{k}]") for k, item in enumerate(value)]
    elif origin is Literal:
        if any(value == part and type(value) is type(part) for part in parts):
            return value
    elif kind is float and not isinstance(value, bool):
        try:  # in quotes it is one, too
            if math.isfinite(number := float(value)):
                return number
        except (TypeError, ValueError, OverflowError):
            pass
    elif type(value) is kind and (kind is not int or abs(value) < 2**63):
        return value
    raise ConfigError(f"{place} must be {_type_name(kind)}, got {value!r}")


def from_mapping(cls: type, mapping: Any, place: str = "") -> Any:
    """Build the configuration dataclass ``cls`` from a mapping, strictly.

    Args:
        cls: one of the dataclasses of this module.
        mapping: keys are field names; missing ones keep their defaults. None means empty.
        place: dotted position inside the recipe, for messages.

    Raises:
        ConfigError: an unknown key, a wrong type or a value out of range, with its place.
    """
    where = f"section '{place}'" if place else "the recipe"
    if mapping is None:
        mapping = {}
    if not isinstance(mapping, dict):
        raise ConfigError(f"{where} must be a mapping, got {mapping!r}")
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in mapping.items():
        if key not in hints:
            hint = nearest(str(key), hints)
            accepted = ", ".join(hints)
            raise ConfigError(f"unknown key {key!r} in {where}{hint} (accepted: {accepted})")
        values[key] = _convert(value, hints[key], f"{place}.{key}" if place else key)
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{place}.{error}" if place else str(error)) from None


def to_mapping(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain nested dictionaries (for YAML and for comparing two runs)."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return list(value) if isinstance(value, tuple) else value

    mapping: dict[str, Any] = plain(dataclasses.asdict(recipe))
    return mapping
