"""A mistake in a recipe costs seconds: one clear line, before any teacher is trained."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import ucmkd.distill
from ucmkd.checkpoint import Checkpointer, CheckpointError
from ucmkd.cli import EXTRAS, main
from ucmkd.distill import STATE_KEYS

QUICK = ["--teacher.steps", "20", "--training.steps", "6", "--training.eval-every", "3"]
QUICK += ["--teacher.hidden", "16", "--student.hidden", "16", "--hardware.accelerator", "cpu"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the teacher was trained before the mistake was found")

    monkeypatch.setattr(ucmkd.distill, "train_teacher", refuse)


def failure(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line of a user error."""
    capsys.readouterr()
    assert main(["distill", *words]) == 2
    error = capsys.readouterr().err
    (line,) = error.strip().splitlines()
    assert line.startswith("ucmkd: error: ") and "Traceback" not in error
    return line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method.options.weight", "abc"], "weight must be a finite number"),
        (["--method.options.ramp_steps", "null"], "ramp_steps must be an integer"),
        (["--method.name", "ce", "--method.options.label_smoothing", "x"], "label_smoothing"),
        (["--method.name", "ucmkd", "--method.options.inner_lr", "x"], "inner_lr must be"),
        (["--method.name", "ucmkd", "--method.options.sharp", ".nan"], "sharp must be true"),
        (["--method.options.max_iter", "1.5"], "max_iter must be an integer"),
        (["--method.name", "feature_kd", "--method.options.cost", "l3"], "cost must be one of"),
        (["--method.name", "vanilla_kd"], "data.pairs must be a count, or -1 for all"),
        (["--data.student.no-unlabelled"], "data.student.unlabelled must be true"),
        (["--student.factory", "ucmkd.models:MLP"], "student.factory 'ucmkd.models:MLP', called"),
        (["--teacher.factory", "ucmkd.models:MLP"], "teacher.factory 'ucmkd.models:MLP', called"),
        (["--student.factory", "absent:f"], "student.factory 'absent:f' cannot be imported"),
        (["--teacher.weights", "absent.safetensors"], "there is no file absent.safetensors"),
        (["--data.student.labels-per-class", "9999"], "data.student.labels_per_class must be at"),
        (["--data.test", "0.0001"], "data.test = 0.0001"),
        (["--data.student.columns", "9999"], "data.student.columns must be at most"),
    ],
)
def test_found_before_the_teacher_is_trained(
    words: list[str],
    message: str,
    folder: Path,
    no_training: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert message in failure(capsys, "digits_offline", *QUICK, *words)
    assert not (folder / "runs/digits_offline").exists()  # and nothing blocks the next attempt


def test_a_failed_recipe_does_not_lock_its_folder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["digits_offline", *QUICK, "--method.name", "ce", "--out-dir", "out"]
    failure(capsys, *words, "--data.student.labels-per-class", "9999")
    (folder / "out").mkdir()
    (folder / "out/recipe.yaml").write_text("name: killed_before_anything_was_trained\n")
    assert main(["distill", *words]) == 0
    assert "already holds a run" in failure(capsys, *words)


@pytest.mark.parametrize("out", ["file", "file/below", "/proc/foo"])
def test_folder_that_cannot_be_made(
    out: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if out.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("no /proc on this system")
    (folder / "file").write_text("x")
    line = failure(capsys, "digits_offline", *QUICK, "--out-dir", out)
    assert f"out_dir {out} cannot be made or written" in line
    assert main(["demo", "--out", out]) == 2
    assert f"--out {out} cannot be made or written" in capsys.readouterr().err


FACTORY = """
import math
import torch

def build(shape, num_classes):
    body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(math.prod(shape), 8))
    model = torch.nn.Module()
    model.encoder, model.head = body, torch.nn.Linear(8, num_classes)
    return model

def wrong(shape, num_classes):
    return build(shape, num_classes + 1)

def deaf(shape, num_classes):
    return build((3,), num_classes)
"""


def test_factory_in_the_current_folder(
    folder: Path, no_training: None, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # A console script has the folder of the script there, not the current one.
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(folder))])
    (folder / "my_factory_here.py").write_text(FACTORY)
    words = ["digits_offline", *QUICK, "--method.name", "ce"]
    path = list(sys.path)
    try:
        for function, message in (
            ("wrong", "must return features (n, 8) and logits (n, 10)"),
            ("deaf", "student: the model fails on inputs of shape (n, "),
        ):
            line = failure(capsys, *words, "--student.factory", f"my_factory_here:{function}")
            assert message in line
        assert main(["distill", *words, "--student.factory", "my_factory_here:build"]) == 0
    finally:
        sys.modules.pop("my_factory_here", None)
    assert sys.path == path


