"""The choice of optimiser: its arithmetic, its place in a recipe, and exact resumption."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from test_trainer import SHORT, data, make  # noqa: F401  (data is a fixture)
from ucmkd.batches import TrainingData
from ucmkd.checkpoint import Checkpointer
from ucmkd.config import ConfigError, OptimizerConfig, Recipe, TeacherConfig, from_mapping
from ucmkd.teacher import train_teacher
from ucmkd.trainer import fit, make_optimizer

SGD = OptimizerConfig(kind="sgd", lr=0.1, momentum=0.9, weight_decay=0.5, schedule="cosine")


def test_sgd_by_hand() -> None:
    """v ← .9 v + (g + .5 w), w ← w - .1 v: from w = 2 with gradients 1 and 3."""
    weight = torch.tensor([2.0], requires_grad=True)
    optimizer = make_optimizer([weight], SGD, torch.device("cpu"))
    seen = []
    for gradient in (1.0, 3.0):
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        seen.append(weight.item())
    # v1 = 2, w1 = 1.8; v2 = 1.8 + 3 + .9 = 5.7, w2 = 1.23
    assert seen == pytest.approx([1.8, 1.23], abs=1e-6)


def test_adamw_stays_the_default() -> None:
    weight = torch.tensor([2.0], requires_grad=True)
    optimizer = make_optimizer([weight], OptimizerConfig(lr=0.1), torch.device("cpu"))
    assert isinstance(optimizer, torch.optim.AdamW)
    weight.grad = torch.tensor([7.0])
    optimizer.step()  # w (1 - .1 · .01) - .1: the first step of Adam has length lr
    assert weight.item() == pytest.approx(2 * 0.999 - 0.1, abs=1e-5)


def test_no_step_on_a_cpu_asks_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(asked.append(True)))
    weight = torch.tensor([2.0], requires_grad=True)
    optimizer = make_optimizer([weight], OptimizerConfig(), torch.device("cpu"))
    weight.grad = torch.tensor([1.0])
    optimizer.step()
    assert not asked and weight.item() != 2.0


@pytest.mark.parametrize("name", ["ce", "ucmkd"])
def test_sgd_resumes_exactly(name: str, data: TrainingData, tmp_path: Path) -> None:  # noqa: F811
    straight = fit(make(name, data), data, SHORT, SGD, seed=3)

    class Stop(Exception):
        pass

    checkpoints = Checkpointer(tmp_path)

    def save_and_stop(state: dict) -> None:
        checkpoints.save(state)
        raise Stop

    with pytest.raises(Stop):
        fit(make(name, data), data, SHORT, SGD, seed=3, save=save_and_stop)
    state = checkpoints.load()
    assert state is not None and 0 < state["step"] < SHORT.steps
    momentum = [v["momentum_buffer"] for v in state["optimizer"]["state"].values()]
    assert momentum and any(bool(buffer.any()) for buffer in momentum)
    resumed = fit(make(name, data), data, SHORT, SGD, seed=3, state=state)
    expected = straight.method.state_dict()
    for key, value in resumed.method.state_dict().items():
        assert torch.equal(value, expected[key]), key
    assert resumed.validation == straight.validation


def test_optimisers_differ(data: TrainingData) -> None:  # noqa: F811
    weights = [
        fit(make("ce", data), data, SHORT, config).method.state_dict()["student.head.weight"]
        for config in (SGD, OptimizerConfig(lr=0.1, weight_decay=0.5, schedule="cosine"))
    ]
    assert not torch.equal(*weights)


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("optimizer", {"kind": "sdg"}, "optimizer.kind must be one of 'adamw', 'sgd', got 'sdg'"),
        ("optimizer", {"kind": "sgd", "momentum": 1}, r"momentum must be in \[0, 1\), got 1"),
        ("optimizer", {"momentum": 0.9}, "optimizer.momentum must be 0 unless kind is 'sgd'"),
        ("teacher", {"momentum": 0.9}, "teacher.momentum must be 0 unless optimizer is 'sgd'"),
        ("teacher", {"epochs": 0}, "teacher.epochs must be a positive integer or null, got 0"),
    ],
)
def test_mistakes(section: str, values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(Recipe, {section: values})


def test_teacher_with_epochs_and_sgd(
    data: TrainingData,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ucmkd.teacher as module

    seen = {}
    real = module.fit

    def spy(method, samples, training, optimizer, **options):  # type: ignore[no-untyped-def]
        seen.update(training=training, optimizer=optimizer)
        return real(method, samples, training, optimizer, **options)

    monkeypatch.setattr(module, "fit", spy)
    config = TeacherConfig(
        epochs=3, batch_size=12, optimizer="sgd", momentum=0.5, schedule="cosine"
    )
    from lightning_fabric import Fabric

    model = make("ce", data).student
    train_teacher(model, data, config, seed=0, fabric=Fabric(accelerator="cpu", devices=1))
    assert seen["training"].steps == 3 * 3  # 30 samples, 12 a step
    assert seen["optimizer"].kind == "sgd" and seen["optimizer"].momentum == 0.5
    assert seen["optimizer"].schedule == "cosine"
