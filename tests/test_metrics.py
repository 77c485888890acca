"""Calibration error, likelihood and macro-F1 against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from ucmkd.metrics import Metrics, classification_metrics, confusion_matrix


def logits_of(*probabilities: float) -> torch.Tensor:
    """Two-class logits whose first class has these probabilities."""
    p = torch.tensor(probabilities, dtype=torch.float64)
    return torch.stack((p.log(), (1 - p).log()), dim=1)


def test_calibration_error_by_hand() -> None:
    # Confidences .92 and .88 share the bin (13/15, 14/15], .6 and .55 are in (8/15, 9/15].
    logits = logits_of(0.92, 0.12, 0.59, 0.55)
    found = classification_metrics(logits, torch.tensor([0, 0, 0, 1]), 2)
    high, low = abs(1 / 2 - 0.90), abs(1 / 2 - 0.57)
    assert found.ece == pytest.approx(0.5 * high + 0.5 * low, abs=1e-6)
    nll = -(math.log(0.92) + math.log(0.12) + math.log(0.59) + math.log(0.45)) / 4
    assert found.loss == pytest.approx(nll)


def test_calibration_error_of_certainty() -> None:
    logits = 1e4 * torch.eye(3)
    assert classification_metrics(logits, torch.arange(3), 3).ece == 0.0
    assert classification_metrics(logits, torch.tensor([0, 1, 1]), 3).ece == pytest.approx(1 / 3)


def test_certainty_has_no_bin_of_its_own() -> None:
    # .94 and 1 share the last of 15 bins: half of them right, |75/100 - (50 + 47)/100| in all.
    logits = logits_of(0.94).repeat(100, 1)
    logits[:50] = torch.tensor([1e3, 0.0], dtype=torch.float64)
    label = torch.tensor([0, 1]).repeat(25)
    label = torch.cat((label, torch.zeros(50).long()))
    found = classification_metrics(logits, label, 2)
    assert found.ece == pytest.approx(0.22, abs=1e-12)
    # The same in float32, where probabilities near 1 are rounded to it.
    near = torch.tensor([[20.0, 0.0]]).repeat(4, 1)
    assert classification_metrics(near, torch.tensor([0, 0, 0, 1]), 2).ece == pytest.approx(0.25)


def test_calibration_error_against_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(500, 4, generator=generator, dtype=torch.float64)
    label = torch.randint(4, (500,), generator=generator)
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    expected = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            right = (predicted == label)[inside].double().mean()
            expected += inside.double().mean() * (right - confidence[inside].mean()).abs()
    assert classification_metrics(logits, label, 4).ece == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (torch.tensor([0, 3]), r"label must lie in 0\.\.2, got values from 0 to 3"),
        (torch.tensor([-1, 0]), r"label must lie in 0\.\.2, got values from -1 to 0"),
        (torch.tensor([0.0, 1.0]), r"label must be \(n,\) int64, got \(2,\) torch.float32"),
        (torch.tensor([[0], [1]]), r"label must be \(n,\) int64, got \(2, 1\)"),
        (torch.tensor([0, 1, 2]), "logits must have shape"),
        (torch.zeros(0).long(), "logits must have shape"),
    ],
)
def test_labels_that_do_not_fit(label: torch.Tensor, message: str) -> None:
    for call in (classification_metrics, confusion_matrix):
        with pytest.raises(ValueError, match=message):
            call(torch.eye(3)[:2], label, 3)


def test_macro_f1_by_hand_without_absent_classes() -> None:
    # Class 0: 2 of 2 predictions right, 2 of 3 found; class 1: 1 of 2, 1 of 1; class 2: absent.
    logits = torch.eye(3)[[0, 0, 1, 1]]
    found = classification_metrics(logits, torch.tensor([0, 0, 0, 1]), 3)
    first, second = 2 * 1 * (2 / 3) / (1 + 2 / 3), 2 * 0.5 * 1 / 1.5
    assert found.macro_f1 == pytest.approx((first + second) / 2)


def test_metrics_of_an_older_file_are_read() -> None:
    found = classification_metrics(torch.eye(3), torch.arange(3), 3)
    stored = found.to_dict()
    assert Metrics.from_dict(stored) == found
    del stored["ece"], stored["macro_f1"]
    old = Metrics.from_dict(stored)
    assert math.isnan(old.ece) and math.isnan(old.macro_f1) and old.accuracy == 1.0
    assert old.to_dict()["ece"] is None
