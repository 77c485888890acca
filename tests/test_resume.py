"""A distillation killed at any moment and resumed ends with the figures of one that was not.

The driver below runs in a fresh interpreter and forks one process per attempt, so that the
imports are paid once; each attempt is killed with SIGKILL.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ucmkd.config import Recipe, from_mapping
from ucmkd.runlog import RunLog, lines_up_to

DRIVER = r"""
import json, os, random, signal, sys, time
import torch

torch.set_num_threads(1)  # before any thread pool exists: the children are forked
import sklearn.datasets
import torch.utils.tensorboard  # noqa: both are imported late otherwise, in every child

from ucmkd.config import Recipe, from_mapping
from ucmkd.distill import distill

real = {name: getattr(os, name) for name in ("replace", "fsync")}
real_save = torch.save


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_call(number):
    # Every rename and every flush to the disk is a moment between two states of the folder.
    calls = [0]

    def counted(name):
        def call(*arguments, **keywords):
            calls[0] += 1
            if calls[0] == number:
                die()
            return real[name](*arguments, **keywords)
        return call

    for name in real:
        setattr(os, name, counted(name))


def die_within_save(number):
    calls = [0]

    def save(state, stream):
        import io
        calls[0] += 1
        whole = io.BytesIO()
        real_save(state, whole)
        if calls[0] == number:
            stream.write(whole.getvalue()[: len(whole.getvalue()) // 2])
            stream.flush()
            die()
        stream.write(whole.getvalue())

    torch.save = save


def attempt(recipe, prepare=lambda: None, kill_after=None):
    child = os.fork()
    if child == 0:
        try:
            prepare()
            distill(recipe, resume=True)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(mode):
    recipe = from_mapping(Recipe, json.loads(sys.argv[1]) | {"out_dir": f"{sys.argv[2]}/{mode}"})
    started, killed = time.monotonic(), 0
    if mode == "points":
        for number in range(1, 14):
            killed += attempt(recipe, lambda: die_at_call(number)) == -signal.SIGKILL
        for number in (1, 2):
            killed += attempt(recipe, lambda: die_within_save(number)) == -signal.SIGKILL
    elif mode == "random":
        generator = random.Random(1)
        for _ in range(6):
            wait = generator.uniform(0.02, 0.5) * reports["straight"]["seconds"]
            killed += attempt(recipe, kill_after=wait) == -signal.SIGKILL
    code = attempt(recipe)
    return {"code": code, "killed": killed, "seconds": time.monotonic() - started}


reports = {}
for mode in ("straight", "points", "random"):
    reports[mode] = run(mode)
print(json.dumps(reports))
"""


def settings(folder: Path) -> dict:
    return {
        "name": "resume",
        "out_dir": str(folder),
        "data": {
            "teacher": {"dataset": "digits", "view": "pixels"},
            "student": {"dataset": "digits", "view": "shape", "labels_per_class": 3},
            "pairs": 15,
        },
        "teacher": {"steps": 20, "hidden": 16, "width": 8},
        "student": {"hidden": 16, "width": 8, "dropout": 0.3},
        "method": {"name": "joint_alignment", "options": {"max_iter": 10}},
        "training": {
            "steps": 48,
            "batch_size": 8,
            "unlabelled_batch_size": 64,
            "teacher_batch_size": 8,
            "pair_batch_size": 4,
            "eval_every": 4,
            "log_every": 3,
        },
        "hardware": {"accelerator": "cpu"},
    }


def log_of(folder: Path) -> list[dict]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork and SIGKILL")
def test_killed_runs_end_like_the_uninterrupted_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DRIVER, json.dumps(settings(tmp_path)), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    reports = json.loads(done.stdout.splitlines()[-1])
    assert {report["code"] for report in reports.values()} == {0}, done.stderr
    # "points": within checkpoint writing, at each flush and rename, and halfway through the file.
    assert reports["points"]["killed"] >= 8
    assert reports["random"]["killed"] >= 3

    straight = tmp_path / "straight"
    records = log_of(straight)
    assert [r["step"] for r in records] == sorted({*range(3, 49, 3), *range(4, 49, 4)})
    for folder in (tmp_path / "points", tmp_path / "random"):
        assert log_of(folder) == records
        for name in ("metrics.json", "student.safetensors", "teacher.safetensors"):
            assert (folder / name).read_bytes() == (straight / name).read_bytes(), name


def test_log_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    log = RunLog(tmp_path, tensorboard=False)
    for step in (2, 4, 6):
        log({"step": step, "loss": {"ce": float("nan")}})
    log.close()
    with open(log.path, "a") as stream:
        stream.write('{"step": 8, "lo')  # the kill came here
    log = RunLog(tmp_path, resume_step=4, tensorboard=False)
    log({"step": 6, "loss": {"ce": 1.0}})
    log.close()
    found = [json.loads(line) for line in lines_up_to(log.path, 100)]
    assert [record["step"] for record in found] == [2, 4, 6]
    assert found[0]["loss"]["ce"] is None and found[2]["loss"]["ce"] == 1.0
    RunLog(tmp_path, resume_step=0, tensorboard=False).close()
    assert log.path.read_text() == ""


def test_recipe_of_the_test_is_a_recipe(tmp_path: Path) -> None:
    """The driver builds it in another process; a mistake in it should fail here, readably."""
    assert from_mapping(Recipe, settings(tmp_path)).run_dir == tmp_path
