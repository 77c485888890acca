"""The study of nine methods on one input: its problems, its learners, its files."""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from benches.nine_kd import problem, study
from benches.nine_kd.__main__ import OUT, main
from benches.nine_kd.learners import METHODS
from benches.nine_kd.problem import CONDITIONS, Problem, make_problem, train_teacher
from benches.nine_kd.report import draw, lines, markdown

from ucmkd.data import Dataset
from ucmkd.data.base import DIGITS

pytestmark = pytest.mark.usefixtures("one_thread")
RATE = {"clean": 0.0, "noise": 0.2, "imbalance": 0.0}


@pytest.fixture(autouse=True)
def _made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten blobs in 8×8 images, in the place of the digits that need a download."""
    rng = np.random.default_rng(0)
    labels = np.arange(4000) % 10
    centres = rng.random((10, 64)) * 16
    inputs = np.clip(centres[labels] + 3 * rng.normal(size=(4000, 64)), 0, 16)
    ids = np.array([f"made-{k}" for k in range(4000)])
    found = Dataset("made up", inputs.astype(np.float32), labels.astype(np.int64), DIGITS, ids)
    monkeypatch.setattr(problem, "digits", lambda: found)
    study._prepared.cache_clear()


@pytest.mark.parametrize("condition", CONDITIONS)
def test_conditions_spoil_the_training_alone(condition: str) -> None:
    found = make_problem(condition, 3)
    parts = found.train, found.validation, found.test
    assert len(set(torch.cat(parts).tolist())) == sum(map(len, parts))
    wrong = found.labels != found.truth
    assert not wrong[found.validation].any() and not wrong[found.test].any()
    assert wrong[found.train].float().mean().item() == pytest.approx(RATE[condition], abs=1e-3)
    count = found.truth[found.train].bincount(minlength=10).sort(descending=True).values
    expected = (200, 10) if condition == "imbalance" else (100, 100)
    assert (count[0].item(), count[-1].item()) == expected
    assert found.images.shape[1:] == (1, 8, 8) and 0 <= found.images.min() <= 1
    with pytest.raises(ValueError, match="condition must be one of clean, noise, imbalance"):
        make_problem("dirty", 0)


@lru_cache(maxsize=1)
def _trained() -> tuple[Problem, problem.Taught]:
    found = make_problem("clean", 0)
    return found, train_teacher(found, 0, 40)


@pytest.fixture
def ready() -> tuple[Problem, problem.Taught]:
    return _trained()


@pytest.mark.parametrize("name", METHODS)
def test_learners_start_alike_and_learn(name: str, ready: tuple[Problem, problem.Taught]) -> None:
    found, taught = ready
    before = {k: v.clone() for k, v in taught.net.state_dict().items()}
    method, rows = METHODS[name], found.train[:64]
    torch.manual_seed(7)
    learner = method.make(found, taught, method.factors[0] * method.weight)
    torch.manual_seed(7)
    alone = problem.make_student()(found.images[:5])
    with torch.no_grad():
        torch.testing.assert_close(learner.deployed(found.images[:5]), alone)
    adam = torch.optim.Adam([p for m in learner.trained for p in m.parameters()], 1e-2)
    values = []
    for step in range(15):
        loss = learner.loss(rows, step / 15)
        adam.zero_grad()
        loss.backward()
        adam.step()
        values.append(loss.item())
    assert values[-1] < values[0]
    changed = [p for p in learner.deployed.parameters() if p.grad is not None and p.grad.any()]
    assert len(changed) == len(list(learner.deployed.parameters()))
    for key, value in taught.net.state_dict().items():
        assert torch.equal(value, before[key])


def test_command_goes_on_and_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "TEACHER_STEPS", 2)
    fast = {"ce": METHODS["ce"], "hinton": METHODS["hinton"], "one": METHODS["one"]}
    for module in ("study", "report"):
        monkeypatch.setattr(f"benches.nine_kd.{module}.METHODS", fast)
    command = ["--out", str(tmp_path), "--seeds", "2", "--steps", "2"]
    assert main(command) == 0
    path = tmp_path / "scores.csv"
    whole = path.read_text()
    assert len(whole.splitlines()) == 1 + 2 * 3 + 2 * 3 * 3
    # A kill in the middle of the last line.
    path.write_text(whole[: whole.rindex(",")])
    capsys.readouterr()
    assert main(command) == 0
    out = capsys.readouterr().out
    assert out.startswith("1/1  final | imbalance | one")
    again, before = (list(csv.DictReader(t.splitlines())) for t in (path.read_text(), whole))
    assert [{**r, "seconds": ""} for r in again] == [{**r, "seconds": ""} for r in before]
    assert "| Hinton |" in out and (tmp_path / "gains.png").read_bytes().startswith(b"\x89PNG")
    assert main(["--out", str(tmp_path), "--seeds", "1"]) == 2
    assert "--seeds must lie in 2..10, got 1" in capsys.readouterr().err
    assert main(["--out", str(tmp_path), "--steps", "0"]) == 2


def test_choice_and_tests_by_hand() -> None:
    def row(part: str, method: str, factor: float, seed: int, score: float) -> study.Row:
        run = study.Run(part, "clean", method, factor, seed, 9)
        return {**dict(zip(study.KEY, run.key, strict=True)), "validation": str(score),
                "test": str(score), "source_test": "", "train_size": "300", "test_size": "100",
                "seconds": "1"}  # fmt: skip

    tuning = [
        row("tuning", name, factor, 100, 90 + k * (name == "rkd"))
        for name, method in METHODS.items()
        for k, factor in enumerate(method.factors)
    ]
    chosen = study.chosen(tuning, 9)
    assert chosen["rkd"] == METHODS["rkd"].factors[-1]  # the best
    assert chosen["sp"] == METHODS["sp"].factors[0]  # the smallest of equal ones
    with pytest.raises(ValueError, match=r"smoothing: factor 0\.3 has not"):
        study.chosen([], 9)
    final = [
        row("final", name, 1.0, seed, 80 + seed + (seed + 1) * (name == "at"))
        for name in METHODS for seed in range(3)
    ]  # fmt: skip
    final.append(row("final", "ce", 1.0, 3, 0.0))  # a seed that is not whole
    found = {line.method: line for line in lines(final, 9)}
    assert found["ce"].seeds == 3 and found["ce"].gain is None and found["ce"].mean == 81
    at = found["at"].gain
    assert at is not None and at.mean == 2 and at.wins == 3
    # Gains 1, 2, 3: s² = 1, t = 2/√(1/3 + 100/300).
    assert at.statistic == pytest.approx(2 / np.sqrt(2 / 3))
    assert found["at"].p_value == pytest.approx(min(1, 10 * at.p_value))


def test_committed_results() -> None:
    """Whole seeds of every method; the table is that of the scores."""
    rows = study.read(OUT / "scores.csv")
    found = lines(rows)
    assert {(line.condition, line.method) for line in found} == {
        (c, m) for c in CONDITIONS for m in METHODS
    }
    assert min(line.seeds for line in found) >= 5
    assert (OUT / "table.md").read_text(encoding="utf-8") == markdown(found)
    chosen = study.chosen(rows)
    assert all(line.factor == chosen[line.method] for line in found)


def test_figure_of_what_is_there(tmp_path: Path) -> None:
    found = lines(study.read(OUT / "scores.csv"))
    draw([line for line in found if line.condition == "noise"], tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 4000
