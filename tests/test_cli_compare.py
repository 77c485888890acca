"""``ucmkd compare`` as a user meets it; offline, on scikit-learn's digits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ucmkd.cli import main
from ucmkd.study import job as job_module
from ucmkd.study.jsonl import read_lines
from ucmkd.study.workers import Message, Workers

pytestmark = pytest.mark.usefixtures("one_thread")

STUDY: dict[str, Any] = {
    "name": "small",
    "seeds": {"explore": [0], "fresh": [10, 11]},
    "defaults": {"training": {"steps": 4, "eval_every": 2}, "student": {"hidden": 16}},
    "scenarios": {
        name: {
            "data": {
                "teacher": {"dataset": "digits", "view": "pixels"},
                "student": {"dataset": "digits", "view": "shape", "labels_per_class": count},
            }
        }
        for name, count in (("few", 3), ("more", 9))
    },
    "methods": {
        "ce": {
            "method": {"name": "ce"},
            "candidates": [{"optimizer.lr": 0.001}, {"optimizer.lr": 0.01}],
        },
        "self": {"method": {"name": "self_labelling"}},
    },
    "references": ["ce"],
}


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return ["compare", str(path), "--out", str(tmp_path / "out"), "--workers", "0"]


def failure(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line of a user error."""
    assert main(words) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("ucmkd: error: ")
    return line


def test_phases_one_after_the_other(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--summary-only"]) == 0
    assert "few, ce: not explored yet" in capsys.readouterr().out
    assert main([*words, "--phase", "explore", "--only-scenario", "few"]) == 0
    shown = capsys.readouterr().out
    assert "exploratory runs: 2 trainings" in shown and "fresh" not in shown
    assert main([*words, "--phase", "fresh", "--only-method", "ce"]) == 0
    shown = capsys.readouterr().out
    assert "fresh runs: 2 trainings" in shown and "few: scores" in shown
    assert "more, ce: not explored yet" in shown and "6 of 8 runs" not in shown
    assert main(words) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "fresh runs: 6 trainings, 2 results are known already" in shown
    assert "more: difference to ce" in shown and "runs have no result" not in shown
    before = (tmp_path / "out" / "results.jsonl").read_bytes()
    assert main([*words, "--summary-only"]) == 0
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == before
    report = (tmp_path / "out" / "report.html").read_text()
    assert "<h2>few</h2>" in report and "<h2>more</h2>" in report


def test_a_failed_run_ends_with_1_and_is_named(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = job_module.fit

    def fit(method: Any, *args: Any, **kwargs: Any) -> Any:
        if method.name == "self_labelling" and kwargs["seed"] == 11:
            raise RuntimeError("out of luck")
        return real(method, *args, **kwargs)

    monkeypatch.setattr(job_module, "fit", fit)
    assert main([*words, "--only-scenario", "few"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "failed: few, self, fresh seed 11: RuntimeError: out of luck" in shown
    assert "few: scores" in shown


def test_results_of_other_code_are_pointed_out(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--only-scenario", "few", "--only-method", "self"]) == 0
    assert "by other code" not in capsys.readouterr().out
    monkeypatch.setattr("ucmkd.study.report.code_digest", lambda: "another")
    assert main([*words, "--summary-only"]) == 0
    assert "2 results were computed by other code" in " ".join(capsys.readouterr().out.split())


def test_a_recipe_and_methods(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "mine.yaml"
    data = STUDY["scenarios"]["few"]["data"]
    recipe.write_text(
        yaml.safe_dump({"name": "mine", "seed": 5, "data": data, "training": {"steps": 3}})
    )
    words = ["compare", str(recipe), "--methods", "ce, prior_only", "--seeds", "2"]
    assert main([*words, "--out", str(tmp_path / "out"), "--workers", "0"]) == 0
    assert "mine: difference to ce" in capsys.readouterr().out
    rows = read_lines(tmp_path / "out" / "results.jsonl")
    assert [(r["method"], r["seed"]) for r in rows] == [
        ("ce", 5), ("prior_only", 5), ("ce", 6), ("prior_only", 6)
    ]  # fmt: skip


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare"]) == 2 and main(["compare", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "quick" in shown and "headline" in shown and "--methods a,b,c" in shown
    assert main(["--help"]) == 0
    assert "compare STUDY" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--only-scenario", "fwe"], "--only-scenario: unknown 'fwe'; did you mean 'few'?"),
        (["--only-method", "kd"], "--only-method: unknown 'kd'"),
        (["--workers", "-2"], "--workers must be 0 or more, got -2"),
        (["--methods", "ce"], "this is a study, with methods and seeds of its own"),
        (["--seeds", "3"], "this is a study"),
    ],
)
def test_user_errors_are_one_line(
    words: list[str], extra: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in failure(capsys, *words, *extra)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["qiuck"], "did you mean 'quick'?"),
        (["--out", "x"], "the study comes first"),
        (["digits_offline"], "this is a recipe, so --methods must name"),
        (["digits_offline", "--methods", "ce,cee"], "unknown method.name 'cee'"),
        (["digits_offline", "--methods", "ce,ce"], "--methods must be different"),
        (["digits_offline", "--methods", "ce", "--seeds", "0"], "--seeds must be at least 1"),
        (["digits_offline", "--methods", "vanilla_kd"], "needs pairs"),
    ],
)
def test_errors_without_a_study_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in failure(capsys, "compare", *arguments)


def test_damaged_choice_and_folder_are_one_line(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "configurations.yaml").write_text("few: [1")
    assert "configurations.yaml cannot be read" in failure(capsys, *words)
    (out / "configurations.yaml").write_text("- few")
    assert "must map scenarios to methods" in failure(capsys, *words)
    file = tmp_path / "file"
    file.write_text("")
    assert "--out" in failure(capsys, "compare", words[1], "--out", str(file))


# Workers --------------------------------------------------------------------------------------


def letters(task: str) -> Iterator[str]:
    """A task of the tests: yields letters, fails at '!', dies at '†'."""
    for letter in task:
        if letter == "!":
            raise ValueError("no shouting")
        if letter == "†":
            os._exit(9)
        yield letter


@pytest.mark.parametrize("count", [0, 2])
def test_workers_say_what_happens(count: int) -> None:
    with Workers[str](letters, count) as workers:
        messages = list(workers.run(["ab", "c!d", ""]))
        # A second round with the same workers.
        assert list(workers.run(["x"])) == [Message(0, "x"), Message(0)]
    assert [m for m in messages if m.task == 0] == [Message(0, "a"), Message(0, "b"), Message(0)]
    assert [m for m in messages if m.task == 1] == [
        Message(1, "c"), Message(1, None, "ValueError: no shouting")
    ]  # fmt: skip
    assert [m for m in messages if m.task == 2] == [Message(2)]


def test_a_worker_that_dies_takes_only_its_task_along() -> None:
    with Workers[str](letters, 1) as workers:
        messages = list(workers.run(["a†b", "c"]))
    assert messages == [
        Message(0, "a"),
        Message(0, None, "the worker process died (exit code 9)"),
        Message(1, "c"),
        Message(1),
    ]
