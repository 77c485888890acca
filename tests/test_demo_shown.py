"""What the demo shows: numbers, sentences that follow from them, tables and pictures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from ucmkd.demo.figures import draw
from ucmkd.demo.findings import findings
from ucmkd.demo.numbers import Outcome, compare
from ucmkd.demo.scenes import SCENES
from ucmkd.demo.tables import control_table, pair_table, recall_table, score_table
from ucmkd.study.text import p_text, signed

CLASSES = ("Normal-like", "Basal-like", "c")


def outcome(scene: int, shifts: dict[str, float], *, noise: float = 0.004, n: int = 10) -> Outcome:
    """Made-up results: every row at .6 plus its shift, with a common effect of the split."""
    rng = np.random.default_rng(1)
    common = rng.normal(0, 0.03, n)
    results = {}
    for row in ("teacher", *(r.key for r in SCENES[scene - 1].rows)):
        scores = 0.6 + shifts.get(row, 0.0) + common + rng.normal(0, noise, n)
        results[row] = [
            {
                "accuracy": float(s),
                "balanced_accuracy": float(s) - 0.1,
                "recall": [float(s), None if k == 0 else 0.5, 0.2],
                "curve": [[25, 0.4, 0.3], [50, float(s), 0.4]],
                "feature": rng.normal(size=(12, 4)).tolist(),
                "feature_label": (np.arange(12) % 3).tolist(),
            }
            for k, s in enumerate(scores)
        ]
    return Outcome(results, CLASSES, train_size=600, test_size=150)


def test_numbers() -> None:
    o = outcome(1, {"joint": 0.1})
    assert o.interval("joint", "accuracy").mean == pytest.approx(
        100 * np.mean([r["accuracy"] for r in o.results["joint"]])
    )
    found = compare(o, [("joint", "ce"), ("self", "ce")], "accuracy")
    assert found["joint", "ce"].significant and not found["self", "ce"].significant
    assert found["joint", "ce"].p_value == pytest.approx(
        2 * o.difference("joint", "ce", "accuracy").p_value
    )
    assert o.recall("ce")[1] == pytest.approx(50.0)  # the split without the class is left out
    assert (signed(0.04), signed(-0.04), signed(-1.26)) == ("0.0", "0.0", "−1.3")
    assert (p_text(0.0004), p_text(0.0123), p_text(1.0)) == ("<.001", ".012", "1")


KNOWS = "what the teacher knows about the classes helps here"
NOT_SHOWN = "is not shown here"


@pytest.mark.parametrize(
    ("shifts", "words", "absent"),
    [
        ({"joint": 0.1, "self": 0.05, "placebo": 0.05}, KNOWS, NOT_SHOWN),
        ({"joint": 0.1, "self": 0.1, "placebo": 0.1}, NOT_SHOWN, KNOWS),
        ({"joint": 0.1, "self": 0.1, "placebo": 0.0}, "no teacher is not shown", KNOWS),
        ({"joint": 0.1, "self": 0.0, "placebo": 0.1}, "which is not shown", KNOWS),
    ],
)
@pytest.mark.parametrize("scene", [1, 3])
def test_findings_follow_the_controls(
    scene: int, shifts: dict[str, float], words: str, absent: str
) -> None:
    first, second = findings(SCENES[scene - 1], outcome(scene, shifts))
    assert "rose by" in first and "against tuned cross-entropy" in first
    assert words in second and absent not in second


def test_findings_do_not_sell_noise() -> None:
    o = outcome(1, {"joint": 0.01}, noise=0.05)
    first, second = findings(SCENES[0], o)
    assert "did not change significantly" in first and "rose by" not in first
    assert NOT_SHOWN in second and "significantly behind" not in second
    behind = findings(SCENES[0], outcome(1, {"placebo": 0.1}))[1]
    assert "significantly behind its placebo in accuracy and balanced accuracy" in behind
    down = findings(SCENES[2], outcome(3, {"joint": -0.2}))[0]
    assert "fell by" in down and "rose" not in down


def test_findings_on_pairs() -> None:
    shifts = {
        "kd@5": 0.02, "kd@10": 0.06, "kd@20": 0.12, "kd@50": 0.16, "kd@all": 0.2,
        "joint": 0.1, "joint@5": 0.1, "joint@10": 0.12, "joint@20": 0.12, "joint@50": 0.16,
        "joint@all": 0.15, "self": 0.1, "self@5": 0.1, "self@10": 0.06, "self@20": 0.12,
        "self@50": 0.16, "self@all": 0.15, "kd_placebo@all": -0.2, "all_labels": 0.2,
    }  # fmt: skip
    first, second = findings(SCENES[1], outcome(2, shifts))
    assert "accuracy rose by" in first
    assert "which distillation alone reaches with 20 pairs" in second
    assert "ahead of distillation alone at 5 and 10," in second
    assert "behind it at all" in second
    assert "self-labelling with the same pairs at 10." in second
    none = findings(SCENES[1], outcome(2, {}, noise=0.05))[1]
    assert "at none of the numbers tried" in none


@pytest.mark.parametrize("scene", SCENES, ids=lambda s: str(s.number))
def test_tables_fit_and_pictures_are_drawn(scene: Any, tmp_path: Path) -> None:
    o = outcome(scene.number, {"joint": 0.1})
    console = Console(width=80, record=True, force_terminal=False, file=io.StringIO())
    if scene.number == 2:
        console.print(pair_table(o, "accuracy"))
    else:
        console.print(score_table(o, scene.rows))
        console.print(control_table(o, scene.rows))
    console.print(recall_table(o, scene.rows))
    text = console.export_text()
    assert "…" not in text and "Normal " in text and max(map(len, text.splitlines())) <= 80
    if scene.number != 2:
        for row in scene.rows:
            assert f" {row.label} " in text
        mean = o.interval("joint", "accuracy")
        assert f"{mean.mean:.1f}±{mean.half_width:.1f}" in text

    path = tmp_path / "new" / "scene.png"
    draw(scene, o, path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 20_000
