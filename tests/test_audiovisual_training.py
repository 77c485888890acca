"""From tiny recordings to a trained student: splits, inputs that stay in files, and the trainer."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from audiovisual_common import make_ave, make_ravdess
from ucmkd.batches import TrainingData
from ucmkd.config import (
    ConfigError,
    DataConfig,
    OptimizerConfig,
    Recipe,
    TrainingConfig,
    from_mapping,
)
from ucmkd.data import Dataset
from ucmkd.data.stored import StoredArray
from ucmkd.distill import distill
from ucmkd.methods import create
from ucmkd.metrics import evaluate
from ucmkd.models import MLP, SplitModel
from ucmkd.preparation import prepare
from ucmkd.preparation.parts import common_split
from ucmkd.stored_inputs import StoredInputs
from ucmkd.teacher import cache_outputs, freeze
from ucmkd.trainer import fit


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UCMKD_CACHE", str(tmp_path / "cache"))


def tiny(shape: tuple[int, ...], num_classes: int) -> SplitModel:
    encoder = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * shape[0], 8))
    return SplitModel(nn.Sequential(encoder, nn.ReLU()), nn.Linear(8, num_classes))


def sides(root: Path, dataset: str = "ravdess", **more: object) -> dict:
    return {
        "teacher": {"dataset": dataset, "view": "audio"},
        "student": {"dataset": dataset, "view": "frames", "labels_per_class": None},
        "validation": 0.2,
        "test": 0.3,
        "root": str(root),
        **more,
    }


def data_config(root: Path, dataset: str = "ravdess", **more: object) -> DataConfig:
    return from_mapping(DataConfig, sides(root, dataset, **more))


# --- inputs that stay in a file -----------------------------------------------------------------


def both_kinds() -> tuple[TrainingData, TrainingData]:
    """The same problem in memory and in a file of bytes."""
    generator = np.random.default_rng(0)
    stored = StoredArray(generator.integers(0, 255, (60, 2, 3, 3), dtype=np.uint8), factor=1 / 255)
    label = torch.arange(60) % 3
    parts = [slice(0, 30), slice(30, 45), slice(45, 60)]
    inputs = [StoredInputs(stored[part], 0.5, 0.3) for part in parts]

    def problem(groups: list) -> TrainingData:
        train, validation, test = groups
        return TrainingData(
            3, train, label[parts[0]], validation, label[parts[1]], test, label[parts[2]]
        )

    return problem([item[:] for item in inputs]), problem(inputs)


def test_training_from_a_file_is_training_from_memory() -> None:
    results = []
    for data in both_kinds():
        torch.manual_seed(0)
        method = create("ce", MLP(18, num_classes=3, hidden=8, dropout=0.2), num_classes=3)
        training = TrainingConfig(steps=9, batch_size=8, eval_every=3)
        fitted = fit(method, data, training, seed=1)
        results.append((fitted.validation, fitted.test(), fitted.method.state_dict()))
    memory, file = results
    assert memory[:2] == file[:2]
    for name, value in memory[2].items():
        assert torch.equal(value, file[2][name]), name


def test_stored_inputs_are_like_a_tensor() -> None:
    memory, file = (data.student for data in both_kinds())
    assert isinstance(memory, torch.Tensor) and isinstance(file, StoredInputs)
    assert file.shape == memory.shape and file.ndim == 4 and len(file) == 30
    index = torch.tensor([7, 0, 7])
    assert torch.equal(file[index], memory[index]) and torch.equal(file[2:5], memory[2:5])
    pieces = list(file.split(7))
    assert [len(piece) for piece in pieces] == [7, 7, 7, 7, 2]
    assert torch.equal(torch.cat(pieces), memory)
    double = file.to("cpu", torch.float64)
    assert double[:1].dtype == torch.float64 and file[:1].dtype == torch.float32
    with pytest.raises(ValueError, match="rows of one group must agree"):
        TrainingData(3, file, torch.zeros(29, dtype=torch.int64))


def test_pieces_are_bounded_by_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    import ucmkd.stored_inputs as module

    memory, file = both_kinds()
    monkeypatch.setattr(module, "PIECE", 4 * 18 * 5)
    assert isinstance(file.student, StoredInputs)
    assert [len(piece) for piece in file.student.split(1024)] == [5] * 6
    model = MLP(18, num_classes=3)
    freeze(model)
    for a, b in zip(
        cache_outputs(model, memory.student), cache_outputs(model, file.student), strict=True
    ):
        torch.testing.assert_close(a, b)
    method = create("ce", model, num_classes=3)
    labels = file.student_label
    assert evaluate(method, file.student, labels, 3).accuracy == (
        evaluate(method, memory.student, labels, 3).accuracy
    )


# --- splits -------------------------------------------------------------------------------------


def dataset(official: bool, groups: bool = True) -> Dataset:
    n = 120
    rng = np.random.default_rng(3)
    test = np.arange(n) < 20
    return Dataset(
        "toy",
        rng.normal(size=(n, 2)).astype(np.float32),
        np.arange(n) % 2,
        ("a", "b"),
        np.array([str(i) for i in range(n)]),
        groups=np.array([f"g{i // 5}" for i in range(n)]) if groups else None,
        test=test if official else None,
        validation=(np.arange(n) >= 20) & (np.arange(n) < 40) if official else None,
    )


@pytest.mark.parametrize("official", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_common_split(official: bool, shared: bool) -> None:
    data = dataset(official)
    config = DataConfig(shared=shared, validation=0.2, test=0.25, teacher_fraction=0.5)
    teacher, own, student, validation, test = common_split(
        config, data, data.test, np.random.default_rng(0)
    )
    assert data.groups is not None
    names = [set(data.groups[part]) for part in (teacher, own, student, validation, test)]
    if official:
        assert test.tolist() == list(range(20)) and validation.tolist() == list(range(20, 40))
    if shared:
        assert np.array_equal(teacher, student) and np.array_equal(own, validation)
        names = names[2:]
        if not official:
            assert (len(test), len(validation), len(student)) == (30, 25, 65)
    else:
        assert abs(len(teacher) + len(own) - (len(student) + len(validation) * (not official)
                   + len(test) * (not official))) <= 10  # fmt: skip
    for i, some in enumerate(names):
        assert some and not any(some & other for other in names[i + 1 :])
    everything = np.unique(np.concatenate([teacher, own, student, validation, test]))
    assert len(everything) == 120


def test_shared_pairs_have_labels(tmp_path: Path) -> None:
    root = make_ravdess(tmp_path)
    prepared = prepare(data_config(root, shared=True, pairs=-1), seed=0)
    data = prepared.student
    assert isinstance(data.student, StoredInputs) and isinstance(
        prepared.paired_teacher, StoredInputs
    )
    assert data.paired is not None and len(data.paired) == len(data.student)
    assert data.paired_label is not None
    assert torch.equal(data.paired_label, data.student_label)
    assert prepared.paired_teacher.shape[1:] == (1, 128, 400)
    assert torch.equal(prepared.teacher.student_label, data.student_label)
    # Standardised per channel, on the training rows.
    everything = data.student[:]
    assert everything.shape[1:] == (3, 112, 112)
    torch.testing.assert_close(everything.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        everything.std(dim=(0, 2, 3), correction=0), torch.ones(3), atol=1e-3, rtol=0
    )
    tensors = prepared.transform.tensors()
    assert tensors["mean"].shape == (3, 112, 112)
    some = prepare(data_config(root, shared=True, pairs=5), seed=0).student.paired
    assert some is not None and len(some) == 5
    divided = prepare(data_config(root), seed=0)
    assert divided.student.paired is None and divided.student.paired_label is None


def test_ave_uses_its_official_parts(tmp_path: Path) -> None:
    prepared = prepare(data_config(make_ave(tmp_path), "ave", shared=True), seed=0)
    data = prepared.student
    assert data.validation is not None and data.test is not None
    assert (len(data.student), len(data.validation), len(data.test)) == (3, 2, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": {"dataset": "digits", "view": "pixels"}}, "data.shared must be false"),
        ({"pairs": 1000}, "at most 24, the shared training samples"),
        (
            {
                "student": {
                    "dataset": "ravdess",
                    "view": "frames",
                    "columns": 5,
                    "labels_per_class": None,
                }
            },
            "columns must be null",
        ),
        ({"student": {"dataset": "ravdess"}}, "data.student.view must be given.*audio, frames"),
    ],
)
def test_mistakes_in_the_data_section(tmp_path: Path, change: dict, message: str) -> None:
    values = sides(make_ravdess(tmp_path), shared=True) | change
    with pytest.raises((ConfigError, ValueError), match=message):
        prepare(from_mapping(DataConfig, values), seed=0)


# --- the whole ----------------------------------------------------------------------------------


def recipe(root: Path, out: Path, factory: str, method: dict, **more: object) -> Recipe:
    return from_mapping(
        Recipe,
        {
            "name": "av",
            "out_dir": str(out),
            "data": sides(root, shared=True, **more),
            "teacher": {"factory": factory, "epochs": 2, "batch_size": 8, "optimizer": "sgd"},
            "student": {"factory": factory},
            "method": method,
            "optimizer": {"kind": "sgd", "momentum": 0.9, "lr": 0.01},
            "training": {"epochs": 2, "batch_size": 8, "teacher_batch_size": 8, "eval_every": 2},
            "hardware": {"accelerator": "cpu"},
        },
    )


@pytest.mark.parametrize("name", ["ce", "feature_kd", "vanilla_kd", "ucmkd"])
def test_distillation_between_sound_and_pictures(tmp_path: Path, name: str) -> None:
    root = make_ravdess(tmp_path)
    pairs = -1 if name == "vanilla_kd" else 0
    made = recipe(root, tmp_path / "run", f"{__name__}:tiny", {"name": name}, pairs=pairs)
    result = distill(made)
    assert result.test.count == 16 and result.steps == 6
    assert (tmp_path / "run/preprocessing.safetensors").is_file()
    again = distill(made, resume=True)
    assert again.already_finished and again.test.loss == result.test.loss


def test_bilevel_steps_of_a_resnet_resume_exactly() -> None:
    """Batch normalisation, augmentation and the inner copies, at the recipes' settings."""
    pytest.importorskip("torchvision")
    from ucmkd.models_av import resnet18_augmented

    generator = torch.Generator().manual_seed(0)
    label = torch.arange(8) % 2
    data = TrainingData(
        2,
        torch.randn(8, 1, 32, 32, generator=generator),
        label,
        teacher_feature=torch.randn(8, 512, generator=generator),
        teacher_logits=torch.randn(8, 2, generator=generator),
        teacher_label=label,
    )
    training = TrainingConfig(steps=4, batch_size=4, teacher_batch_size=4, eval_every=1)
    optimizer = OptimizerConfig(kind="sgd", momentum=0.9, lr=0.01)
    states: list[dict] = []

    def run(state: dict | None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        student, head = resnet18_augmented((1, 32, 32), 2), nn.Linear(512, 2)
        method = create("ucmkd", student, num_classes=2, teacher_head=head, teacher_width=512)
        save = None if state else lambda full: states.append(copy.deepcopy(full))
        fitted = fit(method, data, training, optimizer, seed=0, state=state, save=save)
        return fitted.method.state_dict()

    straight = run(None)
    resumed = run(states[0])
    assert states[0]["step"] == 2 < training.steps
    for name, value in straight.items():
        assert torch.equal(value, resumed[name]), name
    assert int(straight["student.encoder.1.bn1.num_batches_tracked"]) > 0
