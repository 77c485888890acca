"""The study of rules: its arithmetic on numbers worked by hand, and that it resumes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benches.teachers import analysis, problems
from benches.teachers.analysis import Gain, by_pair, crossing, gains, grade, verdicts
from benches.teachers.gains import train
from benches.teachers.margins import QUESTIONS, answer, margins, missing, samples_of
from benches.teachers.problems import PROBLEMS, SEEDS, Problem
from benches.teachers.report import write_report

from ucmkd.preparation import prepare
from ucmkd.study.jsonl import read_lines
from ucmkd.study.plan import Run

pytestmark = pytest.mark.usefixtures("one_thread")


def gain(teacher: str, student: str, mean: float, half: float = 1.0) -> Gain:
    pair = ("brca", teacher, student)
    return Gain(pair, mean, mean - half, mean + half, 10, 50.0, 60.0)


MEASURED = {
    g.pair: g
    for g in (
        gain("a", "s", 5.0), gain("b", "s", 2.0), gain("c", "s", -3.0), gain("d", "s", 0.5),
    )
}  # fmt: skip


def margin_of(**values: tuple[float, ...]) -> dict[analysis.Pair, dict[int, float]]:
    return {("brca", t, "s"): dict(enumerate(v)) for t, v in values.items()}


def test_grade_by_hand() -> None:
    found = grade(MEASURED, margin_of(a=(1, 3), b=(4, -2), c=(2, -1), d=(-1, -1)), decides=True)
    assert found is not None
    # Significant: a, b (gains) and c (a loss); the mean margins 2, 1 and 0.5 have signs +, +, +.
    assert found.significant == 3
    assert found.agreement == pytest.approx(2 / 3)
    assert found.agreement_once == pytest.approx((1 + 0.5 + 0.5) / 3)
    # Margins a 2, b 1, c 0.5, d -1; gains a 5, b 2, d 0.5, c -3: one swap, 1 - 6·2/(4·15).
    assert found.spearman == found.within == pytest.approx(0.8)
    # Seed 0 takes b (lost 5 - 2), seed 1 takes a (lost 0).
    assert found.regret == found.regret_forced == pytest.approx(1.5)


def test_regret_where_the_rule_declines() -> None:
    low = margin_of(a=(-2.0,), b=(-3.0,), c=(-1.0,), d=(-4.0,))
    declined = grade(MEASURED, low, decides=True)
    ranks_only = grade(MEASURED, low, decides=False)
    assert declined is not None and ranks_only is not None
    assert (declined.regret, declined.regret_forced) == (5.0, 8.0)
    assert ranks_only.regret == 8.0 and math.isnan(ranks_only.agreement)
    assert grade(MEASURED, {}, decides=True) is None


def test_verdicts_by_hand() -> None:
    ends = {"a": (1.0, 2.0), "b": (-1.0, 1.0), "c": (0.5, 1.0), "d": (-2.0, -1.0)}
    rows: list[dict[str, Any]] = [
        {"problem": "brca", "teacher": t, "student": "s", "rule": "r", "low": low, "high": high}
        for t, (low, high) in ends.items()
    ]
    found = verdicts(MEASURED, rows, "r")
    assert found is not None
    # "helps" for a (a gain) and c (a loss); "does not help" for d (a small gain).
    assert (found.helps, found.helps_right) == (0.5, 0.5)
    assert (found.against, found.against_right) == (0.25, 0.0)
    assert verdicts(MEASURED, [{**rows[0], "low": None}], "r") is None


def test_crossing() -> None:
    assert crossing([0, 1, 2, 4], [3, 1, -1, -5]) == 1.5
    assert crossing([0, 1], [2, 0]) == 1.0
    assert math.isnan(crossing([0, 1], [2, 1])) and math.isnan(crossing([0, 1], [-2, -1]))
    assert [x for x, _, _ in analysis.curve("digits", "noise")] == [0, 2, 4, 8, 12, 16, 24]


def row(scenario: str, method: str, seed: int, accuracy: float) -> dict[str, Any]:
    return {
        "scenario": scenario, "method": method, "seed": seed, "accuracy": accuracy,
        "balanced_accuracy": accuracy, "teacher_accuracy": 0.9, "train_size": 700,
        "test_size": 300,
    }  # fmt: skip


def made_up() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of every paired problem: gains as large as the teacher's place in the list."""
    rng = np.random.default_rng(0)
    rows, asked = [], []
    for name, problem in PROBLEMS.items():
        for seed in SEEDS[:5]:
            for student in problem.students:
                rows += [row(f"{name}/{student}", m, seed, 0.5) for m in problems.ALONE]
            for place, (teacher, student) in enumerate(problem.pairs):
                for method in problem.settings:
                    accuracy = 0.5 + 0.01 * place + 0.001 * rng.random()
                    rows.append(row(f"{name}/{teacher}>{student}", method, seed, accuracy))
                for rule in QUESTIONS:
                    asked.append(
                        {"problem": name, "teacher": teacher, "student": student, "seed": seed,
                         "rule": rule, "margin": place - 3.0, "seconds": 0.1}
                    )  # fmt: skip
    return rows, asked


