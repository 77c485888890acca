"""``ucmkd distill`` in two processes: one student, one log; a lost process; another number of them.

The processes are forked with the environment that torchrun sets; one test uses torchrun itself.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning_fabric")
pytest.importorskip("sklearn")

import sklearn.datasets  # imported late otherwise, in every child
import torch
import torch.utils.tensorboard
from safetensors.torch import load_file

from ucmkd import processes, trainer
from ucmkd.config import ConfigError, HardwareConfig, Recipe, from_mapping
from ucmkd.distill import distill
from ucmkd.recipe_file import recipe_to_yaml

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def recipe(folder: Path, **training: Any) -> Recipe:
    settings = {
        "name": "processes",
        "out_dir": str(folder),
        "data": {
            "teacher": {"dataset": "digits", "view": "pixels"},
            "student": {"dataset": "digits", "view": "shape", "labels_per_class": 3},
        },
        "teacher": {"steps": 6, "hidden": 16, "width": 8},
        "student": {"hidden": 16, "width": 8},
        "method": {"name": "joint_alignment", "options": {"max_iter": 5}},
        "training": {
            "steps": 8, "batch_size": 8, "unlabelled_batch_size": 32, "teacher_batch_size": 8,
            "eval_every": 4, "log_every": 2, **training,
        },
        "hardware": {"accelerator": "cpu"},
    }  # fmt: skip
    return from_mapping(Recipe, settings)


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
    return number


def environment(rank: int, world: int, number: int) -> dict[str, str]:
    names = {
        "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world,
        "GROUP_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": number,
        "TORCHELASTIC_RUN_ID": "test", "GLOO_SOCKET_IFNAME": "lo", "UCMKD_TIMEOUT": 60,
    }  # fmt: skip
    return {name: str(value) for name, value in names.items()}


def start(
    chosen: Recipe, world: int, prepare: Callable[[int], None] = lambda rank: None
) -> list[int]:
    """Forks the processes; each writes how it ended into the run's folder."""
    number, children = port(), []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                torch.set_num_threads(1)
                os.environ.update(environment(rank, world, number))
                prepare(rank)
                distill(chosen, resume=True)
                status = 0
            except BaseException as error:
                text = f"{type(error).__name__}: {error}"
                Path(f"{chosen.run_dir}.{rank}.error").write_text(text)
            finally:
                os._exit(status)
        children.append(child)
    return children


def wait(child: int, seconds: float = 120.0) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail(f"the process still ran after {seconds:g} s")


def error_of(chosen: Recipe, rank: int) -> str:
    path = Path(f"{chosen.run_dir}.{rank}.error")
    return path.read_text() if path.exists() else ""


def steps_of(folder: Path) -> list[int]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [record["step"] for record in map(json.loads, lines) if "step" in record]


def test_two_processes_train_one_student(tmp_path: Path) -> None:
    """The same weights on both at every step, other than those of one; one log, one result."""
    weights = tmp_path / "weights"

    def record(rank: int) -> None:
        original = trainer._average_gradients

        def averaged(fabric: Any, parameters: Any) -> None:
            original(fabric, parameters)
            sums = [float(p.detach().double().sum()) for p in parameters]
            # Without a gradient on any process there is none afterwards.
            sums += [float(p.grad.double().sum()) for p in parameters if p.grad is not None]
            with open(f"{weights}.{rank}", "a") as file:
                file.write(json.dumps(sums) + "\n")

        trainer._average_gradients = averaged

    chosen = recipe(tmp_path / "two")
    assert [wait(child) for child in start(chosen, 2, record)] == [0, 0], error_of(chosen, 0)
    first, second = (Path(f"{weights}.{rank}").read_text() for rank in (0, 1))
    assert first == second and first.count("\n") >= 8
    assert steps_of(tmp_path / "two") == [2, 4, 6, 8]
    alone = recipe(tmp_path / "one")
    assert [wait(child) for child in start(alone, 1)] == [0]
    one, two = (load_file(tmp_path / name / "student.safetensors") for name in ("one", "two"))
    assert any(not torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("how", ["killed", "silent"])
def test_a_lost_process_ends_the_others(tmp_path: Path, how: str) -> None:
    """With a clear message, soon after a kill and after the timeout without an answer; and the
    run goes on from its checkpoint with one process, and with three."""

    def prepare(rank: int) -> None:
        os.environ["UCMKD_TIMEOUT"] = "3" if how == "silent" else "60"
        original = trainer._average_gradients

        def fails(fabric: Any, parameters: Any) -> None:
            if rank == 1 and (tmp_path / "run" / "checkpoint.pt").exists():
                if how == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(600)
            original(fabric, parameters)

        trainer._average_gradients = fails

    chosen = recipe(tmp_path / "run", steps=12, unlabelled_batch_size=300)
    first, second = start(chosen, 2, prepare)
    try:
        assert wait(first, 90) == 1
    finally:
        if how == "silent":
            os.kill(second, signal.SIGKILL)
    assert wait(second) == -signal.SIGKILL
    message = error_of(chosen, 0)
    assert message.startswith("ProcessLostError: process 0 of 2 stops: another process"), message
    limit = "3" if how == "silent" else "60"
    assert f"did not answer for {limit} s (UCMKD_TIMEOUT)" in message and "--resume" in message
    reached = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"]
    assert 0 < reached < 12
    world = 1 if how == "killed" else 3
    assert [wait(child) for child in start(chosen, world)] == [0] * world, error_of(chosen, 0)
    assert steps_of(tmp_path / "run") == [2, 4, 6, 8, 10, 12]
    left = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert left["step"] == 12 and len(left["ranks"]) == world


def test_torchrun(tmp_path: Path) -> None:
    """The command itself: one table for two processes."""
    chosen = recipe(tmp_path / "run", steps=4)
    (tmp_path / "recipe.yaml").write_text(recipe_to_yaml(chosen))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    done = subprocess.run(
        [*command, "2", "-m", "ucmkd", "distill", str(tmp_path / "recipe.yaml")],
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("student, test") == 1
    assert (tmp_path / "run" / "metrics.json").exists()


def test_what_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(0, 2, 1).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"devices is 3, and torchrun has started 2 processes"):
        processes.make_fabric(HardwareConfig(accelerator="cpu", devices=3))
    for machines, here in (("2", "2"), ("2", "1")):  # as either of the two machines sees it
        for name, value in (("WORLD_SIZE", "3"), ("LOCAL_WORLD_SIZE", here)):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("GROUP_WORLD_SIZE", machines)
        with pytest.raises(ConfigError, match=rf"3 processes on 2 machines, {here} of them on"):
            processes.started()
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert processes.started() == (2, 2)
    monkeypatch.delenv("GROUP_WORLD_SIZE")
    for text in ("soon", "0", "-1", "inf"):
        monkeypatch.setenv("UCMKD_TIMEOUT", text)
        with pytest.raises(ConfigError, match="UCMKD_TIMEOUT must be a positive number of seconds"):
            processes.timeout()
    monkeypatch.setenv("RANK", "1")
    assert not processes.is_first()
    for name in environment(0, 2, 1):
        monkeypatch.delenv(name, raising=False)
    assert processes.is_first() and processes.timeout().total_seconds() == 600
    assert processes.started() is None and sklearn.datasets is not None
