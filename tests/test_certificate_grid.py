"""The bound over a grid of runs: a few here, and the committed table of them all."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from benches.certificate import KEY, RESULTS, Run, execute, grid, read
from benches.certificate_figure import BOUNDS, draw, ratios, report

pytestmark = pytest.mark.usefixtures("one_thread")
ROWS = read(RESULTS / "certificate.csv")
FEW = [
    Run("synthetic: 2 classes", "feature_kd", "untrained", 11),
    Run("synthetic: 5 classes, other frequencies", "joint_alignment", "trained", 12),
    Run("synthetic: 20 classes", "class_mmd", "trained", 13),
    Run("digits_offline", "ucmkd", "trained", 14),
]


def test_a_few_runs_hold_and_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "certificate.csv"
    first = execute(FEW[:2], path, teacher_steps=30, student_steps=20)
    # The kill that came in the middle of a line.
    path.write_text(path.read_text() + "synthetic: 20 classes,class_mmd,tra")
    rows = execute(FEW, path, teacher_steps=30, student_steps=20)
    assert rows[:2] == first and len(rows) == 4
    assert "2/2  digits_offline | ucmkd | trained | 14" in capsys.readouterr().out
    for row in rows:
        assert row["holds"] == "True"
        for _, bound, error in BOUNDS:
            assert float(row[bound]) >= float(row[error])
    draw(rows, tmp_path / "certificate.png")
    assert (tmp_path / "certificate.png").stat().st_size > 5000
    assert "4 runs: every bound holds in 4" in report(rows)
    assert ratios(rows, "bound", "student_error")[0] >= 1


def test_committed_grid_holds_everywhere() -> None:
    """At least 200 runs, all of the grid; sums are sums, and no bound is below its error."""
    known = {tuple(row[name] for name in KEY) for row in ROWS}
    assert known == {run.key for run in grid()} and len(ROWS) == len(known) >= 200
    assert sum(row["problem"].startswith("synthetic") for row in ROWS) >= 50
    assert sum(not row["problem"].startswith("synthetic") for row in ROWS) >= 50
    for row in ROWS:
        value = {k: float(v) for k, v in row.items() if k not in (*KEY, "holds", "entropy_covered",
                                                                  "informative")}  # fmt: skip
        terms = value["teacher_entropy"] + value["label_alignment"]
        assert value["bound"] == pytest.approx(terms + value["feature_alignment"], rel=1e-4)
        assert value["logit_bound"] == pytest.approx(terms + value["logit_alignment"], rel=1e-4)
        tau = value["entropy_constant"] * value["spectral_norm"]
        assert value["feature_alignment"] == pytest.approx(tau * value["wasserstein"], rel=1e-4)
        other = value["teacher_error"] + value["prior_mismatch"]
        assert value["class_bound"] == pytest.approx(other + value["class_alignment"], rel=1e-4)
        assert row["holds"] == "True"
        assert all(value[bound] >= value[error] for _, bound, error in BOUNDS)
        assert row["entropy_covered"] == str(value["teacher_error"] >= value["teacher_entropy"])
        assert math.isfinite(value["test_error"])
