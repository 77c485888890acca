"""Recipes: the dataclasses that describe one distillation, and their strict YAML reader.

A recipe is a YAML file whose sections are the fields of :class:`Recipe`. Nothing is guessed:
an unknown or doubled key, a value of the wrong type and a number out of range are errors that
name the place (``optimizer.lr``) and, where there is one, the nearest known name.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

OptionValue = float | int | bool | str | None


class ConfigError(ValueError):
    """A recipe that cannot be used; the message says where and why."""


def _require(condition: bool, name: str, value: object, accepted: str) -> None:
    if not condition:
        raise ConfigError(f"{name} must be {accepted}, got {value!r}")


@dataclass(frozen=True)
class TeacherDataConfig:
    """What the teacher is trained on."""

    dataset: str = "digits"
    """Name of a data set of ``ucmkd.data``, or the path of an ``.npz`` file with X and y."""
    view: str | None = None
    """View of a multi-view data set (``rna``); None for a data set with one modality."""
    columns: int | None = None
    """Keep this many columns of largest variance (label-free, on training rows); None: all."""
    standardise: bool = True
    """Centre and scale every column with the statistics of this side's training rows."""

    def __post_init__(self) -> None:
        _require(
            self.columns is None or self.columns > 0,
            "columns",
            self.columns,
            "a positive integer or null",
        )


@dataclass(frozen=True)
class StudentDataConfig(TeacherDataConfig):
    """What the student is trained on."""

    labels_per_class: int | None = 10
    """Labelled samples per class; null keeps the label of every training sample."""
    long_tail: float | None = None
    """Ratio of the most to the least frequent class among the labels: with labels_per_class 50 and
    long_tail 50, class sizes fall exponentially from 50 to 1."""
    unlabelled: bool = True
    """Use the training samples without a label as an unlabelled pool."""

    def __post_init__(self) -> None:
        super().__post_init__()
        labels, tail = self.labels_per_class, self.long_tail
        _require(
            labels is None or labels > 0, "labels_per_class", labels, "a positive integer or null"
        )
        _require(tail is None or tail >= 1, "long_tail", tail, "a ratio of at least 1 or null")
        _require(
            tail is None or labels is not None,
            "long_tail",
            tail,
            "null unless labels_per_class says how many labels the most frequent class has",
        )


@dataclass(frozen=True)
class DataConfig:
    """The two sides, and how the samples are split."""

    teacher: TeacherDataConfig = field(default_factory=TeacherDataConfig)
    student: StudentDataConfig = field(default_factory=StudentDataConfig)
    pairs: int = 0
    """Unlabelled student samples also measured in the teacher's modality; -1: all of them.
    Needs teacher and student to be two views of one data set."""
    teacher_fraction: float = 0.5
    """Share of the samples that belong to the teacher when both sides come from one data set."""
    validation: float = 0.1
    """Share of the student's samples for model selection."""
    test: float = 0.3
    """Share of the student's samples for the final test, where no official split exists."""
    root: str | None = None
    """Folder with local data sets; null: the environment variable ``UCMKD_DATA``."""

    def __post_init__(self) -> None:
        _require(self.pairs >= -1, "pairs", self.pairs, "a count, or -1 for all")
        for name in ("teacher_fraction", "validation", "test"):
            value = getattr(self, name)
            _require(0 < value < 1, name, value, "between 0 and 1 (exclusive)")
        _require(
            self.validation + self.test < 1,
            "validation + test",
            self.validation + self.test,
            "less than 1",
        )


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


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and gradient clipping."""

    lr: float = 1e-3
    weight_decay: float = 0.01
    clip: float | None = 5.0
    """Largest norm of the gradient; null: no clipping."""
    warmup: int = 0
    """Steps of linear learning-rate warm-up."""
    schedule: Literal["constant", "cosine"] = "constant"

    def __post_init__(self) -> None:
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
    each a line of the log; null: as log_every; 0: none. One costs about two steps and does not
    change the training."""

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

    dropout: float = 0.3
    steps: int = 400
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.01
    weights: str | None = None
    """A safetensors file with trained weights; null: train the teacher first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.steps > 0, "steps", self.steps, "a positive integer")
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
        _require(self.seed >= 0, "seed", self.seed, "zero or more")

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
    names = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
    return "null" if kind is type(None) else names.get(kind, "a mapping")


def _convert(value: Any, kind: Any, place: str) -> Any:
    """``value`` as ``kind``, or a :class:`ConfigError` that names ``place``."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return from_mapping(kind, value, place)
    if isinstance(kind, types.UnionType) or origin is typing.Union:
        exact = [part for part in parts if part is type(value)]
        for part in (*exact, *parts):
            try:
                return _convert(value, part, place)
            except ConfigError:
                continue
    elif origin is dict:
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {key: _convert(item, parts[1], f"{place}.{key}") for key, item in value.items()}
    elif origin is Literal:
        if any(value == part and type(value) is type(part) for part in parts):
            return value
    elif kind is float and not isinstance(value, bool):
        try:  # YAML 1.1 reads 1e-3 as text
            return float(value)
        except (TypeError, ValueError):
            pass
    elif type(value) is kind:
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
    return dataclasses.asdict(recipe)
