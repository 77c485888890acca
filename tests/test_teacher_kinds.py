"""Teachers that know nothing: untrained networks and noise, in the place of a trained one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import nn

from ucmkd.config import ConfigError, Recipe, TeacherConfig, from_mapping
from ucmkd.distill import distill
from ucmkd.noise_teacher import NoiseTeacher
from ucmkd.teacher import build_teacher, cache_outputs, freeze, train_teacher
from ucmkd.trainer import TrainingData


def own_data(n: int = 90) -> TrainingData:
    """Three classes that a linear model tells apart."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(n) % 3
    inputs = 4 * torch.eye(3)[label] + torch.randn(n, 3, generator=generator)
    return TrainingData(3, inputs[30:], label[30:], inputs[:30], label[:30])


def test_noise_is_fixed_per_sample() -> None:
    teacher, x = NoiseTeacher(6, 4, seed=5), torch.randn(8, 2, 3)
    freeze(teacher)
    feature, logits = cache_outputs(teacher, x)
    assert feature.shape == (8, 6) and logits.shape == (8, 4)
    torch.testing.assert_close(logits, teacher.head(feature))
    order = torch.tensor([3, 3, 0, 7])
    again, _ = cache_outputs(teacher, x[order], batch_size=1)
    assert torch.equal(again, feature[order])
    assert torch.equal(teacher.encoder(x.double()), feature)
    zeros = torch.zeros(1, 2)
    assert torch.equal(teacher.encoder(zeros), teacher.encoder(-zeros))
    near = teacher.encoder(x + 1e-6)
    assert float((near - feature).abs().min(0).values.max()) > 0.01  # nearness says nothing
    twin, other = NoiseTeacher(6, 4, seed=5), NoiseTeacher(6, 4, seed=6)
    assert torch.equal(twin.encoder(x), feature) and torch.equal(
        twin.head.weight, teacher.head.weight
    )
    assert not torch.equal(other.encoder(x), feature)
    other.load_state_dict(teacher.state_dict())  # the seed is part of the weights
    assert torch.equal(other(x), logits)
    state = torch.random.get_rng_state()
    teacher.encoder(x)
    assert torch.equal(torch.random.get_rng_state(), state)  # draws nothing of anyone else's


def test_noise_is_standard_normal_and_knows_no_class() -> None:
    data = own_data(6030)
    teacher = NoiseTeacher(16, 3, seed=1)
    freeze(teacher)
    feature, logits = cache_outputs(teacher, data.student)
    n = len(feature)
    assert feature.mean(0).abs().max() < 5 / n**0.5
    covariance = feature.T @ feature / n
    torch.testing.assert_close(covariance, torch.eye(16), rtol=0, atol=7 / n**0.5)
    scale = teacher.head.weight.norm(dim=1)  # given the head, its logits are N(0, |w|²)
    torch.testing.assert_close(logits.std(0), scale, rtol=0.05, atol=0)
    assert 0.3 < float(scale.min()) < float(scale.max()) < 2.0
    accuracy = (logits.argmax(1) == data.student_label).double().mean()
    assert abs(float(accuracy) - 1 / 3) < 5 * (2 / 9 / n) ** 0.5
    for arguments in ((0, 3), (3, 0)):
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            NoiseTeacher(*arguments)
    with pytest.raises(ValueError, match="seed"):
        NoiseTeacher(3, 3, seed=-1)


def test_only_a_trained_teacher_is_trained() -> None:
    data, fabric = own_data(), Fabric(accelerator="cpu", devices=1)
    accuracy = {}
    for kind in ("trained", "untrained", "noise"):
        config = TeacherConfig(kind=kind, hidden=8, width=5, steps=60, lr=0.02)  # type: ignore[arg-type]
        model = build_teacher(config, data, seed=3)
        assert model.width == 5 and isinstance(model.head, nn.Linear)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        metrics = train_teacher(model, data, config, seed=3, fabric=fabric)
        assert metrics is not None
        accuracy[kind] = metrics.accuracy
        same = all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert same == (kind != "trained")
        assert isinstance(model, NoiseTeacher) == (kind == "noise")
    assert accuracy["trained"] > 0.9 and accuracy["noise"] < 0.7
    initial = build_teacher(TeacherConfig(hidden=8, width=5), data, seed=3).state_dict()
    untrained = build_teacher(TeacherConfig(kind="untrained", hidden=8, width=5), data, seed=3)
    assert all(torch.equal(v, initial[k]) for k, v in untrained.state_dict().items())


def test_kind_in_a_recipe() -> None:
    assert Recipe().teacher.kind == "trained"
    with pytest.raises(ConfigError, match=r"teacher.kind must be one of 'trained', .*got 'random'"):
        from_mapping(Recipe, {"teacher": {"kind": "random"}})
    with pytest.raises(ConfigError, match=r"teacher.weights must be null unless kind is 'trained'"):
        from_mapping(Recipe, {"teacher": {"kind": "noise", "weights": "a.safetensors"}})


@pytest.mark.parametrize("kind", ["untrained", "noise"])
def test_distillation_from_a_control(kind: str, tmp_path: Path) -> None:
    """A whole run; resumed after its figures were lost, it finds the same ones."""
    recipe = from_mapping(
        Recipe,
        {
            "out_dir": str(tmp_path / "run"),
            "data": {
                "teacher": {"dataset": "digits", "view": "pixels"},
                "student": {"dataset": "digits", "view": "shape", "labels_per_class": 3},
                "pairs": 20,
            },
            "teacher": {"kind": kind, "hidden": 8, "width": 6},
            "student": {"hidden": 8, "width": 5},
            "method": {"name": "norm"},
            "training": {"steps": 6, "batch_size": 8, "eval_every": 3, "log_every": 3},
            "hardware": {"accelerator": "cpu"},
        },
    )
    said: list[str] = []
    result = distill(recipe, say=said.append)
    assert f"teacher: {kind}, a control" in said
    assert result.teacher is not None and result.teacher.accuracy < 0.4
    folder = tmp_path / "run"
    weights = load_file(folder / "student.safetensors")
    assert set(weights) == {
        f"{layer}.{part}"
        for layer in ("encoder.1", "encoder.4", "head")
        for part in ("weight", "bias")
    }
    before = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").unlink()
    distill(recipe, resume=True, say=said.append)
    assert any(line.startswith("teacher: loaded from") for line in said)
    assert json.loads((folder / "metrics.json").read_text()) == before
