"""Studies with a task: the plan, the choice, what is kept and shown, on a toy."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from ucmkd.config import ConfigError
from ucmkd.study import StudyConfig, StudyRun, load_study, run_study, summarise, write_report
from ucmkd.study.compact import compact
from ucmkd.study.jsonl import read_lines
from ucmkd.study.overview import overview
from ucmkd.study.plan import exploration, fresh, jobs
from ucmkd.study.reader import SHIPPED, find_study
from ucmkd.study.render import markdown
from ucmkd.study.tables import all_tables
from ucmkd.study.text import number, signed
from ucmkd.tasks import SECONDS, TASKS, Case, Measure, Outcome, Shown, Task, task_of

COMMITTED = Path(__file__).parent.parent / "study"


@dataclass(frozen=True)
class ToySettings:
    """Something to set."""

    size: int = 1
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"size must be at least 1, got {self.size}")


calls: list[tuple[str, Case]] = []


def run(case: Case) -> Outcome:
    """Errors are best at weight 1, and a tenth per seed; a placebo has one more."""
    calls.append(("run", case))
    if case.method == "broken" and case.seed == 11:
        raise RuntimeError("out of luck")
    error = abs(case.settings.weight - 1) + 0.1 * (case.seed % 10) + (case.control is not None)
    error += case.settings.size * (case.method != "base")

    def test() -> dict[str, Any]:
        calls.append(("test", case))
        return {"mistakes": error, "rate": 0.5, "known": None if case.method == "base" else 2.0,
                "word": "kept"}  # fmt: skip

    return Outcome(test, 300, 100, lambda: -error)


TOY = Task(
    settings=ToySettings,
    rows={"base": (), "ours": ("placebo",), "broken": ()},
    run=run,
    fetch=lambda: calls.append(("fetch", Case("", None, None, 0))),
    prepare=lambda case: calls.append(("prepare", case)),
    shown=Shown(
        measures=(
            Measure("mistakes", "mistakes", "test mistakes", 1.0, ".2f", lower=True),
            Measure("rate", "rate", "test rate, %"),
            Measure("known", "known", scale=1.0, form=".3g", tested=False),
            SECONDS,
        ),
        caption="Errors",
        columns="Known: by hand.",
        unit="Errors",
        meaning={"placebo": "all is wrong"},
        samples="things",
    ),
)
STUDY: dict[str, Any] = {
    "name": "toys",
    "task": "toy",
    "seeds": {"explore": [0, 1], "fresh": [10, 11, 12]},
    "defaults": {"settings": {"weight": 1.0}},
    "scenarios": {"small": {"settings": {"size": 1}}, "large": {"settings": {"size": 3}}},
    "methods": {
        "base": {"method": {"name": "base"}},
        "ours": {
            "method": {"name": "ours"},
            "controls": ["placebo"],
            "candidates": [{"settings.weight": w} for w in (0.5, 1.0, 4.0)],
        },
    },
    "references": ["base"],
}


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = ModuleType("ucmkd.tasks.toy")
    module.TASK = TOY  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ucmkd.tasks.toy", module)
    monkeypatch.setattr("ucmkd.study.config.TASKS", (*TASKS, "toy"))
    calls.clear()
    yield
    task_of.cache_clear()


def other_toy(monkeypatch: pytest.MonkeyPatch, **changes: bool) -> None:
    monkeypatch.setattr(sys.modules["ucmkd.tasks.toy"], "TASK", replace(TOY, **changes))  # type: ignore[arg-type]
    task_of.cache_clear()


def study_of(folder: Path, **changes: Any) -> StudyConfig:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**copy.deepcopy(STUDY), **changes}, sort_keys=False))
    return load_study(path)


def rows_of(**methods: dict[str, Any]) -> dict[str, Any]:
    """Rows by their names, and no reference."""
    found = {key: {"method": {"name": key}, **entry} for key, entry in methods.items()}
    return {"methods": found, "references": []}


# The whole way ---------------------------------------------------------------------------------


def test_a_study_of_a_task_runs_resumes_and_reports(tmp_path: Path) -> None:
    study, out = study_of(tmp_path), tmp_path / "out"
    attempt = StudyRun.open(study, out)
    run_study(attempt, workers=0)
    rows = read_lines(out / "results.jsonl")
    explored = [row for row in rows if row["phase"] == "explore"]
    # Three candidates on two seeds in two scenarios; then three rows on three seeds in both.
    assert len(explored) == 12 and len(rows) == 12 + 18 and attempt.failures == []
    assert all("error" not in row and row["validation_score"] < 0 for row in explored)
    assert sum(what == "test" for what, _ in calls) == 18  # never an exploratory one
    prepared = [case for what, case in calls if what == "prepare"]
    assert prepared == [case for what, case in calls if what == "run"]
    assert all(row["seconds"] >= 0 and 0 <= row["processor_seconds"] < 5 for row in rows)
    assert calls[0][0] == "fetch" and sum(what == "fetch" for what, _ in calls) == 2
    fixed = yaml.safe_load((out / "configurations.yaml").read_text())["large"]["ours"]
    # Errors 3 + .05 on average, and ½, 0 and 3 more.
    assert fixed["mean_validation_scores"] == [-3.55, -3.05, -6.05] and fixed["candidate"] == 1
    ours = [
        r for r in rows if (r["phase"], r["method"], r["scenario"]) == ("fresh", "ours", "large")
    ]
    assert {row["choice"]["settings.weight"] for row in ours} == {1.0}
    assert {(row["control"], row["word"]) for row in ours} == {(None, "kept"), ("placebo", "kept")}
    recipes = {entry["hash"]: entry["recipe"] for entry in read_lines(out / "recipes.jsonl")}
    assert recipes[ours[-1]["recipe"]] == {
        "task": "toy", "method": "ours", "control": "placebo",
        "settings": {"size": 3, "weight": 1.0},
    }  # fmt: skip

    write_report(attempt)
    text = (out / "summary.md").read_text()
    assert "| ours | 1.10 ± 0.25 | 3.10 ± 0.25 |" in text
    assert "Test mistakes, mean ± 95 % interval over the seeds. †: below base" in text
    assert "Errors, mean ± 95 % interval over the seeds; about 300 things outside" in text
    assert "Placebo: all is wrong. Differences of test mistakes" not in text  # "test " is left out
    assert "Placebo: all is wrong. Differences of mistakes and, behind the stroke, of rate;" in text
    assert (out / "figures" / "large.png").read_bytes().startswith(b"\x89PNG")

    calls.clear()
    again = StudyRun.open(study, out)
    run_study(again, workers=0)
    assert calls == [] and again.rows() == attempt.rows()
    compact(out)
    small = StudyRun.open(study, out)
    assert summarise(study, small.rows()) == summarise(study, attempt.rows())


def test_less_is_better(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    attempt = StudyRun.open(study, tmp_path / "out")
    run_study(attempt, workers=0)
    small = summarise(study, attempt.rows())[0]
    ours = small.against["base"]["mistakes"]["ours"]
    assert ours.mean == pytest.approx(1.0) and (ours.wins, ours.losses) == (0, 3)
    assert not ours.better and ours.lower
    own = small.controls["placebo"]["mistakes"]["ours"]
    assert own.mean == pytest.approx(-1.0) and (own.wins, own.losses) == (3, 0) and own.better
    scores, differences = overview(study, [small, summarise(study, attempt.rows())[1]])
    assert "†" not in scores.rows[1][1]
    assert differences.rows[0][1] == "−1.00 ± 0.00* / 0.0"
    line = small.line("ours")
    assert line.means["known"] == 2.0 and line.scores["rate"].mean == 50.0
    table = all_tables([small])[0]
    assert table.header == ["", "seeds", "mistakes", "rate", "known", "seconds"]
    assert table.rows[0][2:5] == ["0.10 ± 0.25", "50.0 ± 0.0", "–"] and table.rows[1][4] == "2"
    assert table.within(1).header == ["", "mistakes", "rate"]


def test_a_failure_is_kept_and_tried_again(tmp_path: Path) -> None:
    study = study_of(tmp_path, **rows_of(base={}, broken={}))
    attempt = StudyRun.open(study, tmp_path / "out")
    run_study(attempt, workers=0)
    assert attempt.failures == [
        (f"{name}, broken, fresh seed 11", "RuntimeError: out of luck")
        for name in ("small", "large")
    ]
    assert len(attempt.rows()) == 10


def test_each_run_can_choose(tmp_path: Path) -> None:
    weights = [{"settings.weight": w} for w in (3.0, 1.5, 0.5)]
    study = study_of(tmp_path, **rows_of(ours={"choose": "per_run", "candidates": weights}))
    attempt = StudyRun.open(study, tmp_path / "out")
    run_study(attempt, workers=0)
    row = attempt.rows()[0]
    assert row["candidate"] == 1 and row["candidate_scores"] == [-3.0, -1.5, -1.5]
    assert row["mistakes"] == row["candidate_scores"][1] * -1
    assert sum(what == "test" for what, _ in calls) == 6 == len(attempt.rows())


def test_a_choice_at_an_edge_is_said(tmp_path: Path) -> None:
    weights = [{"settings.weight": w} for w in (1.25, 2.0, 4.0)]
    study = study_of(tmp_path, **rows_of(ours={"candidates": weights}))
    attempt = StudyRun.open(study, tmp_path / "out")
    run_study(attempt, workers=0)
    assert attempt.configurations.at_an_edge()[0] == (
        "small, ours: the chosen settings.weight, 1.25, is the smallest of 3 candidates; a better "
        "one may lie beyond."
    )
    write_report(attempt)
    assert "the smallest of 3 candidates" in (tmp_path / "out" / "summary.md").read_text()
    for candidates in (weights[:2], [*weights[:2], {"settings.size": 9}]):
        other = study_of(tmp_path, **rows_of(ours={"candidates": candidates}))
        attempt = StudyRun.open(other, tmp_path / "other")
        run_study(attempt, workers=0)
        assert attempt.configurations.choices and attempt.configurations.at_an_edge() == []


def test_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of(tmp_path)
    assert len(exploration(study, "small", "ours")) == 6
    runs = [r for s in ("small", "large") for r in fresh(study, s, "base", {})]
    assert [(job.scenario, job.seed, job.task) for job in jobs(runs, "toy")] == [
        (scenario, seed, "toy") for scenario in ("small", "large") for seed in (10, 11, 12)
    ]
    other_toy(monkeypatch, whole_seeds=True)
    whole = jobs(runs, "toy")
    assert [(job.seed, [r.scenario for r in job.runs]) for job in whole] == [
        (seed, ["small", "large"]) for seed in (10, 11, 12)
    ]


# Mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "tyo"}, r"unknown task 'tyo'; did you mean 'toy'\? \(known: hashing, "),
        ({"defaults": {"data": {}}}, r"defaults: unknown section 'data' \(accepted: settings\)"),
        ({"defaults": {"settings": {"szie": 2}}}, "unknown key 'szie' in section 'settings'; did"),
        (
            {"defaults": {"settings": {"weight": "x"}}},
            "settings.weight must be a finite number, got 'x'",
        ),
        ({"scenarios": {"small": {"settings": {"size": 0}}}}, "settings.size must be at least 1"),
        (rows_of(bsae={}), r"unknown method.name 'bsae'; did you mean 'base'\? \(known: base"),
        (rows_of(base={"data": {"pairs": 3}}), r"data must be empty with task 'toy'.*'pairs': 3"),
        (rows_of(base={"controls": ["placebo"]}), "controls of 'base' can be none: there is no"),
        (rows_of(ours={"controls": ["noise"]}), "controls of 'ours' can be 'placebo', got 'noise'"),
        (rows_of(ours={"candidates": [{"method.x": 1}]}), r"begin with settings\., got 'method.x'"),
        (rows_of(ours={"candidates": [{"settings.x": 1}]}), "unknown key 'x'"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as info:
        study_of(tmp_path, **changes)
    assert str(info.value).startswith(str(tmp_path)) and "\n" not in str(info.value)


def test_settings_need_a_task_and_a_method_has_no_options(tmp_path: Path) -> None:
    entry = {"ours": {"method": {"name": "ours", "options": {"a": 1}}}}
    with pytest.raises(ConfigError, match=r"method must be empty with task 'toy'.*'options'"):
        study_of(tmp_path, methods=entry, references=[])
    path = tmp_path / "classifiers.yaml"
    data = {side: {"dataset": "digits"} for side in ("teacher", "student")}
    text = {"scenarios": {"s": {"data": data}}, "seeds": {"fresh": [0]}}
    row = {"ce": {"method": {"name": "ce"}, "settings": {"size": 1}}}
    path.write_text(yaml.safe_dump({**text, "methods": row}))
    with pytest.raises(ConfigError, match="settings must be empty without a task, got"):
        load_study(path)


def test_candidates_need_a_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other_toy(monkeypatch, validates=False)
    with pytest.raises(ConfigError, match="candidates must be at most one with task 'toy'"):
        study_of(tmp_path)


# What is shipped -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_a_study_with_its_controls(name: str) -> None:
    study, task = load_study(find_study(name)), task_of(name)
    assert study.task == name and len(study.seeds.fresh) >= 10
    used = {entry.method["name"]: set[str]() for entry in study.methods.values()}
    for entry in study.methods.values():
        used[entry.method["name"]] |= set(entry.controls)
    assert used == {row: set(controls) for row, controls in task.rows.items()}
    assert {kind for kinds in used.values() for kind in kinds} == set(task.shown.meaning)
    assert task.shown.tested and SECONDS in task.shown.others


@pytest.mark.parametrize("name", [n for n in TASKS if (COMMITTED / n / "results.jsonl").exists()])
def test_committed_results_are_whole_and_say_what_the_page_says(name: str) -> None:
    study = load_study(SHIPPED / f"{name}.yaml")
    attempt = StudyRun(study, COMMITTED / name, *_opened(study, COMMITTED / name))
    assert attempt.unexplored() == []
    runs = [r for s in study.scenarios for m in study.methods_of(s)
            for r in fresh(study, s, m, attempt.configurations.choices)]  # fmt: skip
    assert len(attempt.rows()) == len(runs)
    summaries = summarise(study, attempt.rows())
    page = (COMMITTED / name / "summary.md").read_text(encoding="utf-8")
    for table in [*overview(study, summaries), *all_tables(summaries)]:
        assert markdown(table) in page
    assert all(sentence in page for sentence in attempt.configurations.at_an_edge())


def _opened(study: StudyConfig, folder: Path) -> tuple[Any, Any]:
    """Without making or trying the folder."""
    from ucmkd.study.choice import Configurations
    from ucmkd.study.store import Results

    return Results(folder), Configurations(study, folder)


def test_numbers_in_other_forms() -> None:
    assert [number(v, ".3g") for v in (1e-5, 0.001, 2.0)] == ["1e-05", "0.001", "2"]
    assert [signed(v, ".3f") for v in (0.1234, -0.0004, -0.02)] == ["+0.123", "0.000", "−0.020"]
