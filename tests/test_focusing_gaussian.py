"""The Gaussian study of modality focusing: its data, its fits, its findings."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ucmkd.theory.focusing import focus, increase_shared, nested, overlapping
from ucmkd.theory.focusing.__main__ import main
from ucmkd.theory.focusing.linear import Linear, fit, fit_together, sigmoid
from ucmkd.theory.focusing.study import Shared
from ucmkd.theory.focusing.summary import gain, table


def test_overlapping_features_are_where_they_are_said() -> None:
    rng = np.random.default_rng(0)
    normal = np.arange(1.0, 9.0)
    found = overlapping(normal, 50, rng, shared=1, decisive=4, teacher_width=9, student_width=6)
    assert found.teacher.shape == (50, 9) and found.student.shape == (50, 6)
    # Student's channels 0..3, teacher's 3..6, channel 3 in common.
    equal = np.isclose(found.teacher[:, :6], found.student[:, :6]).all(axis=0)
    assert equal.tolist() == [False, False, False, True, False, False]


def test_labels_of_nested_features() -> None:
    rng = np.random.default_rng(1)
    found = nested(np.array([1.0, -2.0, 0.5]), 80, rng, shared=2, own=1, width=4)
    assert np.array_equal(found.teacher[:, :2], found.student[:, :2])
    assert not np.isclose(found.teacher[:, 2:], found.student[:, 2:]).any()
    expected = found.teacher[:, 0] - 2 * found.teacher[:, 1] + 0.5 * found.teacher[:, 2] > 0
    assert np.array_equal(found.labels, expected.astype(float))


@pytest.mark.parametrize("with_teacher", [False, True])
def test_fit_is_that_of_two_outputs(with_teacher: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's two-output layer, cross-entropy and KLDivLoss with its default reduction."""
    rng = np.random.default_rng(2)
    x, labels = rng.standard_normal((30, 4)), (rng.random(30) < 0.5).astype(float)
    answer = rng.random(30)
    layer = torch.nn.Linear(4, 2).double()
    weight, bias = layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()
    begin = Linear(weight[1] - weight[0], float(bias[1] - bias[0]))
    monkeypatch.setattr("ucmkd.theory.focusing.linear.start", lambda width, rng: begin)
    found = fit(x, labels, rng, answer=answer if with_teacher else None, weight=0.7, steps=40)
    descent = torch.optim.SGD(layer.parameters(), lr=0.1)
    target = torch.from_numpy(np.stack((1 - answer, answer), axis=1))
    for _ in range(40):
        logits = layer(torch.from_numpy(x))
        loss = F.cross_entropy(logits, torch.from_numpy(labels).long())
        if with_teacher:
            # The mean over all entries, written out.
            loss = loss + 0.7 * (target * (target.log() - logits.log_softmax(1))).mean()
        descent.zero_grad()
        loss.backward()
        descent.step()
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    np.testing.assert_allclose(found.weight, weight[1] - weight[0], rtol=1e-10)
    assert found.bias == pytest.approx(bias[1] - bias[0], rel=1e-10)


def test_fitting_together_is_that_of_two_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    inputs = [torch.from_numpy(rng.standard_normal((20, d))) for d in (5, 3)]
    labels = torch.from_numpy(rng.integers(0, 2, 20))
    layers = [torch.nn.Linear(d, 2).double() for d in (5, 3)]

    def difference(layer: torch.nn.Linear) -> Linear:
        w, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        return Linear(w[1] - w[0], float(b[1] - b[0]))

    begin = iter([difference(layer) for layer in layers])
    monkeypatch.setattr("ucmkd.theory.focusing.linear.start", lambda width, rng: next(begin))
    found = fit_together(
        inputs[0].numpy(), inputs[1].numpy(), labels.numpy().astype(float), rng, steps=30
    )
    parameters = [p for layer in layers for p in layer.parameters()]
    descent = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
    for _ in range(30):
        first, second = (layer(x) for layer, x in zip(layers, inputs, strict=True))
        loss = F.cross_entropy(first, labels) + F.cross_entropy(second, labels)
        loss = loss + F.mse_loss(first, second)
        descent.zero_grad()
        loss.backward()
        descent.step()
    for own, layer in zip(found, layers, strict=True):
        expected = difference(layer)
        np.testing.assert_allclose(own.weight, expected.weight, rtol=1e-9)
        assert own.bias == pytest.approx(expected.bias, rel=1e-9)


def test_sigmoid() -> None:
    assert sigmoid(np.array([0.0, math.log(3), 800.0, -800.0])).tolist() == pytest.approx(
        [0.5, 0.75, 1.0, 0.0]
    )


def test_the_studys_findings_on_few_seeds() -> None:
    """The signs of both parts; the sizes are in the committed table."""
    alone = [increase_shared(seed, 0) for seed in range(8)]
    all_shared = [increase_shared(seed, 10) for seed in range(8)]
    assert alone[0].gamma == 0.0 and all_shared[0].gamma == 1.0
    assert gain(alone).value < -0.5 and gain(all_shared).value > 1.0
    rows = [focus(seed, 10) for seed in range(4)]
    assert rows[0].gamma == 0.5
    assert gain(rows, "general_distilled").value > 1.5
    assert abs(gain(rows, "refitted_distilled").value) < 1.0
    assert np.mean([row.found for row in rows]) > 0.9
    assert all(row.general_teacher < row.teacher - 5 for row in rows)


def test_gain_is_paired() -> None:
    rows = [Shared(k, 0.5, 0.0, 60.0 + k, 61.0 + 3 * k) for k in range(3)]  # gains 1, 3, 5
    assert gain(rows) == pytest.approx((3.0, 2.0 / math.sqrt(3)))
    (line,) = table(rows, [])
    assert (line.no_teacher, line.distilled, line.gain, line.seeds) == (61.0, 64.0, 3.0, 3)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "--seeds", "2", "--steps", "5"]) == 0
    with open(tmp_path / "focusing_gaussian.csv", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 6 + 6 * 4
    picture = tmp_path / "figures" / "focusing_gaussian.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    assert main(["--out", str(tmp_path), "--seeds", "1"]) == 2
    assert "--seeds must be at least 2, got 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (overlapping, {"shared": 11}, "shared must be at most decisive = 10, got 11"),
        (overlapping, {"shared": 0, "teacher_width": 19}, "must hold 20 and 10 channels"),
        (nested, {"shared": 0}, "shared must be at least 1, got 0"),
        (nested, {"shared": 45}, r"width must be at least shared \+ own = 55, got 50"),
    ],
)
def test_bad_input(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(np.ones(60), 5, np.random.default_rng(0), **options)