def test_gains_are_paired_by_seed() -> None:
    scenario = "brca/rna>mirna"
    rows = [row(scenario, "paired", s, 0.6 + 0.01 * s) for s in range(6)]
    rows += [row("brca/mirna", "ce", s, 0.5 + 0.01 * s) for s in range(1, 7)]
    (found,) = gains(analysis.scores(rows), "paired").values()
    assert found.mean == pytest.approx(10.0) and found.seeds == 5
    assert found.low == pytest.approx(found.high)  # the same difference in all seeds
    assert gains(analysis.scores(rows[:4] + rows[6:]), "paired") == {}  # too few seeds
    assert found.base == pytest.approx(53.0) and found.teacher == pytest.approx(90.0)


def test_report(tmp_path: Path) -> None:
    rows, asked = made_up()
    asked = [row for row in asked if row["rule"] in ("trial", "MMD")]
    text = write_report(rows, asked, tmp_path)
    assert "| trial |" in text and "## Gains, paired" in text
    names = {path.name for path in tmp_path.iterdir()}
    assert {"gains.csv", "margins.csv", "rules.csv", "scores.csv", "results.md"} <= names
    pictures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert pictures == {
        "paired.png", "unpaired.png", "ucmkd.png", "unpaired_teacher_part.png", "rules.png",
        "crossing.png", "paired_many_labels.png",
    }  # fmt: skip
    lines = (tmp_path / "gains.csv").read_text().splitlines()
    pairs = sum(len(p.pairs) for p in PROBLEMS.values())
    paired = sum(len(p.pairs) for p in PROBLEMS.values() if p.paired)
    few = sum(len(p.pairs) for p in PROBLEMS.values() if "unpaired" in p.settings)
    assert len(lines) == 1 + paired + 3 * few and pairs == paired + 3


# --- a small problem, trained and asked ---------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Problem:
    problem = Problem(
        name="small",
        title="",
        sides={
            v: {"dataset": "digits_degraded", "view": v} for v in ("pixels", "noise24", "shape")
        },
        pairs=(("pixels", "shape"), ("noise24", "shape")),
        labels_per_class=3,
        settings=("paired",),
    )
    monkeypatch.setitem(PROBLEMS, "small", problem)
    monkeypatch.setitem(problems.DEFAULTS, "training", {"steps": 3, "eval_every": 3})
    monkeypatch.setitem(problems.DEFAULTS, "teacher", {"steps": 3})
    return problem


def test_trainings_resume(small: Problem, tmp_path: Path) -> None:
    runs = small.runs((5, 6))
    assert [(run.scenario, run.method) for run in runs[:3]] == [
        ("small/shape", "ce"), ("small/pixels>shape", "paired"), ("small/noise24>shape", "paired"),
    ]  # fmt: skip

    def names(part: list[Run]) -> list[str]:
        seen: list[str] = []
        train(part, tmp_path, workers=0, advance=lambda row: seen.append(str(row["scenario"])))
        return seen

    assert len(names(runs[:4])) == 4
    assert len(names(runs)) == 2
    assert names(runs) == []
    rows = read_lines(tmp_path / "results.jsonl")
    assert len({row["key"] for row in rows}) == 6 and all("error" not in row for row in rows)


def test_networks_are_asked_once() -> None:
    asks = missing([PROBLEMS["brca"], PROBLEMS["digits_many"]], (7, 8), [], False)
    found = {(ask.problem, ask.seed, name) for ask in asks for name in ask.questions}
    assert ("brca", 7, "CCH, InfoNCE") in found and ("brca", 7, "CCH, latent") in found
    asked = {(problem, seed) for problem, seed, name in found if QUESTIONS[name].only}
    assert asked == {("brca", 7)}
    assert ("digits_many", 8, "trial") in found


def test_questions_resume_and_see_the_trainings_samples(small: Problem, tmp_path: Path) -> None:
    path = tmp_path / "margins.jsonl"
    asks = missing([small], (5, 6), [], False)
    assert [(ask.seed, ask.student) for ask in asks] == [(5, "shape"), (6, "shape")]
    quick = [type(ask)(ask.problem, ask.student, ask.seed, ("accuracy", "CKA")) for ask in asks]
    assert answer(quick, path, workers=0, advance=lambda n: None) == []
    found = margins(path)
    assert len(found) == 2 * 2 * 2
    left = missing([small], (5, 6), read_lines(path), False)
    assert all(not {"accuracy", "CKA"} & set(ask.questions) for ask in left)
    margin = by_pair(found, "accuracy")
    assert margin["small", "pixels", "shape"][5] > margin["small", "noise24", "shape"][5]

    run = small.runs((5,))[1]
    prepared = prepare(run.configurations[0].recipe.data, 5)
    samples = samples_of(small, "shape", 5)
    assert prepared.student.paired is not None
    count = len(prepared.student.student)
    assert len(samples.student) == count + len(prepared.student.paired)
    torch.testing.assert_close(samples.labels[:count], prepared.student.student_label)
    # The training's inputs are standardised: compare what that leaves alone, who is who.
    given = samples.student[count:].double()
    mean, scale = (prepared.transform.standardiser.mean, prepared.transform.standardiser.scale)  # type: ignore[union-attr]
    wanted = (given - torch.from_numpy(mean)) / torch.from_numpy(scale)
    torch.testing.assert_close(prepared.student.paired.double(), wanted, atol=1e-4, rtol=1e-4)
