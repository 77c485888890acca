"""What a study costs: sums of stored seconds, on hand-made results and on a study that ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ucmkd.study import StudyRun, load_study, run_study
from ucmkd.study.choice import exploration_cost
from ucmkd.study.compact import compact
from ucmkd.study.cost import cost, cost_of, main, together
from ucmkd.study.jsonl import append_line

ROW: dict[str, Any] = {"phase": "fresh", "seconds": 2.0, "processor_seconds": 1.5}


def test_sums_of_fresh_and_exploratory_runs() -> None:
    found = cost([ROW, ROW], [{"trainings": 8, "processor_seconds": 117.0}])
    assert (found.fresh, found.explored, found.processor, found.wall) == (2, 8, 120.0, 4.0)
    assert str(found) == (
        "10 trainings, 8 of them exploratory; 2.0 min of processor time, 1.0 min on 2 cores"
    )


def test_results_of_earlier_versions_have_wall_time_only() -> None:
    old = {"seconds": 30.0}
    choice = {"mean_validation_scores": [1.0, None, 1.2], "seeds": [0, 1]}
    found = cost([ROW, old], [choice])
    assert (found.fresh, found.explored, found.processor) == (2, 6, None)
    assert str(found).endswith("processor time not stored, 0.5 min of wall time")
    assert together([found, cost([ROW], [])]).processor is None
    assert together([cost([ROW], []), cost([ROW], [])]).processor == 3.0


def test_the_cost_of_a_choice() -> None:
    assert exploration_cost([1.0, 2.5]) == {"trainings": 2, "processor_seconds": 3.5}
    assert exploration_cost([1.0, None]) == {"trainings": 2}


def test_of_several_results_with_one_key_the_last_counts(tmp_path: Path) -> None:
    for seconds in (1.0, 4.0):
        row = {**ROW, "key": "a", "processor_seconds": seconds}
        append_line(tmp_path / "results.jsonl", row)
    append_line(tmp_path / "results.jsonl", {**ROW, "key": "b", "error": "it failed"})
    assert (cost_of(tmp_path).fresh, cost_of(tmp_path).processor) == (1, 4.0)


@pytest.mark.usefixtures("one_thread")
def test_a_compacted_study_knows_its_exploratory_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = {"dataset": "digits", "view": "shape"}
    study = {
        "seeds": {"explore": [0], "fresh": [100, 101]},
        "defaults": {"training": {"steps": 4, "eval_every": 2}, "student": {"hidden": 8}},
        "scenarios": {"digits": {"data": {side: digits for side in ("teacher", "student")}}},
        "methods": {
            "ce": {
                "method": {"name": "ce"},
                "candidates": [{"optimizer.lr": 1e-3}, {"optimizer.lr": 1e-2}],
            }
        },
    }
    path, folder = tmp_path / "study.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(study))
    attempt = StudyRun.open(load_study(path), folder)
    run_study(attempt, workers=0)
    before = cost_of(folder)
    assert (before.fresh, before.explored) == (2, 2)
    assert before.processor is not None and before.processor > 0
    compact(folder)
    assert cost_of(folder).processor == pytest.approx(before.processor, abs=1e-4)
    assert main([str(folder), str(folder)]) == 0
    assert "together: 8 trainings, 4 of them exploratory" in capsys.readouterr().out


def test_a_folder_without_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2 and "usage" in capsys.readouterr().out
    assert main([str(tmp_path)]) == 1
    assert "holds no study" in capsys.readouterr().err
