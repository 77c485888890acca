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
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning_fabric")
pytest.importorskip("sklearn")

import sklearn.datasets  # imported late otherwise, in every child
import torch
import torch.utils.tensorboard
from lightning_fabric import Fabric
from safetensors.torch import load_file

from distributed_common import run_ranks
from ucmkd import distill as distill_module
from ucmkd import processes, trainer
from ucmkd.checkpoint import Checkpointer
from ucmkd.config import (
    ConfigError,
    HardwareConfig,
    OptimizerConfig,
    Recipe,
    TrainingConfig,
    from_mapping,
)
from ucmkd.config_data import StreamConfig
from ucmkd.distill import distill
from ucmkd.methods import Method
from ucmkd.models import MLP
from ucmkd.pools import StreamSampler
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


def test_an_untrained_teacher_does_not_lock(tmp_path: Path) -> None:
    """The first process saves it at once; the second, late, still takes the way of the first."""

    def late(rank: int) -> None:
        original = distill_module.build_teacher

        def slow(*given: Any, **options: Any) -> Any:
            if rank == 1:  # the other one would have saved its teacher by now
                time.sleep(2)
            return original(*given, **options)

        distill_module.build_teacher = slow

    chosen = recipe(tmp_path / "run", steps=2)
    chosen = replace(chosen, teacher=replace(chosen.teacher, kind="untrained"))
    assert [wait(child) for child in start(chosen, 2, late)] == [0, 0], error_of(chosen, 1)
    assert steps_of(tmp_path / "run") == [2]


class _OfThisProcess(Method):
    """Cross-entropy; a buffer that counts what each process sees, and two more parameters: one that
    only the second process uses, one that nobody does."""

    name = "of_this_process"

    def __init__(self, student: Any, **options: Any) -> None:
        super().__init__(student, **options)
        self.register_buffer("seen", torch.zeros(()))
        self.second = torch.nn.Parameter(torch.ones(3))
        self.nobody = torch.nn.Parameter(torch.ones(3))

    def terms(self, batch: Any, step: int) -> dict[str, torch.Tensor]:
        first = os.environ.get("RANK", "0") == "0"
        self.seen += 1 if first else 10
        loss = self.cross_entropy(self.student(batch.student), batch.student_label)
        return {"ce": loss if first else loss + self.second.sum()}


def _fit_of_this_process(rank: int, world: int) -> dict[str, Any]:
    """Eight steps with a large decay, validations after 3, 6 and 8, saves after 4 and 8."""
    os.environ["RANK"] = str(rank)
    source = torch.Generator().manual_seed(0)
    data = trainer.TrainingData(
        2, torch.randn(20, 3, generator=source), torch.arange(20) % 2,
        torch.randn(6, 3, generator=source), torch.arange(6) % 2,
    )  # fmt: skip
    torch.manual_seed(rank)
    method = _OfThisProcess(MLP(3, num_classes=2, hidden=4, width=4), num_classes=2)
    saved: list[float] = []
    held: list[float] = []
    original = trainer._from_all

    def at_a_save(fabric: Any, own: Any) -> Any:
        held.append(float(method.seen))
        return original(fabric, own)

    trainer._from_all = at_a_save
    trainer.fit(
        method, data,
        TrainingConfig(steps=8, batch_size=10, eval_every=3, log_every=4, diagnose_every=0),
        OptimizerConfig(lr=0.1, weight_decay=0.5),
        fabric=_Joined(rank, world),
        save=lambda state: saved.append(float(state["method"]["seen"])),
    )  # fmt: skip
    own = {name: value.detach().clone() for name, value in method.named_parameters()}
    return {"saved": saved, "held": held, "own": own}


class _Joined(Fabric):
    """A process of those that have met already."""

    def __init__(self, rank: int, world: int) -> None:
        super().__init__(accelerator="cpu", devices=1)
        self._place = rank, world

    @property
    def global_rank(self) -> int:
        return self._place[0]

    @property
    def world_size(self) -> int:
        return self._place[1]

    @property
    def is_global_zero(self) -> bool:
        return self._place[0] == 0


def test_buffers_and_unused_parameters(tmp_path: Path) -> None:
    """At a save every process has the buffers of the first; a parameter without a gradient on any
    is not even decayed, one with a gradient on one of them moves on all."""
    first, second = run_ranks(tmp_path, 2, _fit_of_this_process)
    assert first["saved"] == first["held"] == second["held"] == [4.0, 8.0]
    assert not second["saved"]
    for name, value in first["own"].items():
        assert torch.equal(value, second["own"][name]), name
    assert torch.equal(first["own"]["nobody"], torch.ones(3))
    assert (first["own"]["second"] < 0.9).all()


def test_two_processes_divide_the_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams of two processes: an equal student, from samples of which none comes on both within
    a pass; and one process goes on where two were interrupted."""
    pytest.importorskip("torchdata")
    monkeypatch.setenv("UCMKD_CACHE", str(tmp_path / "cache"))

    def record(rank: int) -> None:
        original = StreamSampler.__next__

        def drawn(sampler: StreamSampler) -> Any:
            rows = original(sampler)
            with open(tmp_path / f"places.{rank}", "a") as file:
                file.write(json.dumps([sampler.stream.name, rows["place"].tolist()]) + "\n")
            return rows

        StreamSampler.__next__ = drawn  # type: ignore[method-assign]
        save = Checkpointer.save

        def stopped(self: Checkpointer, state: dict[str, Any]) -> None:
            save(self, state)
            raise KeyboardInterrupt

        Checkpointer.save = stopped  # type: ignore[method-assign]

    chosen = recipe(tmp_path / "run", steps=12, unlabelled_batch_size=20, diagnose_every=0)
    student = replace(chosen.data.student, max_unlabelled=160)
    stream = StreamConfig(write=True, buffer=20, shard_size=10)
    chosen = replace(chosen, data=replace(chosen.data, student=student, stream=stream))
    first, second = start(chosen, 2, record)
    assert (wait(first), wait(second)) == (1, 1)
    assert error_of(chosen, 0).startswith("KeyboardInterrupt")
    places = []
    for rank in range(2):
        lines = map(json.loads, (tmp_path / f"places.{rank}").read_text().splitlines())
        drawn = [tuple(p) for name, rows in lines if name == "unlabelled" for p in rows]
        assert len(drawn) >= 80
        places.append(set(drawn[:80]))  # a pass of 160 samples
    assert len(places[0] | places[1]) == 160
    reached = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"]
    assert reached == 8
    assert [wait(child) for child in start(chosen, 1)] == [0], error_of(chosen, 0)
    assert steps_of(tmp_path / "run") == [2, 4, 6, 8, 10, 12]


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
