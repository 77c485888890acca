"""The demo: splits that leak nothing, results that resume, a program that says what it did."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from ucmkd.data import Dataset, FetchError
from ucmkd.demo import app, experiment, runner
from ucmkd.demo.experiment import ALL_PAIRS, FIXED, Experiment, Row
from ucmkd.demo.problems import Problem, load_problem, make_split
from ucmkd.demo.scenes import CE, JOINT, with_pairs
from ucmkd.demo.store import Store, result_key
from ucmkd.methods.self_labelling_with_pairs import SelfLabellingWithPairs

CLASSES = ("a", "b", "c")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only lose by a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def numbered(n: int = 300) -> Problem:
    """Both modalities hold the sample's number, so that every row can be recognised."""
    labels = np.arange(n) % 3
    ids = np.array([f"s{k}" for k in range(n)])
    number = np.arange(n, dtype=np.float32)
    noise = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    teacher = np.column_stack((number, noise[:, 0], np.full(n, 7.0))).astype(np.float32)
    student = np.column_stack((number, noise[:, 1])).astype(np.float32)
    return Problem(
        key="numbered",
        title="numbered",
        teacher=Dataset("t", teacher, labels, CLASSES, ids),
        student=Dataset("s", student, labels, CLASSES, ids),
        shared=True,
        labels_per_class=4,
        columns=2,
    )


