"""Checkpoints, weights and models of a run: written, read back, and refused when damaged."""

from __future__ import annotations

import math
import os
import random
import zipfile

import numpy as np
import pytest
import torch

from ucmkd.checkpoint import Checkpointer, CheckpointError, random_state, set_random_state
from ucmkd.config import ConfigError, ModelConfig
from ucmkd.models import MLP, HookedModel
from ucmkd.teacher import build_model, cache_outputs, freeze, load_weights, save_weights

CLASSES, INPUTS, WIDTH = 3, 6, 5


def test_random_state_round_trip(tmp_path) -> None:

    def draw() -> tuple:
        return random.random(), np.random.rand(), torch.rand(1).item(), random.gauss(0, 1)

    np.random.randn()  # leaves a cached second normal behind
    checkpoints = Checkpointer(tmp_path)
    checkpoints.save(random_state())
    expected = draw()
    state = checkpoints.load()
    assert state is not None
    set_random_state(state)
    assert draw() == expected


def test_damaged_checkpoint_is_named(tmp_path) -> None:
    checkpoints = Checkpointer(tmp_path)
    assert checkpoints.load() is None
    checkpoints.save({"step": 1, "weights": torch.arange(1000)})
    intact = checkpoints.current.read_bytes()
    checkpoints.current.write_bytes(intact[: len(intact) // 2])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is damaged.*no older one"):
        checkpoints.load()

    checkpoints.current.write_bytes(intact)
    checkpoints.save({"step": 2, "weights": torch.arange(1000)})
    with zipfile.ZipFile(checkpoints.current) as archive:  # one flipped bit in a tensor
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    damaged = bytearray(checkpoints.current.read_bytes())
    damaged[largest.header_offset + 200 + largest.file_size // 2] ^= 1
    checkpoints.current.write_bytes(bytes(damaged))
    with pytest.raises(CheckpointError, match=r"resume from the one before, .*previous\.pt"):
        checkpoints.load()
    os.remove(checkpoints.current)
    state = checkpoints.load()
    assert state is not None and state["step"] == 1


def test_teacher_is_frozen_and_cached() -> None:
    teacher = MLP(INPUTS, num_classes=CLASSES, width=WIDTH, dropout=0.5)
    inputs = torch.randn(50, INPUTS)
    with pytest.raises(ValueError, match="training mode"):
        cache_outputs(teacher, inputs)
    freeze(teacher)
    feature, logits = cache_outputs(teacher, inputs, batch_size=7)
    assert feature.shape == (50, WIDTH) and logits.shape == (50, CLASSES)
    assert torch.allclose(logits, teacher(inputs), atol=1e-6)
    assert not any(p.requires_grad for p in teacher.parameters())


def test_weights_round_trip_and_misfits(tmp_path) -> None:
    path = tmp_path / "weights.safetensors"
    first, second = (MLP(INPUTS, num_classes=CLASSES) for _ in range(2))
    save_weights(first, path, {"note": [1, 2]})
    assert load_weights(second, path) == {"note": [1, 2]}
    assert torch.equal(first.head.weight, second.head.weight)
    with pytest.raises(ConfigError, match=r"does not fit.*head.weight \(3, 64\) instead of"):
        load_weights(MLP(INPUTS, num_classes=4), path)
    with pytest.raises(ConfigError, match="there is no file"):
        load_weights(second, tmp_path / "absent")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConfigError, match="not a readable safetensors"):
        load_weights(second, path)


def bare_network(shape: tuple[int, ...], num_classes: int) -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(math.prod(shape), 7), torch.nn.Linear(7, num_classes)
    )


def test_features_of_any_module_by_layer_name() -> None:
    example = torch.randn(4, 2, 3)
    model = build_model(ModelConfig(factory=f"{__name__}:bare_network", layer="1"), example, 5)
    assert isinstance(model, HookedModel) and model.width == 7
    assert model(example).shape == (4, 5)
    with pytest.raises(ConfigError, match="name the feature layer"):
        build_model(ModelConfig(factory=f"{__name__}:bare_network"), example, 5)
    with pytest.raises(ConfigError, match="cannot be imported"):
        build_model(ModelConfig(factory="no_such_module:build"), example, 5)
