"""The sweep over SNR and C_μ, its files, and the command."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from ucmkd.theory.contrastive import TwoTokens, draw, learn
from ucmkd.theory.contrastive.__main__ import main
from ucmkd.theory.contrastive.model import signal_for
from ucmkd.theory.contrastive.transition import Row, draw_transition, mean_accuracy, sweep, write


def test_signal_for_a_balance() -> None:
    assert signal_for(1.25, samples=100, dimension=2000) == pytest.approx(5.0)
    assert TwoTokens(signal=signal_for(0.3, samples=100, dimension=2000)).balance == pytest.approx(
        0.3
    )


def test_a_sweep_crosses_from_noise_to_signal(tmp_path: Path) -> None:
    model = TwoTokens(dimension=300, samples=20, neurons=20, outside_signal=4.0)
    balances, advantages = (0.05, 0.8, 20.0), (1.0, 6.0)
    rows = list(sweep(model, balances=balances, advantages=advantages, seeds=(0, 1)))
    assert len(rows) == 2 * 3 * 3
    for advantage in (0.0, *advantages):
        low, high = (mean_accuracy(rows, balance, advantage) for balance in (0.05, 20.0))
        assert high > 0.9 and low < 0.75
    # The second modality moves the crossing.
    assert mean_accuracy(rows, 0.8, 6.0) > mean_accuracy(rows, 0.8, 0.0) + 0.1
    write(rows, tmp_path / "rows.csv")
    with open(tmp_path / "rows.csv", encoding="utf-8") as file:
        stored = list(csv.DictReader(file))
    assert len(stored) == len(rows)
    assert math.isclose(float(stored[3]["loss"]), rows[3].loss, rel_tol=1e-4)
    sample = draw(model, 0)
    curves = [learn(model, sample, multimodal=multimodal) for multimodal in (False, True)]
    path = tmp_path / "figures" / "transition.png"
    draw_transition(rows, curves[0], curves[1], path, advantage=model.advantage)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_mean_accuracy_is_over_the_seeds_of_one_point() -> None:
    rows = [
        Row(1.0, advantage, seed, accuracy, 0.0, 0.0, 0.0, 0.0)
        for advantage, seed, accuracy in ((1.0, 0, 0.5), (1.0, 1, 0.7), (2.0, 0, 0.9))
    ]
    assert mean_accuracy(rows, 1.0, 1.0) == pytest.approx(0.6)


def test_command_refuses_nothing_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "--seeds", "0"]) == 2
    assert "--seeds must be at least 1, got 0" in capsys.readouterr().err
    assert main(["--out", str(tmp_path), "--dimension", "1"]) == 2
    assert "dimension must be at least 2" in capsys.readouterr().err