def numbers_of(inputs: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """The sample numbers behind standardised inputs."""
    return np.rint(inputs[:, 0] * scale[1] + scale[0]).astype(int)


def test_split_keeps_the_sides_apart_and_the_pairs_together() -> None:
    problem = numbered()
    split = make_split(problem, 3)
    # Recover mean and scale of both sides from the two ways they standardise the pairs' numbers.
    assert split.paired is not None
    train = np.concatenate((split.labelled[0], split.unlabelled[0]))
    assert train.mean(axis=0) == pytest.approx(0.0, abs=1e-5)
    assert train.std(axis=0) == pytest.approx(1.0, abs=1e-5)
    assert split.teacher[0].mean(axis=0) == pytest.approx(0.0, abs=1e-5)
    # The constant column has no variance and is the one dropped.
    assert split.teacher[0].shape[1] == 2
    ratio = np.polyfit(split.unlabelled[0][:, 0], split.paired[:, 0], 1, full=True)
    assert ratio[1][0] < 1e-6  # one straight line: row i is the same sample on both sides

    everything = sum(
        len(part[1])
        for part in (split.teacher, split.teacher_validation, split.labelled, split.unlabelled,
                     split.validation, split.test)
    )  # fmt: skip
    assert everything == 300 and split.train_size == 300 - split.test_size
    assert np.bincount(split.labelled[1]).tolist() == [4, 4, 4]


def test_no_student_sample_is_a_teacher_sample() -> None:
    problem = numbered()
    split = make_split(problem, 0)
    parts = ("labelled", "unlabelled", "validation", "test")
    student = np.concatenate([getattr(split, name)[0] for name in parts])
    teacher = np.concatenate((split.teacher[0], split.teacher_validation[0]))
    # The student's standardised column 1 and the teacher's column 1 are different noise, so
    # identity is read from the number alone, on a common scale.
    assert split.paired is not None
    slope, shift = np.polyfit(split.paired[:, 0], split.unlabelled[0][:, 0], 1)
    on_student_scale = slope * teacher[:, 0] + shift
    gap = np.abs(on_student_scale[:, None] - student[None, :, 0])
    step = np.diff(np.sort(np.concatenate((on_student_scale, student[:, 0])))).min()
    assert step > 0 and gap.min() >= 0.5 * step
    assert len(np.unique(np.round(student[:, 0] / step))) == len(student)


def test_splits_are_reproducible_and_differ() -> None:
    problem = load_problem("digits-tail")
    first, again, other = make_split(problem, 0), make_split(problem, 0), make_split(problem, 1)
    assert np.array_equal(first.test[0], again.test[0])
    assert not np.array_equal(first.labelled[1], other.labelled[1])
    counts = np.sort(np.bincount(first.labelled[1], minlength=10))[::-1]
    assert counts.tolist() == [50, 32, 21, 14, 9, 6, 4, 2, 2, 1]
    assert first.paired is None


def test_experiment_hides_the_labels_and_tests_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    real = experiment.fit

    def spy(method: Any, data: Any, *args: Any, **kwargs: Any) -> Any:
        fitted = real(method, data, *args, **kwargs)
        seen.setdefault(method.name, []).append((data, fitted))
        return fitted

    monkeypatch.setattr(experiment, "fit", spy)
    split = make_split(load_problem("digits"), 0)
    rows = [
        CE,
        Row("joint@7", "", "joint_alignment", pairs=7),
        Row("all", "", "all labels"),
        Row("self@all", "", "self + pairs", pairs=ALL_PAIRS),
    ]
    records = {r["row"]: r for r in Experiment(split, steps=25).run(rows)}
    assert set(records) == {"teacher", "ce", "joint@7", "all", "self@all"}
    assert all(0.0 <= r["accuracy"] <= 1.0 and len(r["recall"]) == 10 for r in records.values())
    json.dumps(records, allow_nan=False)

    ((joint, fitted),) = seen["joint_alignment"]
    assert len(joint.student) == len(split.labelled[1]) and len(joint.paired) == 7
    assert joint.paired_label is None
    ((everything, _),) = [d for d in seen["self_labelling_with_pairs"]]
    assert len(everything.paired) == len(split.unlabelled[1])
    sizes = [len(data.student) for data, _ in seen["ce"]]
    assert sizes[-1] == len(split.labelled[1]) + len(split.unlabelled[1])  # the reference
    assert sizes[1:-1] == [len(split.labelled[1])] * len(experiment.CANDIDATES)
    with pytest.raises(RuntimeError, match="already"):
        fitted.test()
    # Of the candidates only the chosen one was tested.
    tested = [f._tested for d, f in seen["ce"][1:-1]]
    assert sum(tested) == 1


def test_pairs_grow_by_inclusion() -> None:
    split = make_split(load_problem("digits"), 1)
    e = Experiment(split, steps=25)
    e.teacher, _ = e._train_teacher()
    few = e._data(with_pairs(JOINT, 5)).paired
    more = e._data(with_pairs(JOINT, 20)).paired
    assert few is not None and more is not None
    assert np.array_equal(few.numpy(), more[:5].numpy())


def test_pairs_where_there_are_none_are_an_error() -> None:
    e = Experiment(make_split(load_problem("digits-tail"), 0), steps=25)
    with pytest.raises(ValueError, match="wants pairs"):
        e.run([with_pairs(JOINT, 5)])


def test_self_labelling_with_pairs_names_its_terms() -> None:
    split = make_split(load_problem("digits"), 0)
    e = Experiment(split, steps=25)
    e.teacher, _ = e._train_teacher()
    fitted = e._fit("self + pairs", e._data(Row("s", "", "self", pairs=9)), FIXED)
    assert isinstance(fitted.method, SelfLabellingWithPairs)
    assert set(fitted.history[-1]["loss"]) == {"ce", "self", "pair_kd"}
    assert fitted.method.weights(0) == {"ce": 1.0, "self": 0.0, "pair_kd": 1.0}


def test_store_survives_a_cut_line(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "results.jsonl"
    store = Store(path)
    store.add("k1", {"accuracy": 0.5})
    store.add("k2", {"accuracy": 0.6})
    path.write_bytes(path.read_bytes()[:-9])  # killed while writing
    again = Store(path)
    assert "k1" in again and "k2" not in again
    again.add("k3", {"accuracy": 0.7})
    third = Store(path)
    assert third.results == {"k1": {"accuracy": 0.5}, "k3": {"accuracy": 0.7}}
    assert Store(path, fresh=True).results == {} and not path.exists()


def test_store_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        Store(tmp_path / "r.jsonl").add("k", {"accuracy": float("nan")})


def test_key_changes_with_what_matters(tmp_path: Path) -> None:
    problem = numbered()
    with runner.Runner(Store(tmp_path / "r.jsonl"), workers=0, steps=25) as r:
        base = r.key(problem, JOINT, 0)
        assert base == r.key(problem, replace(JOINT, label="renamed"), 0)
        changed = {
            r.key(problem, JOINT, 1),
            r.key(problem, replace(JOINT, options={"weight": 2.0}), 0),
            r.key(problem, replace(JOINT, placebo=True), 0),
            r.key(replace(problem, labels_per_class=5), JOINT, 0),
            r.key(problem, "teacher", 0),
            result_key({}, 0),
        }
        assert base not in changed and len(changed) == 6
        r.steps = 50
        assert r.key(problem, JOINT, 0) != base


def test_runner_resumes_and_agrees_with_a_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, rows = load_problem("digits"), (CE, Row("prior", "", "prior_only", tuned=True))
    with runner.Runner(Store(tmp_path / "pool.jsonl"), workers=1, steps=25) as r:
        pooled = r.run(problem, rows, 2)
    arrived: list[int] = []
    store = Store(tmp_path / "own.jsonl")
    with runner.Runner(store, workers=0, steps=25) as r:
        first = r.run(problem, rows[:1], 2, progress=arrived.append)
        assert arrived == [1, 1] and r.stored(problem, rows, 2) == 2
        both = r.run(problem, rows, 2)  # only the missing row, with the stored tuned setting

    def without_time(results: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
        return {
            k: [{n: v for n, v in record.items() if n != "seconds"} for record in records]
            for k, records in results.items()
        }

    assert without_time(both) == without_time(pooled)
    assert both["ce"] == first["ce"]

    monkeypatch.setattr(runner, "_run", lambda *_: pytest.fail("trained again"))
    with runner.Runner(Store(store.path), workers=0, steps=25) as r:
        assert without_time(r.run(problem, rows, 2)) == without_time(pooled)


def test_main_runs_offline_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--offline", "--scene", "3", "--splits", "2", "--steps", "25", "--workers", "0",
             "--out", str(tmp_path)]  # fmt: skip
    assert app.main(words) == 0
    first = capsys.readouterr().out
    assert "bundled digits stand in" in first and "▶" in first
    assert "used as they are" not in first
    assert (tmp_path / "scene3.png").exists()
    lines = (tmp_path / "results.jsonl").read_text()
    assert app.main(words) == 0
    again = " ".join(capsys.readouterr().out.split())
    assert "12 of 12 results are known already" in again
    assert (tmp_path / "results.jsonl").read_text() == lines


def test_no_network_falls_back_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    real = app.load_problem

    def load(key: str, progress: Any = None) -> Problem:
        if key == "pen":
            raise FetchError("no network")
        return real(key, progress)

    monkeypatch.setattr(app, "load_problem", load)
    console = Console(width=80, record=True, file=io.StringIO())
    problem = app._problem("pen", app.DemoOptions(), console)
    text = " ".join(console.export_text().split())
    assert problem.key == "digits-tail" and "(no network)" in text and "stand in" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"splits": 1}, "splits must be at least 2"),
        ({"steps": 5}, "steps must be at least 25"),
        ({"workers": -1}, "workers must not be negative"),
    ],
)
def test_bad_options(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        app.DemoOptions(**changes)


def test_unknown_scene_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as info:
        app.main(["--scene", "4"])
    assert info.value.code == 2
