"""What a study concludes: hand-worked statistics, tables, files."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import pytest

from ucmkd.study.config import StudyConfig
from ucmkd.study.figures import draw_curves, draw_scores
from ucmkd.study.overview import overview
from ucmkd.study.page import page
from ucmkd.study.render import as_html, differences_csv, latex, markdown, scores_csv
from ucmkd.study.summary import ScenarioSummary, summarise
from ucmkd.study.tables import Table, all_tables, tables
from ucmkd.study.text import p_text, signed

# Test accuracies of three seeds; balanced accuracy is 10 points lower.
SCORES = {
    ("ce", None): [0.5, 0.6, 0.7],
    ("joint", None): [0.6, 0.6, 0.9],
    ("joint", "placebo"): [0.5, 0.7, 0.7],
    ("kd", None): [0.7, 0.9, 0.6],
}
T_2 = 0.95 * math.sqrt(2 / (1 - 0.95**2))  # 97.5 % point of t with two degrees of freedom


def row(method: str, control: str | None, seed: int, accuracy: float) -> dict[str, Any]:
    return {
        "scenario": "s", "method": method, "control": control, "seed": seed,
        "accuracy": accuracy, "balanced_accuracy": accuracy - 0.1, "macro_f1": 0.5, "nll": 1.5,
        "ece": 0.1 + 0.01 * seed, "seconds": 2.0, "train_size": 300, "test_size": 100,
        "teacher_accuracy": None if method == "ce" else 0.9, "ucmkd": "1", "torch": "2",
    }  # fmt: skip


ROWS = [
    row(method, control, seed, value)
    for (method, control), values in SCORES.items()
    for seed, value in enumerate(values)
]


@pytest.fixture
def study() -> StudyConfig:
    from ucmkd.config import from_mapping

    return from_mapping(
        StudyConfig,
        {
            "name": "hand",
            "seeds": {"fresh": [0, 1, 2]},
            "scenarios": {"s": {}, "empty": {}},
            "methods": {
                "ce": {"method": {"name": "ce"}, "label": "CE"},
                "joint": {"method": {"name": "joint_alignment"}, "controls": ["placebo"]},
                "kd": {"method": {"name": "vanilla_kd"}, "curve": {"group": "KD <pairs>", "x": 5}},
            },
            "references": ["ce"],
        },
    )


def only(summaries: list[ScenarioSummary]) -> ScenarioSummary:
    (summary,) = summaries  # a scenario without results is left out
    return summary


def test_means_intervals_and_other_scores(study: StudyConfig) -> None:
    summary = only(summarise(study, ROWS))
    assert [(line.method, line.control) for line in summary.lines] == list(SCORES)
    ce = summary.line("ce")
    assert ce.label == "CE" and ce.n == 3 and math.isnan(ce.means["teacher_accuracy"])
    assert ce.scores["accuracy"].mean == pytest.approx(60.0)
    assert ce.scores["accuracy"].half_width == pytest.approx(T_2 * 10 / math.sqrt(3))
    assert ce.scores["balanced_accuracy"].mean == pytest.approx(50.0)
    assert [ce.means[n] for n in ("ece", "macro_f1", "nll")] == pytest.approx([11.0, 50.0, 1.5])
    assert (summary.train_size, summary.test_size, summary.seeds) == (300, 100, 3)
    assert summary.line("kd").means["teacher_accuracy"] == pytest.approx(90.0)


def test_differences_by_hand(study: StudyConfig) -> None:
    found = only(summarise(study, ROWS)).against["ce"]["accuracy"]
    assert list(found) == ["joint", "kd"]
    # Differences 10, 0, 20: s² = 100, corrected by 1/3 + 100/300 to a standard error of √(200/3).
    joint = found["joint"]
    assert joint.mean == pytest.approx(10.0)
    assert joint.half_width == pytest.approx(T_2 * math.sqrt(200 / 3))
    assert (joint.wins, joint.losses, joint.n) == (2, 0, 3)
    # With two degrees of freedom p = 1 - t/√(t² + 2). 20, 30, -10: s² = 1300/3.
    t_joint, t_kd = 10 / math.sqrt(200 / 3), (40 / 3) / math.sqrt(2 / 3 * 1300 / 3)
    p_joint, p_kd = (1 - t / math.sqrt(t * t + 2) for t in (t_joint, t_kd))
    assert p_joint < p_kd < 2 * p_joint  # so that Holm lifts both to twice the smaller
    assert joint.p_value == pytest.approx(2 * p_joint)
    assert found["kd"].p_value == pytest.approx(2 * p_joint)
    assert (found["kd"].wins, found["kd"].losses) == (2, 1)
    # Signed ranks: two positive ones, P = 2 · 1/4; ranks +2 +3 -1, P = 2 · 2/8; Holm doubles.
    assert joint.wilcoxon == found["kd"].wilcoxon == 1.0


def test_the_last_bits_of_a_score_win_nothing(study: StudyConfig) -> None:
    exact = {0: 0.3, 1: 0.25, 2: 0.5}
    rows = [row | {"accuracy": exact[row["seed"]]} for row in ROWS]
    for row in rows:
        if row["method"] == "kd" and row["seed"] == 0:
            row["accuracy"] = 0.1 + 0.2
    kd = only(summarise(study, rows)).against["ce"]["accuracy"]["kd"]
    assert (kd.wins, kd.losses, kd.p_value) == (0, 0, 1.0)


def test_own_control_is_a_family_of_its_own(study: StudyConfig) -> None:
    found = only(summarise(study, ROWS)).controls
    assert list(found) == ["placebo"] and list(found["placebo"]["accuracy"]) == ["joint"]
    # 10, -10, 20: mean 20/3, s² = 700/3; a family of one is not adjusted.
    t = (20 / 3) / math.sqrt(2 / 3 * 700 / 3)
    d = found["placebo"]["accuracy"]["joint"]
    assert d.p_value == pytest.approx(1 - t / math.sqrt(t * t + 2))
    assert (d.mean, d.wins, d.losses) == (pytest.approx(20 / 3), 2, 1)


def test_only_common_seeds_are_paired(study: StudyConfig) -> None:
    rows = [*ROWS, row("joint", None, 7, 1.0)]
    summary = only(summarise(study, rows))
    assert summary.line("joint").n == 4 and summary.against["ce"]["accuracy"]["joint"].n == 3
    assert summary.against["ce"]["accuracy"]["joint"].mean == pytest.approx(10.0)


def test_the_cautious_sizes_count(study: StudyConfig) -> None:
    rows = [r | {"train_size": 150} if r["method"] == "joint" else r for r in ROWS]
    d = only(summarise(study, rows)).against["ce"]["accuracy"]["joint"]
    assert d.half_width == pytest.approx(T_2 * math.sqrt((1 / 3 + 100 / 150) * 100))


def test_one_seed_has_no_interval(study: StudyConfig, tmp_path: Path) -> None:
    summary = only(summarise(study, [r for r in ROWS if r["seed"] == 0]))
    assert summary.against["ce"]["accuracy"] == {}
    (scores,) = tables(summary)
    assert scores.rows[0][:3] == ["CE", "1", "50.0"]
    draw_scores(summary, tmp_path / "one.png")
    assert draw_curves(summary, "pairs", tmp_path / "two.png")


def test_tables_in_every_format(study: StudyConfig) -> None:
    scores, against, controls = all_tables(summarise(study, ROWS))
    assert scores.rows[0][:4] == ["CE", "3", "60.0 ± 24.8", "50.0 ± 24.8"]
    assert scores.rows[2][0].strip() == "placebo"
    assert against.rows[0][:5] == ["joint", "+10.0 ± 35.1", ".691", "1", "2/0"]
    assert controls.rows[0][0] == "joint − placebo"
    text = markdown(against)
    assert "| joint | +10.0 ± 35.1 | .691 | 1 | 2/0 |" in text and "|:--|--:|" in text
    tex = latex(Table("a_b", "50 % & more", ["", "x"], [["−1 < Δ", "±"]]))
    assert r"\caption{a\_b. 50 \% \& more}" in tex
    assert r"$-$1 $<$ $\Delta$ & $\pm$ \\" in tex and r"\begin{tabular}{lr}" in tex
    assert "<td>&lt;b&gt;</td>" in as_html(Table("t", "c", ["", "x"], [["<b>", "1"]]))


def test_overview_of_several_scenarios(study: StudyConfig) -> None:
    """Rows of one scenario alone keep their place; what is significant has its mark."""
    assert overview(study, summarise(study, ROWS)) == []
    scores_there = {"ce": [0.5, 0.5, 0.5], "joint": [0.8, 0.801, 0.802], "kd": [0.7, 0.701, 0.702]}
    other = [
        row(method, None, seed, value) | {"scenario": "empty"}
        for method, values in scores_there.items()
        for seed, value in enumerate(values)
    ]
    rows = [r for r in ROWS if r["method"] != "joint"] + other
    scores, *rest = overview(study, summarise(study, rows))
    assert rest == []  # no row has its control
    assert scores.header == ["", "s", "empty"]
    assert [cells[0] for cells in scores.rows] == ["CE", "joint", "kd"]
    assert scores.rows[1] == ["joint", "–", "80.1 ± 0.2†"]
    assert scores.rows[2][1] == "73.3 ± 37.9" and scores.rows[2][2] == "70.1 ± 0.2†"
    assert "above CE" in scores.caption

    own = overview(study, summarise(study, ROWS + other))[1]
    # 10, -10, 20: see the test of the own control; balanced accuracy has the same differences.
    assert own.rows[0][1:] == ["+6.7 ± 53.7 / +6.7", "–"]


def test_csv_has_full_precision(study: StudyConfig) -> None:
    summaries = summarise(study, ROWS)
    scores = list(csv.DictReader(io.StringIO(scores_csv(summaries))))
    (found,) = [r for r in scores if (r["method"], r["metric"]) == ("ce", "accuracy")]
    assert float(found["half_width"]) == pytest.approx(T_2 * 10 / math.sqrt(3), rel=1e-12)
    differences = list(csv.DictReader(io.StringIO(differences_csv(summaries))))
    assert len(differences) == 6
    (own,) = [r for r in differences if r["other_control"] and r["metric"] == "accuracy"]
    assert (own["method"], own["other"], own["losses"]) == ("joint", "joint", "1")


def test_a_narrow_terminal_goes_without_columns() -> None:
    table = Table("t", "c", ["", "aaaa", "bbbb"], [["xx", "1", "2"]], optional=("bbbb", "aaaa"))
    assert table.within(80) is table
    assert table.within(10).header == ["", "aaaa"] and table.within(10).rows == [["xx", "1"]]
    assert table.within(3).header == [""]


def test_figures_and_page(study: StudyConfig, tmp_path: Path) -> None:
    summary = only(summarise(study, ROWS))
    scores, curves = tmp_path / "s.png", tmp_path / "c.png"
    draw_scores(summary, scores)
    assert draw_curves(summary, "number of pairs", curves)
    text = page(study, [summary], {"s": [scores, curves]}, ROWS, {"s": {"ce": "<x>"}}, ["A note."])
    assert text.count("data:image/png;base64,") == 2
    assert "&lt;x&gt;" in text and "<li>A note.</li>" in text
    for outside in ("http:", "https:", "<script", "<link"):
        assert outside not in text
    without = [line for line in summary.lines if line.curve is None]
    summary.lines[:] = without
    assert not draw_curves(summary, "x", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_short_numbers() -> None:
    assert [signed(v) for v in (1.23, -0.31, 0.01, -0.01)] == ["+1.2", "−0.3", "0.0", "0.0"]
    assert [p_text(v) for v in (0.0001, 0.0124, 1.0)] == ["<.001", ".012", "1"]
