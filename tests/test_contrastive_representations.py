"""Signal-to-noise ratio of representations: by hand, without bias, and what it predicts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ucmkd.information.rules import RULES, Evidence, Settings
from ucmkd.theory.contrastive import TwoTokens, draw, prospects, signal_to_noise


def test_by_hand() -> None:
    # Classes {0, 2} and {9, 15}: means 1 and 12, variances 2 and 18, shares ½.
    # Between: (5.5² + 5.5²)/2 - ¼(2 + 18)·... with n_c = 2: Σ π(1-π)T/n_c = ¼·2/2 + ¼·18/2 = 2.5.
    # Within: (2 + 18)/2 = 10. SNR² = (30.25 - 2.5)/10.
    found = signal_to_noise([[0.0], [2.0], [9.0], [15.0]], [3, 3, 8, 8])
    assert found.value == pytest.approx(math.sqrt(2.775))
    assert (found.low, found.high) == (0.0, math.inf)  # two samples say nothing of their spread


def test_shares_and_columns_enter() -> None:
    # Sizes 2 and 3; columns 0 and 1. Means (1, 0), (4, 0); T = 2 and (1 + 0 + 1)/2 + ... = 1 + 3.
    x = [[0.0, 0], [2.0, 0], [3.0, -1], [4.0, 2], [5.0, -1]]
    traces, sizes = (2.0, 1.0 + 3.0), (2, 3)
    means, share = ((1.0, 0.0), (4.0, 0.0)), (0.4, 0.6)
    centre = 0.4 * 1 + 0.6 * 4
    between = sum(p * (m[0] - centre) ** 2 for p, m in zip(share, means, strict=True))
    between -= sum(p * (1 - p) * t / n for p, t, n in zip(share, traces, sizes, strict=True))
    within = 0.4 * 2 + 0.6 * 4
    assert signal_to_noise(x, [0, 0, 1, 1, 1]).value == pytest.approx(math.sqrt(between / within))


def test_without_bias_where_noise_is_wide() -> None:
    """The plain ratio would be off by far more than the truth itself."""
    model = TwoTokens(dimension=400, samples=60, signal=1.5, neurons=1)
    truth, plain, found, covered = model.snr**2, [], [], 0
    for seed in range(60):
        sample = draw(model, seed)
        y = sample.labels.astype(int)
        x = np.concatenate((sample.labels[:, None] * model.signal, sample.noise), axis=1)
        estimate = signal_to_noise(x, y)
        found.append(estimate.value**2)
        covered += estimate.low**2 <= truth * (1 - 1 / 60) <= estimate.high**2
        means = np.stack([x[y == c].mean(axis=0) for c in (-1, 1)])
        plain.append(float(((means[1] - means[0]) ** 2).sum() / 4 / 400))
    assert np.mean(plain) > 3 * truth
    # Unbalanced labels take a share 1/n from 4π(1 - π). Clipping at 0 hardly matters here.
    assert np.mean(found) == pytest.approx(truth * (1 - 1 / 60), abs=3 * np.std(found) / 60**0.5)
    assert covered >= 48


def test_noise_dimension() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 900)
    scale = np.array([3.0, 1.0, 1.0, 0.1])  # (9 + 1 + 1 + .01)²/(81 + 1 + 1)
    x = rng.standard_normal((900, 4)) * scale + 5.0 * rng.standard_normal((3, 4))[y]
    assert signal_to_noise(x, y).noise_dimension == pytest.approx(11.01**2 / 83.0, rel=0.1)


def test_prospects_are_the_products() -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 400)
    side = np.where(y == 1, 1.0, -1.0)[:, None]
    student = np.concatenate((0.5 * side, rng.standard_normal((400, 30))), axis=1)
    teacher = np.concatenate((3.0 * side, rng.standard_normal((400, 50))), axis=1)
    found = prospects(student, teacher, y, samples=80)
    own, other = signal_to_noise(student, y), signal_to_noise(teacher, y)
    assert (found.student, found.teacher) == (own, other)
    assert found.advantage == pytest.approx(other.value / own.value)
    assert found.single_rate == pytest.approx(40 * own.value**2)
    assert found.multi_rate == pytest.approx(40 * own.value * other.value)
    assert found.single_rate < 1 < found.multi_rate


def test_no_signal() -> None:
    x = np.array([[1.0], [-1.0], [2.0], [-2.0]])
    found = prospects(x, np.arange(4.0)[:, None], [0, 0, 1, 1], samples=10)
    assert found.student.value == 0.0
    assert found.advantage == math.inf
    assert found.single_rate == found.multi_rate == 0.0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"labels": [0, 0, 1]}, ValueError, r"labels must have shape \(4,\) like student"),
        ({"labels": [0.0, 0.0, 1.0, 1.0]}, TypeError, "labels must be integers, got float64"),
        ({"labels": [0, 0, 0, 1]}, ValueError, "two samples each, got {0: 3, 1: 1}"),
        ({"labels": [0, 0, 0, 0]}, ValueError, "two classes or more"),
        ({"student": np.zeros(4)}, ValueError, r"student must have shape \(n, d\)"),
        ({"teacher": [[0.0], [1], [np.nan], [2]]}, ValueError, "teacher must be finite"),
        ({"student": np.array([[0.0], [0], [1], [1]])}, ValueError, "vary within the classes"),
        ({"samples": 1}, ValueError, "samples must be at least 2, got 1"),
    ],
)
def test_bad_input(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    given: dict[str, Any] = {
        "student": np.arange(4.0)[:, None], "teacher": np.arange(4.0)[:, None],
        "labels": [0, 0, 1, 1], "samples": 10,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        prospects(**{**given, **changes})


def test_rule_ranks_by_the_ratio() -> None:
    rng = np.random.default_rng(2)
    y = rng.integers(0, 3, 200)
    teacher, student = (size * np.eye(3)[y] + rng.standard_normal((200, 3)) for size in (3.0, 1.0))
    known = np.where(np.arange(200) < 60, y, -1)
    known[0] = 3  # a class of one sample is left out
    found = RULES["snr"].ask(Evidence(teacher, student, known, 4), Settings())
    rows = slice(1, 60)
    expected = [signal_to_noise(side[rows], y[rows]) for side in (teacher, student)]
    assert (found.teacher, found.student) == pytest.approx([side.value for side in expected])
    assert found.margin == pytest.approx(expected[0].value - expected[1].value)
    assert 0 < found.low < found.margin < found.high and not found.decides
    own = RULES["snr"].ask(Evidence(teacher, student, known, 4, own=(teacher, y)), Settings())
    assert own.teacher == pytest.approx(signal_to_noise(teacher, y).value)
    with pytest.raises(ValueError, match=r"two labelled samples each on the teacher's side"):
        few = np.where(np.arange(200) < 2, np.arange(200), -1)
        RULES["snr"].ask(Evidence(teacher, student, few, 2), Settings())


def test_confidence_scales_the_interval() -> None:
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, 100)
    x = 2.0 * y[:, None] + rng.standard_normal((100, 4))
    wide, narrow = (signal_to_noise(x, y, confidence=c) for c in (0.95, 0.5))
    reach = [found.high**2 - found.value**2 for found in (wide, narrow)]
    assert reach[0] / reach[1] == pytest.approx(1.959964 / 0.6744898, rel=1e-5)
    with pytest.raises(ValueError, match=r"confidence must lie in \(0, 1\), got 1.0"):
        signal_to_noise(x, y, confidence=1.0)
