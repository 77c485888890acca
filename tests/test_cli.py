"""The command line and recipes, as a user meets them; offline, on scikit-learn's digits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import ucmkd
from ucmkd import cli
from ucmkd.cli import main
from ucmkd.config import ConfigError, DataConfig, Recipe, from_mapping, to_mapping
from ucmkd.data import DATASETS
from ucmkd.distill import check_method
from ucmkd.methods import METHODS
from ucmkd.preparation import prepare
from ucmkd.recipe_file import find_recipe, load_recipe, recipe_to_yaml, shipped_recipes

QUICK = ["--teacher.steps", "20", "--training.steps", "6", "--training.eval-every", "3"]
QUICK += ["--teacher.hidden", "16", "--student.hidden", "16", "--hardware.accelerator", "cpu"]


def failure(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line of a user error."""
    assert main(words) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("ucmkd: error: ")
    return line


def test_usage_version_and_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "distill" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.endswith(f"ucmkd {ucmkd.__version__}\n")
    assert "did you mean 'distill'?" in failure(capsys, "distil")


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    for name, (available, detail) in ucmkd.backends().items():
        # The table of versions has a triton row too; that of the backends is the last.
        row = [line for line in shown.splitlines() if line.split()[:1] == [name]][-1]
        assert row.split()[1] == ("yes" if available else "no") and row.endswith(detail)
    assert "threads" in shown


def test_missing_extra_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cli.EXTRAS, "no_such_module_here", "some-package")
    assert "needs some-package: install them with pip install 'ucmkd[train]'" in failure(
        capsys, "distill", "digits_offline"
    )


def test_distill_writes_a_run_and_resumes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    words = ["distill", "digits_offline", "--out-dir", str(folder), *QUICK]
    words += ["--method.options.weight", "0.5", "--optimizer.lr", "2e-3"]
    assert main(words) == 0
    assert "student, test" in capsys.readouterr().out

    kept = load_recipe(folder / "recipe.yaml")
    assert kept.optimizer.lr == 2e-3 and kept.training.steps == 6
    assert kept.method.options["weight"] == 0.5
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures["method"] == "joint_alignment" and figures["steps"] == 6
    assert len(figures["test"]["recall"]) == 10
    assert 0 <= figures["test"]["accuracy"] <= 1 and figures["test"]["count"] > 200
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [3, 6]
    assert records[0].keys() == {
        "step", "epoch", "lr", "loss", "weighted", "validation", "seconds"
    }  # fmt: skip
    assert records[0]["loss"].keys() == {"ce", "joint"}
    assert list((folder / "tensorboard").glob("events*"))
    weights = load_file(folder / "student.safetensors")
    assert weights["encoder.1.weight"].shape[0] == 16
    assert load_file(folder / "preprocessing.safetensors").keys() == {"mean", "scale"}

    before = (folder / "metrics.json").read_bytes()
    assert "already holds a run" in failure(capsys, *words)
    assert "training.steps 6 there, 7 here" in failure(
        capsys, *words, "--training.steps", "7", "--resume"
    )
    assert main([*words, "--resume"]) == 0
    assert "this run is complete" in capsys.readouterr().out
    assert (folder / "metrics.json").read_bytes() == before


def test_damaged_checkpoint_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["distill", "digits_offline", "--out-dir", str(tmp_path), *QUICK, "--method.name", "ce"]
    assert main(words) == 0
    capsys.readouterr()
    (tmp_path / "metrics.json").unlink()
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert f"checkpoint {checkpoint} is damaged" in capsys_error(capsys, *words, "--resume")


@pytest.mark.parametrize(
    ("step", "length", "said"),
    [
        ("x", ["--training.steps", "6"], "step is 'x'"),
        (2.5, ["--training.epochs", "1"], "step is 2.5"),
        (7, ["--training.steps", "6"], "step is 7, beyond the 6 of the training"),
        (10**9, ["--training.epochs", "1"], "step is 1000000000, beyond the"),
    ],
)
def test_a_checkpoint_of_no_step_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], step: object, length: list[str], said: str
) -> None:
    words = ["distill", "digits_offline", "--out-dir", str(tmp_path), *QUICK, "--method.name", "ce"]
    words += length
    assert main(words) == 0
    (tmp_path / "metrics.json").unlink()
    log = (tmp_path / "log.jsonl").read_bytes()
    checkpoint = tmp_path / "checkpoint.pt"
    torch.save({**torch.load(checkpoint, weights_only=True), "step": step}, checkpoint)
    capsys.readouterr()
    (line,) = capsys_error(capsys, *words, "--resume").strip().splitlines()
    assert "the checkpoint does not fit this training" in line and said in line
    assert (tmp_path / "log.jsonl").read_bytes() == log


