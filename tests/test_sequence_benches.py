"""The studies of language and of coherence at toy size: a table, and nothing is run twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ucmkd.coherence import CoherenceTraining, Stretches
from ucmkd.language import character_text

pytestmark = pytest.mark.usefixtures("one_thread")


def test_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benches import language
    from benches.language_table import write_table

    text = character_text([f"word {k % 7} and {k % 3}" for k in range(200)], run=5, least=1)
    sizes = language.Sizes(
        teacher_width=16, teacher_layers=1, student_width=16, context=16, teacher_steps=2,
        start_steps=2, steps=2, batch=2, prompt=4, response=4,
    )  # fmt: skip
    rows = language.execute((1, 2), tmp_path, tmp_path / "work", sizes, text)
    assert [row["method"] for row in rows[: len(rows) // 2]] == [*language.ENDS, *language.METHODS]
    assert {row["tokens"] for row in rows} == {"", "16"}
    before = (tmp_path / "table.csv").read_text()
    monkeypatch.setattr(language, "measure", lambda *_: pytest.fail("run twice"))
    assert language.execute((1, 2), tmp_path, tmp_path / "work", sizes, text) == rows
    assert (tmp_path / "table.csv").read_text() == before
    shown = write_table(rows, tmp_path / "table.md")
    mine = [float(r["perplexity"]) for r in rows if r["method"] == "on-policy"]
    other = [float(r["perplexity"]) for r in rows if r["method"] == "supervised"]
    line = next(li for li in shown.splitlines() if li.startswith("| on-policy |")).split(" | ")
    assert line[1] == f"{sum(mine) / 2:.3f}"
    assert line[2].startswith(f"{(sum(mine) - sum(other)) / 2:+.3f} ±")


def test_coherence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benches import coherence
    from benches.coherence_table import write_table

    sensors = torch.randn(2, 60, 3, 2, generator=torch.Generator().manual_seed(0))
    made = Stretches(*sensors, starts=torch.arange(0, 60, 3), count=3)
    monkeypatch.setattr(coherence, "smartwatch_stretches", lambda seed: (made, made))
    training = CoherenceTraining(steps=1, rounds=1, round_steps=1, batch=4)
    rows = coherence.execute((1, 2), tmp_path, tmp_path / "work", training)
    assert len(rows) == 16 and {row["rounds"] for row in rows} == {"0", "1"}
    monkeypatch.setattr(coherence, "measure", lambda *_: pytest.fail("run twice"))
    assert coherence.execute((1, 2), tmp_path, tmp_path / "work", training) == rows
    shown = write_table(rows, tmp_path / "table.md")
    taus = [float(r["tau"]) for r in rows if (r["rounds"], r["guidance"]) == ("1", "gold")]
    line = next(li for li in shown.splitlines() if li.startswith("| 1 | gold |"))
    assert line.split(" | ")[2] == f"{sum(taus) / 2:.3f}"
