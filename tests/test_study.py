"""Studies: the plan, the choice, what is kept and what is computed again; on bundled digits."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ucmkd.config import ConfigError, OptimizerConfig
from ucmkd.distill import distill
from ucmkd.study import StudyRun, load_study, run_study, write_report
from ucmkd.study import job as job_module
from ucmkd.study.compact import compact
from ucmkd.study.config import StudyConfig
from ucmkd.study.jsonl import append_line, read_lines
from ucmkd.study.plan import Only, exploration, fresh
from ucmkd.study.reader import shipped_studies
from ucmkd.study.resolve import resolve

pytestmark = pytest.mark.usefixtures("one_thread")

TINY: dict[str, Any] = {
    "name": "tiny",
    "seeds": {"explore": [0, 1], "fresh": [100, 101]},
    "defaults": {
        "training": {"steps": 6, "eval_every": 3},
        "teacher": {"steps": 10, "hidden": 16},
        "student": {"hidden": 16},
    },
    "scenarios": {
        "digits": {
            "data": {
                "teacher": {"dataset": "digits", "view": "pixels"},
                "student": {"dataset": "digits", "view": "shape", "labels_per_class": 5},
            }
        }
    },
    "methods": {
        "ce": {
            "method": {"name": "ce"},
            "candidates": [{"optimizer.lr": 1e-6}, {"optimizer.lr": 3e-2}],
        },
        "joint": {"method": {"name": "joint_alignment"}, "controls": ["placebo", "noise"]},
        "kd": {"method": {"name": "vanilla_kd"}, "data": {"pairs": 20}},
    },
    "references": ["ce"],
}


def study_of(folder: Path, **changes: Any) -> StudyConfig:
    """The tiny study with other top-level keys, read from a file."""
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**copy.deepcopy(TINY), **changes}))
    return load_study(path)


def only_ce(**entry: Any) -> dict[str, Any]:
    """Cross-entropy without candidates."""
    return {"ce": {"method": {"name": "ce"}, **entry}}


def lines(folder: Path) -> list[dict[str, Any]]:
    return read_lines(folder / "results.jsonl")


# The whole way --------------------------------------------------------------------------------


def test_a_study_runs_resumes_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, out = study_of(tmp_path), tmp_path / "out"
    attempt = StudyRun.open(study, out)
    run_study(attempt, workers=0)
    assert attempt.failures == []
    rows = lines(out)
    explored = [row for row in rows if row["phase"] == "explore"]
    # Two candidates on two seeds; then ce, joint, its two controls and kd on two seeds.
    assert len(explored) == 4 and len(rows) == 4 + 10
    assert all("accuracy" not in row for row in explored)  # never tested
    ce = [r for r in rows if r["phase"] == "fresh" and r["method"] == "ce"]
    # A learning rate of 1e-6 learns nothing in six steps.
    assert [row["candidate"] for row in ce] == [1, 1]
    assert {row["choice"]["optimizer.lr"] for row in ce} == {3e-2}
    fixed = yaml.safe_load((out / "configurations.yaml").read_text())["digits"]["ce"]
    means = [
        sum(r["validation_score"] for r in explored if r["candidate"] == k) / 2 for k in (0, 1)
    ]
    assert fixed["mean_validation_scores"] == pytest.approx(means, abs=1e-6)
    assert fixed["candidate"] == 1 and fixed["seeds"] == [0, 1]
    for row in (r for r in rows if r["phase"] == "fresh"):
        assert row["train_size"] == 1797 - row["test_size"]
        assert 0 <= row["ece"] <= 1 and row["nll"] > 0 and 0 <= row["macro_f1"] <= 1
        assert len(row["recall"]) == 10 and row["torch"] == torch.__version__
    teachers = {(r["method"], r["control"]): r["teacher_accuracy"] for r in rows}
    assert teachers["ce", None] is None and teachers["joint", "noise"] is None
    assert teachers["joint", None] == teachers["joint", "placebo"] == teachers["kd", None] > 0.2
    hashes = [entry["hash"] for entry in read_lines(out / "recipes.jsonl")]
    assert len(hashes) == len(set(hashes)) == 6  # two of ce, joint and its two controls, kd
    assert {row["recipe"] for row in rows} == set(hashes)

    assert [s.name for s in write_report(attempt)] == ["digits"]
    html = (out / "report.html").read_text()
    assert "data:image/png;base64," in html and "prefers-color-scheme: dark" in html
    assert "src='http" not in html and "href" not in html
    assert (out / "figures" / "digits.png").read_bytes().startswith(b"\x89PNG")

    monkeypatch.setattr(job_module, "fit", lambda *_, **__: pytest.fail("trained again"))
    again = StudyRun.open(study, out)
    run_study(again, workers=0)
    assert lines(out) == rows and again.failures == []
    assert again.rows() == attempt.rows()

    table = (out / "summary.md").read_text()
    before, after = compact(out)
    assert after < 0.8 * before and {row["phase"] for row in lines(out)} == {"fresh"}
    hashes = {entry["hash"] for entry in read_lines(out / "recipes.jsonl")}
    assert {row["recipe"] for row in lines(out)} == hashes and len(hashes) == 5
    small = StudyRun.open(study, out)
    run_study(small, workers=0)  # it is still finished
    write_report(small)
    assert (out / "summary.md").read_text() == table
    with pytest.raises(FileNotFoundError):
        compact(tmp_path)


def test_a_run_is_what_distill_does(tmp_path: Path) -> None:
    study, out = study_of(tmp_path), tmp_path / "out"
    run_study(StudyRun.open(study, out), workers=0, only=Only(methods=("joint", "kd")))
    rows = {(r["method"], r["control"], r["seed"]): r for r in lines(out)}
    for method, control in (("joint", None), ("joint", "placebo"), ("kd", None)):
        recipe = resolve(study, "digits", method, 0, control).with_seed(101)
        assert recipe.method.options.get("placebo_seed") == (101 if control else None)
        from dataclasses import replace

        found = distill(replace(recipe, out_dir=str(tmp_path / f"{method}-{control}")))
        row = rows[method, control, 101]
        assert row["accuracy"] == found.test.accuracy
        assert row["nll"] == found.test.loss and row["ece"] == found.test.ece
        assert row["best_step"] == found.best_step
        assert found.teacher is not None and row["teacher_accuracy"] == found.teacher.accuracy


def test_workers_give_the_same_rows(tmp_path: Path) -> None:
    study = study_of(tmp_path, methods=only_ce())
    for name, workers in (("here", 0), ("there", 2)):
        run_study(StudyRun.open(study, tmp_path / name), workers=workers)

    def figures(name: str) -> dict[str, dict[str, Any]]:
        return {
            row["key"]: {k: v for k, v in row.items() if "seconds" not in k}
            for row in lines(tmp_path / name)
        }

    assert len(figures("here")) == 2 and figures("here") == figures("there")


# Resuming -------------------------------------------------------------------------------------


def test_a_killed_study_goes_on(tmp_path: Path) -> None:
    changes = {
        "seeds": {"fresh": list(range(100, 112))},
        "methods": only_ce(training={"steps": 150}),
    }
    study, out = study_of(tmp_path, **changes), tmp_path / "out"
    words = [sys.executable, "-m", "ucmkd.cli", "compare", str(tmp_path / "study.yaml")]
    process = subprocess.Popen(
        [*words, "--out", str(out), "--workers", "1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not lines(out):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    kept = lines(out)
    assert 0 < len(kept) < 12
    with (out / "results.jsonl").open("a") as stream:
        stream.write('{"key": "digits/ce/fr')  # killed while writing
    run_study(StudyRun.open(study, out), workers=0)
    rows = lines(out)
    assert rows[: len(kept)] == kept
    assert sorted(row["seed"] for row in rows) == list(range(100, 112))


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_an_interrupt_ends_cleanly(tmp_path: Path) -> None:
    study_of(
        tmp_path,
        seeds={"fresh": list(range(100, 112))},
        methods=only_ce(training={"steps": 300}),
    )
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "ucmkd.cli", "compare", str(tmp_path / "study.yaml"), "--out",
         str(out), "--workers", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not lines(out):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the workers too
    shown, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted." in shown and "goes on from there" in shown and "Traceback" not in errors
    assert 0 < len(lines(out)) < 12


def test_changed_settings_are_computed_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_study(StudyRun.open(study_of(tmp_path, methods=only_ce()), out), workers=0)
    changed = study_of(tmp_path, methods=only_ce(training={"steps": 9}))
    attempt = StudyRun.open(changed, out)
    assert attempt.rows() == []
    run_study(attempt, workers=0)
    assert [row["steps"] for row in lines(out)] == [6, 6, 9, 9]
    assert [row["steps"] for row in attempt.rows()] == [9, 9]
    # What only names things changes nothing, and the first settings are still known.
    back = StudyRun.open(study_of(tmp_path, name="renamed", methods=only_ce(label="CE")), out)
    assert [row["steps"] for row in back.rows()] == [6, 6]


def test_recompute_does_not_use_what_is_there(tmp_path: Path) -> None:
    study, out = study_of(tmp_path, methods=only_ce()), tmp_path / "out"
    run_study(StudyRun.open(study, out), workers=0)
    attempt = StudyRun.open(study, out)
    run_study(attempt, workers=0, recompute=True)
    assert len(lines(out)) == 4 and len(attempt.rows()) == 2


def test_other_exploratory_seeds_or_candidates_choose_anew(tmp_path: Path) -> None:
    out = tmp_path / "out"
    only = Only(methods=("ce",))
    first = StudyRun.open(study_of(tmp_path), out)
    run_study(first, workers=0, only=only, phase="explore")
    assert first.configurations.choices == {("digits", "ce"): 1} and first.rows() == []
    # Edited by hand, the file is what counts.
    path = out / "configurations.yaml"
    path.write_text(path.read_text().replace("candidate: 1", "candidate: 0"))
    assert StudyRun.open(study_of(tmp_path), out).configurations.choices["digits", "ce"] == 0
    other = study_of(tmp_path, seeds={"explore": [0, 2], "fresh": [100]})
    attempt = StudyRun.open(other, out)
    assert attempt.configurations.choices == {}
    assert attempt.unexplored() == [("digits", "ce")]
    run_study(attempt, workers=0, only=only, phase="fresh")
    assert attempt.rows() == []  # nothing runs before its configuration is fixed
    run_study(attempt, workers=0, only=only)
    assert [row["choice"] for row in attempt.rows()] == [{"optimizer.lr": 3e-2}]


# Failures -------------------------------------------------------------------------------------


def test_a_failed_run_is_recorded_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, out = study_of(tmp_path), tmp_path / "out"
    real = job_module.fit

    def fit(method: Any, *args: Any, **kwargs: Any) -> Any:
        if method.name == "joint_alignment" and kwargs["seed"] == 100:
            raise RuntimeError("the loss term 'joint' became nan\nat step 3")
        return real(method, *args, **kwargs)

    monkeypatch.setattr(job_module, "fit", fit)
    attempt = StudyRun.open(study, out)
    run_study(attempt, workers=0, only=Only(methods=("joint", "kd")))
    assert len(attempt.failures) == 3  # joint and its controls on one of two seeds
    assert attempt.failures[0] == (
        "digits, joint, fresh seed 100",
        "RuntimeError: the loss term 'joint' became nan at step 3",
    )
    bad = [row for row in lines(out) if "error" in row]
    assert len(bad) == 3 and len(lines(out)) == 8 and len(attempt.rows()) == 5
    monkeypatch.setattr(job_module, "fit", real)
    again = StudyRun.open(study, out)
    run_study(again, workers=0, only=Only(methods=("joint", "kd")))
    assert again.failures == [] and len(again.rows()) == 8 and len(lines(out)) == 11


def test_a_candidate_that_fails_once_is_not_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, out = study_of(tmp_path), tmp_path / "out"
    real = job_module.fit

    def fit(method: Any, data: Any, training: Any, optimizer: OptimizerConfig, **kw: Any) -> Any:
        if optimizer.lr == 3e-2 and kw["seed"] == 1:
            raise RuntimeError("no")
        return real(method, data, training, optimizer, **kw)

    monkeypatch.setattr(job_module, "fit", fit)
    attempt = StudyRun.open(study, out)
    run_study(attempt, workers=0, only=Only(methods=("ce",)))
    assert attempt.configurations.choices == {("digits", "ce"): 0}
    assert [row["candidate"] for row in attempt.rows()] == [0, 0]


# Choice per run -------------------------------------------------------------------------------


def test_per_run_chooses_by_validation_and_tests_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = [0.0, 1.0, 1.0]
    methods = {
        "safe": {
            "method": {"name": "joint_alignment"},
            "choose": "per_run",
            "candidates": [{"method.options.weight": w} for w in weights],
            "controls": ["placebo"],
        }
    }
    study = study_of(tmp_path, methods=methods, references=[], seeds={"fresh": [100]})
    validation = iter([(0.4, 0.9), (0.6, 0.1), (0.6, 0.8)] * 2)  # the later tie must not win
    real, fitted = job_module.fit, []

    def fit(*args: Any, **kwargs: Any) -> Any:
        from dataclasses import replace

        found = real(*args, **kwargs)
        score, test = next(validation)
        assert found.validation is not None
        found.validation = replace(found.validation, accuracy=score, balanced_accuracy=score)
        secret = replace(found.validation, accuracy=test)
        looked = found.test
        found.test = lambda: (looked(), secret)[1]
        fitted.append(found)
        return found

    monkeypatch.setattr(job_module, "fit", fit)
    out = tmp_path / "out"
    attempt = StudyRun.open(study, out)
    run_study(attempt, workers=0)
    assert attempt.failures == []
    rows = attempt.rows()
    students = [f for f in fitted if f.method.name == "joint_alignment"]
    for row, part in zip(rows, (students[:3], students[3:]), strict=True):
        # The best on the test set is the first, the best on validation the second.
        assert row["candidate"] == 1 and row["accuracy"] == 0.1
        assert row["candidate_scores"] == pytest.approx([0.8, 1.2, 1.2])
        assert [f._tested for f in part] == [False, True, False]
    assert [row["control"] for row in rows] == [None, "placebo"]
    write_report(attempt)
    page = (out / "report.html").read_text()
    counts = [line.split()[-1] for line in page.splitlines() if line.strip().startswith("runs:")]
    assert counts == ["0", "1", "0"]


# Reading --------------------------------------------------------------------------------------


def test_layers_override_in_order(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    ce = resolve(study, "digits", "ce", 1)
    assert ce.recipe.training.steps == 6 and ce.recipe.optimizer.lr == 3e-2
    assert ce.recipe.hardware.accelerator == "cpu" and ce.recipe.teacher.kind == "trained"
    kd = resolve(study, "digits", "kd", 0)
    assert kd.recipe.data.pairs == 20 and kd.recipe.data.student.labels_per_class == 5
    noise = resolve(study, "digits", "joint", 0, "noise")
    plain = resolve(study, "digits", "joint", 0)
    assert noise.recipe.teacher.kind == "noise" and noise.digest != plain.digest
    placebo = resolve(study, "digits", "joint", 0, "placebo")
    assert placebo.recipe.method.placebo and placebo.recipe.teacher.kind == "trained"


def test_the_plan_counts(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    assert len(exploration(study, "digits", "ce")) == 4
    assert fresh(study, "digits", "ce", {}) == []
    assert len(fresh(study, "digits", "ce", {("digits", "ce"): 0})) == 2
    runs = fresh(study, "digits", "joint", {})
    assert [(run.control, run.seed) for run in runs[:3]] == [
        (None, 100),
        (None, 101),
        ("placebo", 100),
    ]
    assert len({run.key for run in runs}) == 6


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_studies_resolve(name: str) -> None:
    from ucmkd.study.reader import find_study

    study = load_study(find_study(name))
    assert study.name == name and study.references


def test_a_recipe_with_methods_is_a_study() -> None:
    from ucmkd.study.reader import find_study

    study = load_study(find_study("digits_offline"), methods=["ce", "joint_alignment"], seeds=3)
    assert study.seeds.fresh == [0, 1, 2] and study.references == ["ce"]
    assert resolve(study, "digits_offline", "ce", 0).recipe.training.steps == 300
    tail = load_study(find_study("digits_longtail"), methods=["joint_alignment"], seeds=1)
    assert tail.methods["joint_alignment"].method["options"] == {"prior": "teacher"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sceanrios": {}}, "did you mean 'scenarios'"),
        ({"methods": {}}, "methods must hold at least one entry"),
        ({"references": ["cee"]}, "references: unknown 'cee'; did you mean 'ce'"),
        ({"seeds": {"explore": [0], "fresh": [0, 1]}}, r"seeds.fresh must hold no exploratory"),
        ({"seeds": {"fresh": [1, 1]}}, "seeds.fresh must be different integers"),
        ({"seeds": {"fresh": [1]}}, "seeds.explore must hold a seed, since methods.ce"),
        ({"seeds": {"fresh": ["a"]}}, r"seeds.fresh\[0\] must be an integer, got 'a'"),
        ({"seeds": {"fresh": 3}}, "seeds.fresh must be a list, got 3"),
        ({"methods": {"x": {}}}, "methods.x.method.name must name a method"),
        ({"methods": {"x": {"method": {"name": "jiont"}}}}, "unknown method.name 'jiont'"),
        ({"methods": only_ce(choose="best")}, "methods.ce.choose must be one of"),
        ({"methods": only_ce(choose="per_run")}, "candidates must be at least two"),
        ({"methods": only_ce(controls=["placebo"])}, "asks no teacher"),
        ({"methods": only_ce(controls=["nose"])}, r"controls\[0\] must be one of 'placebo'"),
        ({"methods": only_ce(candidates=[{"lr": 1}])}, "must be dotted like optimizer.lr"),
        (
            {"methods": only_ce(candidates=[{"optimizer.rl": 1}])},
            "scenario 'digits', method 'ce': unknown key 'rl' in section 'optimizer'",
        ),
        ({"methods": only_ce(data={"test": 0.4})}, "data.test must be 0.3 as in the scenario"),
        ({"methods": only_ce(scenarios=["digit"])}, "methods.ce.scenarios: unknown 'digit'"),
        ({"methods": only_ce(hardware={"devices": 2})}, "hardware.devices must be 1, got 2"),
        ({"defaults": {"method": {"name": "ce"}}}, "defaults.method may only hold options"),
        ({"scenarios": {"a": {"dta": {}}}}, "scenarios.a: unknown section 'dta'"),
        ({"scenarios": {"a": {"data": 3}}}, "scenarios.a.data must be a mapping, got 3"),
    ],
)
def test_mistakes_in_a_study_are_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    if "methods" in changes and "ce" not in changes["methods"]:
        changes = {**changes, "references": []}
    with pytest.raises(ConfigError, match=message) as info:
        study_of(tmp_path, **changes)
    assert str(info.value).startswith(str(tmp_path)) and "\n" not in str(info.value)


def test_what_the_data_cannot_give_is_found_before_training(tmp_path: Path) -> None:
    methods = {"kd": {"method": {"name": "vanilla_kd"}, "data": {"pairs": 100000}}}
    study = study_of(tmp_path, methods=methods, references=[])
    attempt = StudyRun.open(study, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"digits, kd, fresh seed 100: data\.pairs must be at"):
        run_study(attempt, workers=0)
    assert lines(tmp_path / "out") == []


# Files ----------------------------------------------------------------------------------------


def test_lines_survive_a_cut(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "lines.jsonl"
    append_line(path, {"a": 1})
    append_line(path, {"a": 2})
    path.write_bytes(path.read_bytes()[:-3])
    append_line(path, {"a": 3})
    assert read_lines(path) == [{"a": 1}, {"a": 3}]
    with pytest.raises(ValueError):
        append_line(path, {"a": float("nan")})
    assert json.loads(path.read_text().splitlines()[-1]) == {"a": 3}