def test_default_recipe_names_the_key(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bare.yaml").write_text("name: bare\n")
    assert "data.teacher.view must be given for 'digits'" in failure(capsys, "bare.yaml")
    (folder / "bare.yaml").write_text("data: {teacher: {view: pixels}}\n")
    assert "data.student.view must be given for 'digits'" in failure(capsys, "bare.yaml")


def test_damaged_files_of_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["digits_offline", *QUICK, "--out-dir", "run", "--resume"]
    assert main(["distill", *words]) == 0
    run = folder / "run"
    figures = (run / "metrics.json").read_bytes()
    for content in (figures[:100], b"{}", b"[]"):
        (run / "metrics.json").write_bytes(content)
        line = failure(capsys, *words)
        assert "run/metrics.json is damaged" in line and "delete it" in line
    (run / "metrics.json").unlink()

    teacher = (run / "teacher.safetensors").read_bytes()
    (run / "teacher.safetensors").write_bytes(teacher[: len(teacher) // 2])
    line = failure(capsys, *words)
    assert "run/teacher.safetensors" in line and "delete it to train the teacher again" in line
    (run / "teacher.safetensors").unlink()

    state = torch.load(run / "checkpoint.pt", weights_only=True)
    assert set(STATE_KEYS) < set(state)
    torch.save({k: v for k, v in state.items() if k != "step"}, run / "checkpoint.pt")
    line = failure(capsys, *words)
    assert "checkpoint run/checkpoint.pt has no 'step'" in line and "delete it" in line
    torch.save(state, run / "checkpoint.pt")
    assert main(["distill", *words]) == 0  # the advice was right
    assert json.loads((run / "metrics.json").read_bytes()) == json.loads(figures)


def test_checkpoint_without_a_required_key(tmp_path: Path) -> None:
    checkpoints = Checkpointer(tmp_path)
    checkpoints.save({"step": 3})
    assert checkpoints.load(["step"]) is not None
    with pytest.raises(CheckpointError, match=r"has no 'best', 'seconds'; there is no older one"):
        checkpoints.load(["step", "best", "seconds"])


@pytest.mark.parametrize(
    ("module", "package"), [("statistics", "scipy"), ("metrics", "torchmetrics")]
)
def test_modules_that_need_the_extra_say_so(module: str, package: str) -> None:
    code = (
        f"import sys; sys.modules['{package}'] = None\n"
        f"try:\n    import ucmkd.{module}\nexcept ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == (
        f"ucmkd.{module} needs {package}: install it with pip install 'ucmkd[train]'"
    ), done.stderr
    assert {"scikit-learn", "scipy", "matplotlib", "tensorboard"} <= set(EXTRAS.values())


def test_two_files_of_one_name(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("teacher", "student"):
        (folder / name).mkdir()
        label = np.arange(120) % 3
        np.savez(folder / name / "data.npz", X=generator.normal(size=(120, 4)), y=label)
    words = ["npz_example", *QUICK, "--method.name", "ce", "--data.teacher.dataset"]
    words += ["teacher/data.npz", "--data.student.dataset"]
    assert main(["distill", *words, "student/data.npz"]) == 0
    # The same file by another way is the same samples.
    assert main(["distill", *words, "./teacher/data.npz"]) == 2
