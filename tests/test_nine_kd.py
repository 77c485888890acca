"""The task of nine methods on one input: its problems, its learners, its controls."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pytest
import torch

from ucmkd.config import ConfigError
from ucmkd.data import Dataset
from ucmkd.data.base import DIGITS
from ucmkd.tasks import Case
from ucmkd.tasks.nine_kd import TASK, problem, task
from ucmkd.tasks.nine_kd.learners import METHODS
from ucmkd.tasks.nine_kd.problem import (
    CONDITIONS,
    Problem,
    accuracy,
    make_problem,
    renamed,
    train_teacher,
)
from ucmkd.tasks.nine_kd.task import NineKDSettings, problem_of, taught_by

pytestmark = pytest.mark.usefixtures("one_thread")
RATE = {"clean": 0.0, "noise": 0.2, "imbalance": 0.0}


@pytest.fixture(autouse=True)
def _made_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ten blobs in 8×8 images, in the place of the digits that need a download."""
    rng = np.random.default_rng(0)
    labels = np.arange(4000) % 10
    centres = rng.random((10, 64)) * 16
    inputs = np.clip(centres[labels] + 3 * rng.normal(size=(4000, 64)), 0, 16)
    ids = np.array([f"made-{k}" for k in range(4000)])
    found = Dataset("made up", inputs.astype(np.float32), labels.astype(np.int64), DIGITS, ids)
    monkeypatch.setattr(problem, "digits", lambda: found)
    for cached in (problem_of, taught_by):
        cached.cache_clear()
    yield
    for cached in (problem_of, taught_by):
        cached.cache_clear()


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
    learner = method.make(found, taught, 1e-3 * method.weight)
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


def test_a_placebo_has_other_names_and_the_same_features(
    ready: tuple[Problem, problem.Taught],
) -> None:
    found, taught = ready
    placebo = renamed(taught, 3)
    assert all(a is b for a, b in zip(placebo.said.maps, taught.said.maps, strict=True))
    assert placebo.said.features is taught.said.features
    names = placebo.net.names  # type: ignore[union-attr]
    assert sorted(names.tolist()) == list(range(10)) and names.tolist() != list(range(10))
    assert torch.equal(placebo.said.logits, taught.said.logits[:, names])
    some = found.images[:7]
    torch.testing.assert_close(placebo.net(some), placebo.said.logits[:7])
    assert accuracy(taught.net, found, found.test) > 0.5 + accuracy(placebo.net, found, found.test)


@pytest.mark.parametrize("method", METHODS)
def test_runs_with_every_control(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = task.train_teacher
    monkeypatch.setattr(
        task, "train_teacher", lambda p, seed, steps: (asked.append(steps), real(p, seed, steps))[1]
    )
    settings = NineKDSettings(factor=0.01, steps=2, teacher_steps=3)
    rows = {}
    for control in (None, *TASK.rows[method]):
        case = Case(method, settings, control, 4)
        TASK.prepare(case)
        outcome = TASK.run(case)
        rows[control] = outcome.test()
        assert outcome.validation is not None and 0 <= outcome.validation() <= 1
        assert (outcome.train_size, outcome.test_size) == (3000, 1000)
    assert sorted(asked) == ([0, 3] if "untrained" in rows else [3])  # each once
    told = METHODS[method].asks or method in ("dml", "one")
    assert all((row["source_accuracy"] is not None) == told for row in rows.values())
    assert {row["factor"] for row in rows.values()} == {None if method == "ce" else 0.01}


def test_settings_out_of_range_are_named() -> None:
    for options, message in (
        ({"condition": "dirty"}, "condition must be one of clean, noise, imbalance, got 'dirty'"),
        ({"factor": 0.0}, "factor must be a positive number, got 0.0"),
        ({"teacher_steps": 0}, "teacher_steps must be a positive integer"),
    ):
        with pytest.raises(ConfigError, match=message):
            NineKDSettings(**options)  # type: ignore[arg-type]
