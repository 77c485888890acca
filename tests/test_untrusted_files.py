"""Files that the fuzzer of files, or a look at what it found, showed to be answered wrongly."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from ucmkd.batches import TrainingData
from ucmkd.checkpoint import CheckpointError, random_state, set_random_state
from ucmkd.config import (
    ConfigError,
    MethodConfig,
    OptimizerConfig,
    Recipe,
    TrainingConfig,
    from_mapping,
)
from ucmkd.data.audiovisual.cache import _array
from ucmkd.methods import create
from ucmkd.models import MLP
from ucmkd.recipe_file import load_recipe, recipe_to_yaml
from ucmkd.runlog import lines_up_to, read_log
from ucmkd.strict_yaml import read_yaml_text, to_yaml_text
from ucmkd.study.config import StudyConfig
from ucmkd.study.jsonl import read_lines
from ucmkd.teachers.config import ArraysConfig, TeachersConfig
from ucmkd.teachers.samples import read_samples
from ucmkd.trainer import fit

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 8)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 0x_", "line 1: '0x_' is no int"),
        ("name: a\nseed: 2020-13-45", "line 2: '2020-13-45' is no timestamp"),
        ("seed: !!int x", "'x' is no int"),
        ("seed: !!bool x", "'x' is no bool"),
        ("seed: " + "9" * 5000, "is no int"),
        ("data: " + "[" * 300, "line 1: nested more than 50 deep"),
        ("data: &a [*a]", "line 1: a value contains itself"),
        (LAUGHS, "more than 100000 values"),
        ("seed: 1\nseed: 2", "line 2: the key 'seed' appears twice"),
        ("optimizer: {lr: .inf}", "optimizer.lr must be a finite number, got inf"),
        ("seed: 99999999999999999999", "seed must be an integer"),
        ("seed: 4294967296", "seed must be from 0 to"),
        ("name: ../elsewhere", "name must be a name that a folder can have"),
        ("name: /etc/x", "name must be"),
        ('name: "a\\0b"', "name must be"),
        ("name: ..", "name must be"),
    ],
)
def test_recipes(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert said in str(caught.value) and str(path) in str(caught.value)
    assert len(str(caught.value)) < 400


def test_aliases_are_still_yaml() -> None:
    text = "one: &a {lr: 1}\ntwo: *a\n"
    assert read_yaml_text(text) == {"one": {"lr": 1}, "two": {"lr": 1}}
    assert read_yaml_text("") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("-1E+3", -1e3), ("1.5e3", 1500.0), ("+.5e1", 5.0), ("2.e0", 2.0),
        ("1.0e-3", 1e-3), ("12", 12), ("0x1e3", 0x1E3), ("1_0", 10), ("3", 3), (".5", 0.5),
        ("'1e-3'", "1e-3"), ("e3", "e3"), ("1e", "1e"), ("1e3a", "1e3a"), ("1e-3.5", "1e-3.5"),
        ("0b1e3", "0b1e3"), ("1e3 4", "1e3 4"), ("-e3", "-e3"), (".e3", ".e3"), ("١e3", "١e3"),
    ],
)  # fmt: skip
def test_scientific_numbers(text: str, value: object) -> None:
    for found in (read_yaml_text(text), read_yaml_text(to_yaml_text(value))):
        assert found == value and type(found) is type(value)
    assert read_yaml_text(f"a: [{text}]") == {"a": [value]}


def test_other_loaders_stay_as_they_are() -> None:
    assert yaml.safe_load("1e-3") == "1e-3" and yaml.safe_dump(["1e-3"]) == "- 1e-3\n"


def test_texts_that_look_like_numbers_are_written_in_quotes() -> None:
    values = {"digest": "1234567890123e45", "1e3": ["1e10", "-1E+5", "12", "null"], "lr": 1e-5}
    assert read_yaml_text(to_yaml_text(values)) == values
    recipe = Recipe(name="1e10", method=MethodConfig(options={"weight": 1e-7, "kind": "1e3"}))
    assert from_mapping(Recipe, read_yaml_text(recipe_to_yaml(recipe))) == recipe


def test_numbers_where_texts_belong(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("method: {options: {weight: 1e-3}}\noptimizer: {lr: 1e-3}\n")
    recipe = load_recipe(path)
    assert recipe.method.options == {"weight": 1e-3} and recipe.optimizer.lr == 1e-3
    path.write_text("name: 1e3\n")
    with pytest.raises(ConfigError, match=r"name must be text, got 1000\.0"):
        load_recipe(path)
    path.write_text("method: {options: {weight: 1e999}}\n")
    with pytest.raises(ConfigError, match=r"method\.options\.weight must be .* got inf"):
        load_recipe(path)


@pytest.mark.parametrize("name", ["a/b", "a\\b", "", " ", "."])
def test_names_are_those_of_a_folder(name: str) -> None:
    """Runs, studies and comparisons are written into a folder of that name."""
    entry: dict[str, Any] = {"ce": {}}
    for make in (
        lambda: Recipe(name=name),
        lambda: StudyConfig(name=name, scenarios=entry, methods=entry),
        lambda: TeachersConfig(name=name, arrays=ArraysConfig(file="x")),
    ):
        with pytest.raises(ConfigError, match="name must be"):
            make()
    assert Recipe(name="Versuch 1, ε=0.1").run_dir == Path("runs/Versuch 1, ε=0.1")


def arrays(path: Path, **changes: Any) -> Any:
    x, y = np.arange(12.0).reshape(6, 2), np.arange(6) % 2
    np.savez(path, **{"student": x, "y": y, "one": x, **changes})
    return read_samples(TeachersConfig(arrays=ArraysConfig(file=str(path))))


def test_arrays_of_teachers(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    turned = arrays(path, one=np.arange(12).reshape(6, 2).astype(">f4"))
    assert turned.teachers["one"].tolist() == [[2.0 * k, 2.0 * k + 1] for k in range(6)]
    assert arrays(path, one=np.ones((6, 2), np.longdouble)).teachers["one"].dtype == torch.float64
    with pytest.raises(ConfigError, match="one must hold real numbers, got <U1"):
        arrays(path, one=np.array(["a"] * 6))
    arrays(path)
    path.write_bytes(path.read_bytes().replace(b"(6, 2)", b"(6, 2 "))  # ends the header too early
    with pytest.raises(ConfigError, match=r"arrays.file: .*a\.npz cannot be read"):
        read_samples(TeachersConfig(arrays=ArraysConfig(file=str(path))))


def test_prepared_rows(tmp_path: Path) -> None:
    path, kind = tmp_path / "rows.npy", np.dtype(np.float16)
    np.save(path, np.ones((4, 3), np.float16))
    whole = path.read_bytes()
    assert _array(path, kind, (4, 3)).shape == (4, 3)
    for content in (whole[:-5], whole.replace(b"(4, 3)", b"(4, 3 "), whole[:20], b"x"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="the cache is damaged; delete"):
            _array(path, kind, (4, 3))
    np.savez(path.with_suffix(""), a=np.ones(3))
    path.write_bytes(path.with_suffix(".npz").read_bytes())  # an archive under another name
    with pytest.raises(ValueError, match="the cache is damaged"):
        _array(path, kind, (4, 3))


DEEP, LONG = "[" * 100_000, '{"step": ' + "1" * 5000 + "}"


def test_lines_of_a_log(tmp_path: Path) -> None:
    good = {"step": 2, "lr": 0.1, "loss": {"ce": None}, "warning": {"a": "b"},
            "validation": {"accuracy": 0.5, "balanced_accuracy": 0.5, "recall": [1.0]}}  # fmt: skip
    bad: list[dict[str, Any]] = [
        {"step": "2"}, {"step": None}, {"step": -1}, {"step": True}, {"step": 1.5},
        {**good, "loss": 3}, {**good, "loss": {"ce": "x"}}, {**good, "loss": {"ce": 10**400}},
        {**good, "lr": []}, {**good, "validation": {"accuracy": 1}}, {**good, "warning": {"a": 1}},
    ]  # fmt: skip
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join([DEEP, LONG, *map(json.dumps, bad), json.dumps(good), '{"st']))
    assert lines_up_to(path, 5) == [json.dumps(good)]
    (record,) = read_log(path)
    assert record["step"] == 2 and record["loss"]["ce"] != record["loss"]["ce"]
    assert read_lines(path)[-1] == good  # DEEP and LONG are skipped


def state_of(
    steps: int = 2,
    state: Any = None,
    method: str = "ce",
    optimizer: OptimizerConfig | None = None,
) -> dict[str, Any]:
    """Train for some steps, from a state or from nothing, and return what would be stored."""
    draw = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    data = TrainingData(
        num_classes=2,
        student=torch.randn(12, 3, generator=draw),
        student_label=torch.arange(12) % 2,
        validation=torch.randn(4, 3, generator=draw),
        validation_label=torch.arange(4) % 2,
    )
    kept: dict[str, Any] = {}
    fit(
        create(method, MLP(3, num_classes=2, hidden=2, width=2), num_classes=2),
        data,
        TrainingConfig(steps=steps, batch_size=4, eval_every=2, log_every=2),
        optimizer,
        state=state,
        save=lambda found: kept.update(copy.deepcopy(found)),
    )
    return kept


CHANGES: list[tuple[tuple[Any, ...], Any]] = [
    (("step",), -1),
    (("step",), "2"),
    (("step",), 2.0),
    (("step",), 5),  # of 4
    (("best", "step"), 3),  # after step 2
    (("seconds",), None),
    (("method",), {}),
    (("method", "student.encoder.1.weight"), torch.zeros(0)),
    (("optimizer", "state", 0, "exp_avg"), torch.zeros(1)),
    (("optimizer", "state", 0, "exp_avg_sq"), None),
    (("optimizer", "param_groups", 0, "betas"), (0.9, "x")),
    (("optimizer", "param_groups", 0, "lr"), float("nan")),
    (("optimizer", "param_groups", 0, "lr"), 0.1),
    (("optimizer", "param_groups", 0, "weight_decay"), 0.0),
    (("optimizer", "param_groups", 0, "betas"), (0.9, 0.99)),
    (("optimizer", "param_groups", 0, "params"), [0]),
    (("best", "state"), True),
    (("best", "metrics"), {}),
    (("best", "score"), "x"),
    (("ranks",), {}),
    (("ranks", 0, "random", "numpy", 2), 10**6),  # NumPy would read beyond its words
    (("ranks", 0, "random", "torch"), torch.zeros(5, dtype=torch.uint8)),
    (("ranks", 0, "batches", "student", "order"), torch.full((12,), 99)),
    (("ranks", 0, "batches", "student", "cursor"), -3),
    (("ranks", 0, "meter", "sums"), {}),
    (("ranks", 0, "conflict", "recent"), [None]),
]


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    return state_of()


@pytest.mark.parametrize(("place", "value"), CHANGES)
def test_a_state_that_does_not_fit(
    stored: dict[str, Any], place: tuple[Any, ...], value: Any
) -> None:
    """What no checksum tells: each is a sentence before the first step, and no step is made."""
    state = copy.deepcopy(stored)
    inner = state
    for key in place[:-1]:
        inner = inner[key]
    assert place[-1] in (inner if isinstance(inner, dict) else range(len(inner)))
    inner[place[-1]] = value
    with pytest.raises(CheckpointError, match="the checkpoint does not fit this training"):
        state_of(4, state)


def test_a_state_that_fits(stored: dict[str, Any]) -> None:
    stream = io.BytesIO()
    torch.save(stored, stream)
    stream.seek(0)
    resumed = state_of(4, torch.load(stream, weights_only=True))
    for name, tensor in state_of(4)["method"].items():
        assert torch.equal(tensor, resumed["method"][name])


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        (OptimizerConfig(lr=0.1), "the optimiser's lr is 0.001, and 0.1 is set"),
        (OptimizerConfig(weight_decay=0.5), "weight_decay is 0.01, and 0.5 is set"),
        (OptimizerConfig(weight_decay=0.5, warmup=2), "weight_decay is 0.01, and 0.5 is set"),
        (OptimizerConfig(kind="sgd", lr=1e-3), "the optimiser's momentum is None"),
    ],
)
def test_other_settings_of_the_optimiser(
    stored: dict[str, Any], optimizer: OptimizerConfig, said: str
) -> None:
    """The old ones would go on in silence."""
    with pytest.raises(CheckpointError, match=said):
        state_of(4, copy.deepcopy(stored), optimizer=optimizer)


def test_a_scheduled_rate_is_not_the_checkpoint_s() -> None:
    for optimizer in (OptimizerConfig(warmup=3), OptimizerConfig(schedule="cosine")):
        resumed = state_of(4, state_of(2, optimizer=optimizer), optimizer=optimizer)
        assert resumed["step"] == 4
    sgd = OptimizerConfig(kind="sgd", momentum=0.9, lr=0.01)
    assert state_of(4, state_of(2, optimizer=sgd), optimizer=sgd)["step"] == 4


def test_a_step_beyond_the_training(stored: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="step is 2, beyond the 1 of the training"):
        state_of(1, copy.deepcopy(stored))
    assert state_of(2, copy.deepcopy(stored)) == {}  # it is done: nothing to train or to save


def test_random_state_beyond_its_words() -> None:
    state = random_state()
    state["numpy"][2] = 10**6
    with pytest.raises(ValueError, match="a position of 1000000 in NumPy's generator"):
        set_random_state(state)


def test_a_log_with_numbers_that_no_float_holds(tmp_path: Path) -> None:
    from ucmkd.report_figures import panels

    records = [{"step": 1, "loss": {"ce": 10**400, "fa": 0.5}, "validation": {"loss": -(10**400)}}]
    found = {panel.title: panel.curves for panel in panels(records)}
    assert found["Terms of the loss"] == {"fa": [(1, 0.5)]}
