"""Files that a user hands over: settings, arrays, weights, sounds, a checkpoint."""

from __future__ import annotations

import io
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as safetensors

from ucmkd.checkpoint import FORMAT, Checkpointer, CheckpointError
from ucmkd.config import ConfigError
from ucmkd.data import DataNotFoundError, load_npz
from ucmkd.data.audiovisual.audio import read_audio
from ucmkd.data.speech import read_wave
from ucmkd.models import MLP
from ucmkd.recipe_file import SHIPPED, load_recipe
from ucmkd.study.reader import SHIPPED as STUDIES
from ucmkd.study.reader import load_study
from ucmkd.teacher import load_weights
from ucmkd.teachers.config import SHIPPED as COMPARISONS
from ucmkd.teachers.config import ArraysConfig, TeachersConfig, load_comparison
from ucmkd.teachers.samples import read_samples

from .damage import YAML_WORDS, repacked
from .kind import Kind


def archive(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def wave_file(channels: int, width: int, rate: int) -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(np.random.default_rng(0).bytes(64 * channels * width))
    return stream.getvalue()


def saved(state: object) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def yaml(read: Callable[[Path], object], folder: Path) -> Kind:
    contents = [path.read_bytes() for path in sorted(folder.glob("*.yaml"))]
    return Kind(read, "file.yaml", contents, (ConfigError,), words=YAML_WORDS)


def npz() -> Kind:
    x, y = np.arange(12.0).reshape(6, 2), np.arange(6) % 2
    contents = [
        archive(X=x, y=y),
        archive(X=x.astype(np.uint8), y=np.array(["a", "b"] * 3), ids=np.arange(6)),
        archive(X=x, y=y, groups=y.astype(str), test=y.astype(bool), class_names=y[:2]),
    ]
    return Kind(load_npz, "a.npz", contents, (ValueError, DataNotFoundError), alter=repacked)


def arrays() -> Kind:
    def read(path: Path) -> object:
        return read_samples(TeachersConfig(arrays=ArraysConfig(file=str(path))))

    x, y = np.arange(12.0).reshape(6, 2), np.arange(6) % 2
    contents = [archive(student=x, y=y, one=x, two=x.astype(np.float32))]
    return Kind(read, "a.npz", contents, (ConfigError,), alter=repacked)


def checkpoint() -> Kind:
    state = {"format": FORMAT, "step": 3, "method": {"w": torch.ones(2, 2)}, "ranks": [{"a": 1}]}

    def read(path: Path) -> object:
        return Checkpointer(path.parent).load(("step", "method"))

    return Kind(read, "checkpoint.pt", [saved(state)], (CheckpointError,), alter=repacked)


def weights() -> Kind:
    model = MLP(3, num_classes=2, hidden=2, width=2)
    content = safetensors(model.state_dict(), {"validation": "null"})
    return Kind(lambda path: load_weights(model, path), "x.safetensors", [content], (ConfigError,))


def speech() -> Kind:
    return Kind(read_wave, "a.wav", [wave_file(1, 2, 8000), wave_file(2, 2, 8000)], (ValueError,))


def sound() -> Kind:
    contents = [wave_file(1, 2, 16000), wave_file(2, 2, 44100), wave_file(1, 1, 8000)]
    return Kind(read_audio, "a.wav", contents, (ValueError, ImportError))


def recipe() -> Kind:
    return yaml(load_recipe, SHIPPED)


def study() -> Kind:
    return yaml(load_study, STUDIES)


def comparison() -> Kind:
    return yaml(load_comparison, COMPARISONS)
