"""The study of hash codes: its files, and what they say."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from benches.hashing import study
from benches.hashing.__main__ import OUT, main
from benches.hashing.report import WAYS, markdown, scores

from ucmkd.data import Views
from ucmkd.data.base import DIGITS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten classes in two views of the widths of fac and fou."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 10
    views = {
        name: (rng.normal(size=(10, d))[labels] + 0.5 * rng.normal(size=(300, d))).astype("f4")
        for name, d in (("fac", 70), ("fou", 66))
    }
    ids = np.array([f"made-{k}" for k in range(300)])
    data = Views("made up", views, labels.astype(np.int64), DIGITS, ids)
    monkeypatch.setattr(study, "load", lambda *_, **__: data)
    for cached in (study.pairs, study._canonical):
        cached.cache_clear()


def test_command_goes_on_and_reports(
    made_up: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--out", str(tmp_path), "--seeds", "2", "--steps", "3"]
    assert main(command) == 0
    path = tmp_path / "scores.csv"
    whole = path.read_text()
    assert len(whole.splitlines()) == 1 + 2 * (6 * 3 + len(study.GAPS))
    path.write_text(whole[: whole.rindex(",")])  # a kill in the middle of the last line
    capsys.readouterr()
    assert main(command) == 0
    out = capsys.readouterr().out
    assert out.startswith("1/1  cmimh | 32 | 30 | 1 | 3")
    again, before = (list(csv.DictReader(t.splitlines())) for t in (path.read_text(), whole))
    assert [{**r, "seconds": ""} for r in again] == [{**r, "seconds": ""} for r in before]
    assert (tmp_path / "precision.png").read_bytes().startswith(b"\x89PNG")
    assert all(f"{way}, 32 |" in out for way in WAYS.values())
    assert main(["--out", str(tmp_path), "--seeds", "1"]) == 2
    assert "--seeds must lie in 2..5, got 1" in capsys.readouterr().err
    assert main(["--out", str(tmp_path), "--steps", "-1"]) == 2


def test_queries_are_not_in_the_database(made_up: None) -> None:
    data = study.pairs(0)
    assert not set(data.train.tolist()) & set(data.test.tolist())
    assert len(data.train) == 240 and np.allclose(data.x[data.train].std(axis=0), 1, atol=1e-6)
    assert not np.allclose(data.x[data.test].mean(axis=0), 0, atol=1e-3)


def test_committed_results() -> None:
    """Every line of the grid on at least three seeds; codes by chance are at the chance level."""
    rows = study.read(OUT / "scores.csv")
    seeds = sorted({int(row["seed"]) for row in rows})
    assert len(seeds) >= 3
    assert {tuple(row[k] for k in study.KEY) for row in rows} == {r.key for r in study.grid(seeds)}
    found = scores(rows)
    known = {(s.method, s.bits, s.gap): s for s in found}
    for way in WAYS:
        for bits in study.BITS:
            assert known["random", bits, 0.0].interval(way).mean == pytest.approx(10, abs=1)
            placebo = known["placebo", bits, study.GAP].interval(way).mean
            assert placebo < known["cmimh", bits, study.GAP].interval(way).mean - 20
    sizes = int(rows[0]["train_size"]), int(rows[0]["test_size"])
    assert (OUT / "table.md").read_text(encoding="utf-8") == markdown(found, sizes)
