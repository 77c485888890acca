"""The GPU benchmark without a GPU: its problems, its rules, its tables, and a dry run of it all."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from benches import problems_mmd, problems_sets
from benches.contestants.ours import NAME
from benches.gpu import cases, clock, problems, run, table, training
from benches.gpu.contestants import BY_HAND, MMD_BY_HAND, count_of
from benches.problems import Solution
from benches.timing import Answer, Contestant, Ready

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[1]


def test_the_float64_solutions_agree_with_those_in_numpy() -> None:
    ours = problems.Transport(problems.Shape(3, 32, 128), CPU)
    batch = problems_sets.Batch(3, 32)
    assert ours.epsilon == pytest.approx(batch.epsilon)
    assert ours.solution is not None
    np.testing.assert_allclose(ours.solution.value, batch.converged.value, rtol=1e-12)
    np.testing.assert_allclose(ours.solution.gradient, batch.converged.gradient, atol=1e-9)
    mmd, other = (
        problems.Discrepancy(problems.Shape(1, 32, 128), CPU),
        problems_mmd.Discrepancy(32, problems.SCALES),
    )
    assert mmd.sigma == pytest.approx(other.sigma)
    np.testing.assert_allclose(mmd.solution.value, other.solution.value, rtol=1e-10)
    np.testing.assert_allclose(mmd.solution.gradient, other.solution.gradient, atol=1e-15)


def test_the_count_of_iterations_reaches_the_residual() -> None:
    problem = problems.Transport(problems.Shape(2, 24, 8), CPU)
    x, y = problem.doubles()
    cost, count, eps = problems.square_distances(x, y), count_of(problem), problem.epsilon
    g, violations = torch.zeros(2, 24, dtype=torch.float64), []
    for _ in range(count):
        f = eps * (math.log(24) - ((g[:, None] - cost) / eps).logsumexp(-1))
        g = eps * (math.log(24) - ((f[..., None] - cost) / eps).logsumexp(-2))
        # The columns are exact, and it is the mean of both sides.
        violations.append(2 * problem.violation(f, g))
    assert violations[-1] <= 1e-3 < violations[-2]


def test_a_size_without_a_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems, "LARGEST", 0.0)
    problem = problems.Transport(problems.Shape(1, 8, 4), CPU)
    assert problem.solution is None
    with pytest.raises(ValueError, match="not known at this size"):
        count_of(problem)


EXACT = Solution(1.0, np.ones((2, 2)))


def contestant(name: str, run: Any, value: float = 1.0, reference: Any = EXACT) -> Contestant:
    return Contestant(
        name, (), lambda _: Ready(run, lambda _: Answer(value, np.full((2, 2), value)), reference)
    )


def failing() -> None:
    raise RuntimeError("out of luck")


def test_the_race() -> None:
    runners = [
        contestant("slow", lambda: time.sleep(4e-3)),
        contestant("fast", lambda: time.sleep(1e-3)),
        contestant("wrong", lambda: None, 1.1),
        contestant("nan", lambda: None, float("nan")),
        contestant("unknown", lambda: None, reference=None),
        contestant("failing", failing),
        Contestant("missing", ("no_such_module",), lambda _: None),  # type: ignore[arg-type, return-value]
    ]
    rows = {
        row.name: row
        for row in clock.race(runners, None, clock.Clock(CPU), bounds=(1e-3, 1e-3), seconds=0.0)
    }
    assert rows["fast"].accurate and rows["slow"].accurate
    assert rows["fast"].median < rows["slow"].median  # type: ignore[operator]
    assert rows["fast"].rounds == clock.FEWEST
    assert not rows["wrong"].accurate and rows["wrong"].status == "outside the bounds"
    assert not rows["nan"].accurate and rows["nan"].median is not None
    assert rows["unknown"].status == "not checked: no float64 reference; finite"
    assert rows["failing"].status == "error: RuntimeError: out of luck"
    assert rows["failing"].median is None and rows["missing"].status.startswith("missing: ")


def test_a_slow_contestant_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "CAP", 1e-3)
    (row,) = clock.race(
        [contestant("slow", lambda: time.sleep(5e-3))], None, clock.Clock(CPU), bounds=(1, 1),
        seconds=1.0,
    )  # fmt: skip
    assert row.rounds == 1 and row.median == row.low == row.high


def row(name: str, median: float | None, accurate: bool = True) -> dict[str, Any]:
    made = clock.Row(name, median=median, low=median, high=median, rounds=3, accurate=accurate)
    return dataclasses.asdict(made)


def case(*rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    model = {"gpu": "H200", "from": "9 iterations", "seconds": 0.6e-3, "by": "MMA"}
    made = {
        "title": "T", "target": 3.0, "against": {"flash": 10.0}, "share": 0.5, "error": "",
        "model": model,
    }  # fmt: skip
    return {**made, "rows": list(rows), **changes}


def test_verdicts() -> None:
    rows = (
        row(NAME, 1e-3), row(f"{NAME}, CUDA graph", 1e-4), row("flash, tuned", 4e-3),
        row("inaccurate", 1e-3, accurate=False), row("failed", None, accurate=False),
    )  # fmt: skip
    assert table.verdicts(case(*rows)) == [
        (">= 3 x the fastest", "4.00 (flash, tuned)", "met"),
        (">= 10 x flash", "4.00 (flash, tuned)", "not met"),
        (">= 50 % of the roofline", "60 %", "met"),
    ]


@pytest.mark.parametrize("ours", [row(NAME, 1e-3, accurate=False), row(NAME, None)])
def test_no_figure_without_an_accurate_time_of_ours(ours: dict[str, Any]) -> None:
    found = table.verdicts(case(ours, row("flash, tuned", 4e-3)))
    assert [verdict for _, _, verdict in found] == ["no figure"] * 3
    assert all(shown == "-" for _, shown, _ in found)


def test_the_table_of_cases() -> None:
    every = cases.every()
    keys = {one.key for one in every}
    assert len(keys) == len(every)
    small = {
        f"sinkhorn/{b}x{n}/{d}" for b in (1, 8, 32) for n in (64, 256, 1024) for d in (128, 512)
    }
    large = {f"sinkhorn/1x{n}/{d}" for n in (8192, 32768) for d in (64, 128)}
    rest = {"sinkhorn/1x4096/128", "sinkhorn/1x65536/64", "mmd/1024/128", "mmd/8192/128"}
    assert keys == small | large | rest
    for one in every:
        assert one.contestants[0].name == NAME
        flash = [c for c in one.contestants if c.name.startswith("flash-sinkhorn")]
        assert bool(flash) == (one.operator == "sinkhorn" and one.shape.n <= 32768)
        assert bool(one.against) == (one.operator == "mmd" or one.shape.batch == 32)
    assert BY_HAND in every[0].contestants and MMD_BY_HAND in every[11].contestants


def test_only_the_same_run_is_taken_up_again(tmp_path: Path) -> None:
    about = {"hardware": {"device": "A"}, "versions": {"torch": "1"}, "flush": False}
    where = tmp_path / "run.json"
    assert run.start(where, False, about)["cases"] == {}
    where.write_text(json.dumps({**run.start(where, False, about), "cases": {"k": {}}}))
    assert run.start(where, False, about)["cases"] == {"k": {}}
    assert run.start(where, True, about)["cases"] == {}
    assert run.start(where, False, {**about, "flush": True})["cases"] == {}


def test_the_model_of_a_case() -> None:
    one = next(c for c in cases.every() if c.key == "sinkhorn/1x8192/128")
    rows = [{"name": NAME, "iterations": 10}]
    model = run.model(one, rows, "NVIDIA H200")
    assert model is not None and model["gpu"] == "H200" and model["from"] == "10 iterations"
    twice = run.model(one, [{"name": NAME, "iterations": 20}], "NVIDIA H200")
    assert twice is not None and 1.5 < twice["seconds"] / model["seconds"] < 2.1
    assert run.model(one, rows, "GeForce") is None
    assert run.model(one, [{"name": NAME, "iterations": None}], "NVIDIA H200") is None


def test_resnet18_is_the_published_one() -> None:
    """11,689,512 parameters and 512 features (He et al. 2016, table 1)."""
    net = training.ResNet18()
    assert sum(p.numel() for p in net.parameters()) == 11_689_512
    features, logits = training.ResNet18(width=2).eval()(torch.zeros(1, 3, 64, 64))
    assert features.shape == (1, 16) and logits.shape == (1, 1000)
    shapes = []
    for block in net.blocks:
        block.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    net.eval()(torch.zeros(1, 3, 224, 224))
    assert shapes[1::2] == [(64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]


def dry_run(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benches.gpu.run", "--dry-run", "--seconds", "0", "--out", folder],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip


def test_a_dry_run_and_its_continuation(tmp_path: Path) -> None:
    done = dry_run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    where = tmp_path / "gpu-bench-dry-run.json"
    data = json.loads(where.read_text())
    assert data["failed"] == "" and data["left"] == []
    assert data["backend"]["available"] and "interpreter" in data["backend"]["detail"]
    keys = [one.key for one in cases.tiny()]
    assert list(data["cases"]) == keys
    for one in data["cases"].values():
        found = {r["name"]: r for r in one["rows"]}
        assert one["error"] == ""
        for name in (NAME, "torch by hand"):
            assert found[name]["accurate"] and found[name]["median"] > 0, found[name]
    assert set(data["training"]["share"]) < set(data["training"]["seconds"])
    text = (tmp_path / "gpu-bench-dry-run.md").read_text()
    assert "say nothing about any GPU" in text and "ResNet-18" in text and text in done.stdout
    # Interrupted before the last case: the others are kept, and it is measured again.
    data["cases"][keys[0]]["title"] = "kept"
    del data["cases"][keys[-1]]
    where.write_text(json.dumps(data))
    again = dry_run(tmp_path)
    assert again.returncode == 0
    assert keys[-1] in again.stderr.split() and keys[0] not in again.stderr.split()
    after = json.loads(where.read_text())["cases"]
    assert list(after) == keys and after[keys[0]]["title"] == "kept"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run.main(["--out", str(tmp_path)]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
