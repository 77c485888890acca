"""``ucmkd info --bench``."""

import pytest
import torch

from ucmkd import _backend, speed_here
from ucmkd.cli import main
from ucmkd.speed_here import Case, Setting, advice, measure, table


def test_measures_and_advises(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(speed_here, "SIZES", (4, 8))
    monkeypatch.setattr(speed_here, "SECONDS", 0.02)
    monkeypatch.setattr(speed_here.measure, "__defaults__", (0.02,))
    before = torch.get_num_threads()
    assert main(["info", "--bench"]) == 0
    assert torch.get_num_threads() == before
    shown = capsys.readouterr().out
    for word in (
        "sinkhorn_align    4",
        "mmd_align    8",
        "cpu, torch, 1 thread ",
        "On the CPU use",
    ):
        assert word in shown
    assert ("cpu, rust" in shown) == _backend.has_rust()


def test_the_fastest_over_all_cases_wins() -> None:
    one, two = Setting("cpu", "rust", 1), Setting("cpu", "rust", 2)
    slow = Setting("cpu", "torch", 2)
    times = {
        Case("sinkhorn_align", 64): {one: 1e-3, two: 1.5e-3, slow: 9e-3},
        Case("sinkhorn_align", 1024): {one: 9e-3, two: 5e-3, slow: 20e-3},
    }
    (sentence,) = advice(times)
    assert sentence.startswith("On the CPU use rust") and "set_num_threads(2)" in sentence
    times[Case("mmd_align", 64)] = {one: 1e-3, two: 4e-3, slow: 5e-3}
    assert "set_num_threads(1)" in advice(times)[0]
    lines = table(times)
    assert len(lines) == 4 and lines[1].split()[-3:] == ["1", "9", "1"]


def test_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"seconds must be positive, got 0"):
        measure(0)
    assert main(["info", "--fast"]) == 2
    assert "no argument but --bench, got '--fast'" in capsys.readouterr().err
    assert main(["info", "--help"]) == 0 and "--bench" in capsys.readouterr().out