def capsys_error(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 2
    return capsys.readouterr().err


def test_options_of_another_method_are_dropped(tmp_path: Path) -> None:
    words = ["distill", "brca_unpaired", "--out-dir", str(tmp_path), "--method.name", "ce"]
    from ucmkd.cli_distill import _override

    chosen = _override(load_recipe(find_recipe(words[1])), words[1], words[2:])
    recipe = chosen.recipe
    assert recipe.method.name == "ce" and recipe.method.options == {} and not chosen.resume
    kept = _override(
        load_recipe(find_recipe(words[1])),
        words[1],
        ["--method.options.ramp-steps=9", "--method.options.prior", "uniform"],
    ).recipe
    assert kept.method.options["ramp_steps"] == 9 and kept.method.options["prior"] == "uniform"
    assert kept.method.options["label_smoothing"] == 0.1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digits_ofline"], "did you mean 'digits_offline'?"),
        (["--resume"], "the recipe comes first"),
        (["digits_offline", "--method.name", "joint"], "unknown method.name 'joint'"),
        (["digits_offline", "--method.options.wieght", "1"], "did you mean 'weight'?"),
        (["digits_offline", "--method.options.weight"], "needs a value"),
        (["digits_offline", "--data.student.view", "sound"], "view of digits 'sound'"),
        (["digits_offline", "--data.teacher.dataset", "digitz"], "did you mean 'digits'"),
        (["digits_offline", "--data.pairs", "100000"], "pairs must be at most"),
        (["digits_offline", "--teacher.weights", "absent.st"], "there is no file absent.st"),
        (["digits_offline", "--method.options.weight", "-1", *QUICK], "weight"),
        (["npz_example"], "teacher.npz"),
    ],
)
def test_user_errors_are_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # runs/ must not land in the source tree
    assert main(["distill", *words]) == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1] and "Traceback" not in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optimizer.lr", "-1"], "lr must be positive, got -1.0"),
        (["--optimizer.lr", "fast"], "fast"),
        (["--optimiser.lr", "1"], "--optimizer.lr"),
    ],
)
def test_wrong_overrides(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """tyro words these itself, in a box."""
    assert main(["distill", "digits_offline", *words]) == 2
    assert message in capsys.readouterr().err


def test_help_of_a_recipe_lists_its_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", "brca_unpaired", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--optimizer.lr" in shown and "--resume" in shown and "joint_alignment" in shown


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_sound(name: str) -> None:
    recipe = load_recipe(find_recipe(name))
    assert recipe.name == name and recipe.method.name in METHODS
    check_method(recipe)
    for side in (recipe.data.teacher, recipe.data.student):
        if side.dataset.endswith(".npz"):
            continue
        entry = DATASETS[side.dataset]
        views = side.view.split("+") if side.view else []
        assert set(views) <= set(entry.views) and bool(views) == bool(entry.views)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimiser: {lr: 1}", r"unknown key 'optimiser'.*did you mean 'optimizer'\?"),
        ("optimizer: {learning_rat: 1}", "unknown key 'learning_rat' in section 'optimizer'"),
        ("data: {student: {labels_per_clas: 1}}", "'data.student'; did you mean 'labels_per_class"),
        ("training: {steps: many}", "training.steps must be an integer, got 'many'"),
        ("training: {steps: 0}", "training.steps must be a positive integer, got 0"),
        ("training: {steps: 1.5}", "training.steps must be an integer"),
        ("seed: true", "seed must be an integer, got True"),
        ("hardware: {precision: half}", "hardware.precision must be one of '32-true'"),
        ("method: {options: {weight: [1, 2]}}", "method.options.weight must be"),
        ("data: {validation: 0.6, test: 0.5}", r"validation \+ test must be less than 1"),
        ("data: {student: {labels_per_class: null, long_tail: 5}}", "long_tail must be null"),
        ("student: {layer: avgpool}", "student.layer must be null unless factory"),
        ("- 1", "the recipe must be a mapping"),
        ("seed: 1\nseed: 2", "line 2: the key 'seed' appears twice"),
        ("name: x\n  seed: [1", "not valid YAML: line 2"),
    ],
)
def test_recipes_are_checked_strictly(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_recipe_round_trip(tmp_path: Path) -> None:
    recipe = from_mapping(
        Recipe,
        {"optimizer": {"lr": "1e-4"}, "method": {"options": {"a": 1, "b": None, "c": "x"}}},
    )
    assert recipe.optimizer.lr == 1e-4 and recipe.method.options == {"a": 1, "b": None, "c": "x"}
    path = tmp_path / "r.yaml"
    path.write_text(recipe_to_yaml(recipe))
    assert load_recipe(path) == recipe
    assert yaml.safe_load(path.read_text()) == to_mapping(recipe)
    path.write_text("")
    assert load_recipe(path) == Recipe()


def data_config(**changes: object) -> DataConfig:
    sides = {
        "teacher": {"dataset": "digits", "view": "pixels"},
        "student": {"dataset": "digits", "view": "shape", "labels_per_class": 4},
    }
    return from_mapping(DataConfig, {**sides, **changes})


def test_preparation_is_deterministic_and_scaled() -> None:
    first, again = prepare(data_config(pairs=12), 3), prepare(data_config(pairs=12), 3)
    other = prepare(data_config(pairs=12), 4)
    assert np.array_equal(first.student.student, again.student.student)
    assert not np.array_equal(first.student.student, other.student.student)
    assert np.bincount(first.student.student_label).tolist() == [4] * 10
    assert first.student.unlabelled is not None and first.student.paired is not None
    train = np.concatenate([first.student.student, first.student.unlabelled])
    assert abs(train.mean(axis=0)).max() < 1e-5
    assert first.paired_teacher is not None and len(first.paired_teacher) == 12
    sizes = [len(first.teacher.student), len(first.teacher.validation), len(train)]
    sizes += [len(first.student.validation), len(first.student.test)]
    assert sum(sizes) == 1797  # every sample is on exactly one side, in one part


def test_pairs_are_the_same_samples() -> None:
    """The two views of scikit-learn's digits: total ink is read off the projections too."""
    plain = {
        "teacher": {"dataset": "digits", "view": "pixels", "standardise": False},
        "student": {
            "dataset": "digits", "view": "pixels", "standardise": False, "labels_per_class": 4
        },
    }  # fmt: skip
    prepared = prepare(data_config(**plain, pairs=30), 0)
    assert np.array_equal(prepared.student.paired, prepared.paired_teacher)


def test_columns_are_chosen_by_variance() -> None:
    chosen = {"teacher": {"dataset": "digits", "view": "pixels", "columns": 9}}
    assert prepare(data_config(**chosen), 0).teacher.student.shape[1] == 9
    chosen["teacher"]["columns"] = 65
    with pytest.raises(ConfigError, match="columns must be at most 64"):
        prepare(data_config(**chosen), 0)


def test_two_data_sets_share_nothing() -> None:
    sides = {
        "teacher": {"dataset": "digits_pixels"},
        "student": {"dataset": "digits_shape", "labels_per_class": 20, "long_tail": 10},
    }
    prepared = prepare(from_mapping(DataConfig, sides), 0)
    assert sorted(np.bincount(prepared.student.student_label))[::9] == [2, 20]
    with pytest.raises(ConfigError, match="pairs must be 0"):
        prepare(from_mapping(DataConfig, {**sides, "pairs": 3}), 0)
    with pytest.raises(ConfigError, match="view must be null"):
        sides["teacher"] = {"dataset": "digits_pixels", "view": "pixels"}
        prepare(from_mapping(DataConfig, sides), 0)
    with pytest.raises(ConfigError, match="view must be given"):
        sides["teacher"] = {"dataset": "digits"}
        prepare(from_mapping(DataConfig, sides), 0)


def test_own_npz_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped npz recipe runs on two files with inputs of different shapes."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for name, shape in (("teacher", (8, 3)), ("student", (11,))):
        label = np.arange(120) % 3
        inputs = generator.normal(size=(120, *shape)) + label.reshape(-1, *[1] * len(shape))
        np.savez(f"{name}.npz", X=inputs, y=label)
    assert main(["distill", "npz_example", *QUICK]) == 0
    figures = json.loads(Path("runs/npz_example/metrics.json").read_text())
    assert figures["test"]["count"] == 36 and figures["teacher"]["accuracy"] > 0.5
